"""Rates and quotes; the bank's positions in the currencies it exchanges, and what was agreed of each exchange.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

from migrations.beside import extend

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Safe while the bank runs, and to run again after it failed."""
    with op.get_context().autocommit_block():
        op.create_table(
            "fx_rates",
            sa.Column("currency", sa.Text(), nullable=False),
            sa.Column("day", sa.Date(), nullable=False),
            sa.Column("revision", sa.SmallInteger(), autoincrement=False, nullable=False),
            sa.Column("rate", sa.Numeric(precision=20, scale=10), nullable=False),
            sa.Column("source", sa.Text(), nullable=False),
            sa.Column("recorded_by", sa.Uuid(as_uuid=False), nullable=True),
            sa.Column("recorded_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
            sa.CheckConstraint("currency ~ '^[A-Z]{3}$' AND currency <> 'EUR'", name=op.f("ck_fx_rates_currency")),
            sa.CheckConstraint("rate > 0", name=op.f("ck_fx_rates_rate")),
            sa.CheckConstraint("revision >= 0 AND (revision = 0) = (recorded_by IS NULL)", name=op.f("ck_fx_rates_revision")),
            sa.ForeignKeyConstraint(["recorded_by"], ["users.id"], name="fk_fx_rates_recorded_by_users"),
            sa.PrimaryKeyConstraint("currency", "day", "revision", name="pk_fx_rates"),
            if_not_exists=True,
        )
        op.create_index("ix_fx_rates_day", "fx_rates", ["day"], unique=False, if_not_exists=True, postgresql_where=sa.text("revision = 0"))
        # As entries, events and audit rows are.
        op.execute(
            "CREATE OR REPLACE TRIGGER fx_rates_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON fx_rates "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
        op.create_table(
            "fx_quotes",
            sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
            sa.Column("user_id", sa.Uuid(as_uuid=False), nullable=False),
            sa.Column("amount", sa.BigInteger(), nullable=False),
            sa.Column("currency", sa.Text(), nullable=False),
            sa.Column("to_amount", sa.BigInteger(), nullable=False),
            sa.Column("to_currency", sa.Text(), nullable=False),
            sa.Column("rate", sa.Text(), nullable=False),
            sa.Column("mid_rate", sa.Text(), nullable=False),
            sa.Column("spread", sa.Integer(), nullable=False),
            sa.Column("rate_day", sa.Date(), nullable=False),
            sa.Column("remainder", sa.Text(), nullable=False),
            sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
            sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
            sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
            sa.CheckConstraint("amount > 0 AND to_amount > 0", name=op.f("ck_fx_quotes_amount")),
            sa.CheckConstraint("currency <> to_currency", name=op.f("ck_fx_quotes_to_currency")),
            sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_fx_quotes_user_id_users"),
            sa.PrimaryKeyConstraint("id", name="pk_fx_quotes"),
            if_not_exists=True,
        )
        op.create_index(
            "ix_fx_quotes_expires_at",
            "fx_quotes",
            ["expires_at"],
            unique=False,
            if_not_exists=True,
            postgresql_where=sa.text("used_at IS NULL"),
        )
        extend("accounts", {}, {"ck_accounts_kind": "CHECK (kind IN ('customer', 'outside', 'position'))"})
        extend("balances", {"remainder": "numeric NOT NULL DEFAULT '0'"}, {})
        exchange = "(currency = to_currency) = (rate IS NULL) AND (rate IS NULL) = (remainder IS NULL)"
        extend("transactions", {"remainder": "text", "quote_id": "uuid"}, {"ck_transactions_exchange": f"CHECK ({exchange})"})
        extend("schedules", {"to_currency": "text"}, {})


def downgrade() -> None:
    """Raises RuntimeError where money was exchanged, or will be by a schedule: the version before has no positions to book it on."""
    op.execute("LOCK TABLE accounts, balances, transactions, schedules IN ACCESS EXCLUSIVE MODE")
    booked = """SELECT (SELECT count(*) FROM accounts WHERE kind = 'position')
                     + (SELECT count(*) FROM schedules WHERE to_currency IS NOT NULL AND status IN ('active', 'paused'))"""
    if op.get_bind().exec_driver_sql(booked).scalar_one():
        raise RuntimeError("Money was exchanged, or will be by a schedule, and the schema before knows one currency a transaction.")
    op.drop_constraint(op.f("ck_transactions_exchange"), "transactions", type_="check")
    op.drop_column("schedules", "to_currency")
    op.drop_column("transactions", "quote_id")
    op.drop_column("transactions", "remainder")
    op.drop_column("balances", "remainder")
    op.drop_constraint(op.f("ck_accounts_kind"), "accounts", type_="check")
    op.create_check_constraint(op.f("ck_accounts_kind"), "accounts", "kind IN ('customer', 'outside')")
    op.drop_table("fx_quotes")
    op.drop_table("fx_rates")
