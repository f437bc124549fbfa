"""Limits and rules, what was used of them, and transactions that are held for a review.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

from migrations.beside import build_index, extend

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

HOLD = "expires_at IS NOT NULL OR (captured_amount = 0 AND (held_amount = 0 OR review IS NOT NULL))"
HOLD_BEFORE = "expires_at IS NOT NULL OR (held_amount = 0 AND captured_amount = 0)"


def upgrade() -> None:
    """Safe while the bank runs, and to run again after it failed."""
    with op.get_context().autocommit_block():
        op.create_table(
            "limits",
            sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
            sa.Column("scope", sa.Text(), nullable=False),
            sa.Column("role", sa.Text(), nullable=True),
            sa.Column("user_id", sa.Uuid(as_uuid=False), nullable=True),
            sa.Column("account_id", sa.Uuid(as_uuid=False), nullable=True),
            sa.Column("currency", sa.Text(), nullable=False),
            sa.Column("kind", sa.Text(), nullable=False),
            sa.Column("amount", sa.BigInteger(), nullable=True),
            sa.Column("payments", sa.Integer(), nullable=True),
            sa.Column("span", sa.Text(), nullable=True),
            sa.Column("counterparties", sa.ARRAY(sa.Text()), nullable=True),
            sa.Column("opens_at", sa.SmallInteger(), nullable=True),
            sa.Column("closes_at", sa.SmallInteger(), nullable=True),
            sa.Column("time_zone", sa.Text(), nullable=True),
            sa.Column("version", sa.Integer(), nullable=False),
            sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
            sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
            sa.CheckConstraint(
                "num_nonnulls(role, user_id, account_id) = 1 AND "
                "CASE scope WHEN 'role' THEN role IS NOT NULL WHEN 'user' THEN user_id IS NOT NULL "
                "WHEN 'account' THEN account_id IS NOT NULL ELSE false END",
                name=op.f("ck_limits_scope"),
            ),
            sa.CheckConstraint(
                "CASE kind WHEN 'single' THEN amount > 0 WHEN 'sum' THEN amount > 0 AND span IS NOT NULL "
                "WHEN 'count' THEN payments >= 0 AND span IS NOT NULL WHEN 'minimum_balance' THEN amount >= 0 "
                "WHEN 'counterparties' THEN counterparties IS NOT NULL "
                "WHEN 'hours' THEN num_nonnulls(opens_at, closes_at, time_zone) = 3 AND opens_at <> closes_at ELSE false END",
                name=op.f("ck_limits_kind"),
            ),
            sa.CheckConstraint("span IN ('hour', 'day', 'week', 'month')", name=op.f("ck_limits_span")),
            sa.CheckConstraint("opens_at BETWEEN 0 AND 1439", name=op.f("ck_limits_opens_at")),
            sa.CheckConstraint("closes_at BETWEEN 0 AND 1439", name=op.f("ck_limits_closes_at")),
            sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_limits_user_id_users"),
            sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_limits_account_id_accounts"),
            sa.PrimaryKeyConstraint("id", name="pk_limits"),
            if_not_exists=True,
        )
        for column in ("user_id", "account_id"):
            op.create_index(
                f"ix_limits_{column}",
                "limits",
                [column],
                unique=False,
                if_not_exists=True,
                postgresql_where=sa.text(f"{column} IS NOT NULL"),
            )
        op.create_index(
            "ix_limits_role", "limits", ["role", "currency"], unique=False, if_not_exists=True, postgresql_where=sa.text("role IS NOT NULL")
        )
        op.create_table(
            "rules",
            sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
            sa.Column("name", sa.Text(), nullable=False),
            sa.Column("expression", sa.Text(), nullable=False),
            sa.Column("effect", sa.Text(), nullable=False),
            sa.Column("enabled", sa.Boolean(), nullable=False),
            sa.Column("version", sa.Integer(), nullable=False),
            sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
            sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
            sa.CheckConstraint("effect IN ('deny', 'review', 'flag')", name=op.f("ck_rules_effect")),
            sa.PrimaryKeyConstraint("id", name="pk_rules"),
            if_not_exists=True,
        )
        op.create_table(
            "usages",
            sa.Column("account_id", sa.Uuid(as_uuid=False), nullable=False),
            sa.Column("span", sa.Text(), nullable=False),
            sa.Column("first_version", sa.BigInteger(), nullable=False),
            sa.Column("last_version", sa.BigInteger(), nullable=False),
            sa.Column("amount", sa.BigInteger(), nullable=False),
            sa.Column("count", sa.Integer(), nullable=False),
            sa.PrimaryKeyConstraint("account_id", "span", name="pk_usages"),
            if_not_exists=True,
        )
        extend(
            "transactions",
            {"review": "text"},
            {"ck_transactions_review": "CHECK (review IN ('open', 'approved', 'rejected'))", "ck_transactions_hold": f"CHECK ({HOLD})"},
        )
        build_index("ix_transactions_review", "transactions", ["review", "seq"], postgresql_where=sa.text("review IS NOT NULL"))


def downgrade() -> None:
    op.drop_index("ix_transactions_review", "transactions")
    op.drop_constraint(op.f("ck_transactions_hold"), "transactions", type_="check")
    op.drop_constraint(op.f("ck_transactions_review"), "transactions", type_="check")
    # The older schema has no name for what waits for a review and was not asked to be held: it refuses, until each is decided.
    op.create_check_constraint(op.f("ck_transactions_hold"), "transactions", HOLD_BEFORE)
    op.drop_column("transactions", "review")
    for table in ("usages", "rules", "limits"):
        op.drop_table(table)
