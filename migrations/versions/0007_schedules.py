"""Schedules and their runs, which transactions are a schedule's, and keys of requests that make one.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

from migrations.beside import build_index, extend

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Safe while the bank runs, and to run again after it failed."""
    with op.get_context().autocommit_block():
        op.create_table(
            "schedules",
            sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
            sa.Column("status", sa.Text(), nullable=False),
            sa.Column("created_by", sa.Uuid(as_uuid=False), nullable=False),
            sa.Column("name", sa.Text(), nullable=True),
            sa.Column("from_user_id", sa.Uuid(as_uuid=False), nullable=False),
            sa.Column("to_user_id", sa.Uuid(as_uuid=False), nullable=False),
            sa.Column("from_account_id", sa.Uuid(as_uuid=False), nullable=False),
            sa.Column("to_account_id", sa.Uuid(as_uuid=False), nullable=False),
            sa.Column("amount", sa.BigInteger(), nullable=False),
            sa.Column("currency", sa.Text(), nullable=False),
            sa.Column("description", sa.Text(), nullable=True),
            sa.Column("reference", sa.Text(), nullable=True),
            sa.Column("metadata", sa.JSON(), nullable=True),
            sa.Column("run_at", sa.DateTime(timezone=True), nullable=True),
            sa.Column("rrule", sa.Text(), nullable=True),
            sa.Column("time_zone", sa.Text(), nullable=True),
            sa.Column("starts_at", sa.DateTime(timezone=True), nullable=True),
            sa.Column("month_end", sa.Text(), nullable=True),
            sa.Column("ends_at", sa.DateTime(timezone=True), nullable=True),
            sa.Column("misfire", sa.Text(), nullable=False),
            sa.Column("retry_attempts", sa.SmallInteger(), nullable=False),
            sa.Column("retry_delay_seconds", sa.Integer(), nullable=False),
            sa.Column("next_run_at", sa.DateTime(timezone=True), nullable=True),
            sa.Column("version", sa.Integer(), nullable=False),
            sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
            sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
            sa.CheckConstraint("status IN ('active', 'paused', 'finished', 'deleted')", name=op.f("ck_schedules_status")),
            sa.CheckConstraint("amount > 0", name=op.f("ck_schedules_amount")),
            sa.CheckConstraint("(run_at IS NULL) <> (rrule IS NULL)", name=op.f("ck_schedules_run_at")),
            sa.CheckConstraint("num_nulls(rrule, time_zone, starts_at, month_end) IN (0, 4)", name=op.f("ck_schedules_rrule")),
            sa.CheckConstraint("month_end IN ('last_day', 'skip')", name=op.f("ck_schedules_month_end")),
            sa.CheckConstraint("misfire IN ('catch_up', 'skip')", name=op.f("ck_schedules_misfire")),
            sa.CheckConstraint("retry_attempts BETWEEN 1 AND 5", name=op.f("ck_schedules_retry_attempts")),
            sa.CheckConstraint("retry_delay_seconds > 0", name=op.f("ck_schedules_retry_delay_seconds")),
            sa.CheckConstraint("(status = 'active') = (next_run_at IS NOT NULL)", name=op.f("ck_schedules_next_run_at")),
            sa.ForeignKeyConstraint(["created_by"], ["users.id"], name="fk_schedules_created_by_users"),
            sa.ForeignKeyConstraint(["from_user_id"], ["users.id"], name="fk_schedules_from_user_id_users"),
            sa.ForeignKeyConstraint(["to_user_id"], ["users.id"], name="fk_schedules_to_user_id_users"),
            sa.ForeignKeyConstraint(["from_account_id"], ["accounts.id"], name="fk_schedules_from_account_id_accounts"),
            sa.ForeignKeyConstraint(["to_account_id"], ["accounts.id"], name="fk_schedules_to_account_id_accounts"),
            sa.PrimaryKeyConstraint("id", name="pk_schedules"),
            if_not_exists=True,
        )
        op.create_index(
            "ix_schedules_next_run_at",
            "schedules",
            ["next_run_at"],
            unique=False,
            if_not_exists=True,
            postgresql_where=sa.text("next_run_at IS NOT NULL"),
        )
        op.create_index("ix_schedules_from_user_id", "schedules", ["from_user_id", "id"], unique=False, if_not_exists=True)
        op.create_index("ix_schedules_status", "schedules", ["status", "id"], unique=False, if_not_exists=True)
        op.create_table(
            "schedule_runs",
            sa.Column("schedule_id", sa.Uuid(as_uuid=False), nullable=False),
            sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
            sa.Column("attempts", sa.SmallInteger(), nullable=False),
            sa.Column("transaction_id", sa.Uuid(as_uuid=False), nullable=True),
            sa.Column("failure_code", sa.Text(), nullable=True),
            sa.Column("look_at", sa.DateTime(timezone=True), nullable=True),
            sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
            sa.CheckConstraint("attempts BETWEEN 0 AND 5", name=op.f("ck_schedule_runs_attempts")),
            sa.CheckConstraint(
                "num_nonnulls(transaction_id, failure_code) = CASE attempts WHEN 0 THEN 0 ELSE 1 END", name=op.f("ck_schedule_runs_outcome")
            ),
            sa.ForeignKeyConstraint(["schedule_id"], ["schedules.id"], name="fk_schedule_runs_schedule_id_schedules"),
            sa.ForeignKeyConstraint(["transaction_id"], ["transactions.id"], name="fk_schedule_runs_transaction_id_transactions"),
            sa.PrimaryKeyConstraint("schedule_id", "due_at", name="pk_schedule_runs"),
            if_not_exists=True,
        )
        op.create_index(
            "ix_schedule_runs_look_at",
            "schedule_runs",
            ["look_at"],
            unique=False,
            if_not_exists=True,
            postgresql_where=sa.text("look_at IS NOT NULL"),
        )
        op.create_index(
            "ix_schedule_runs_transaction_id",
            "schedule_runs",
            ["transaction_id"],
            unique=False,
            if_not_exists=True,
            postgresql_where=sa.text("transaction_id IS NOT NULL"),
        )
        extend(
            "transactions",
            {"schedule_id": "uuid"},
            {"fk_transactions_schedule_id_schedules": "FOREIGN KEY (schedule_id) REFERENCES schedules (id)"},
        )
        build_index(
            "ix_transactions_schedule_id", "transactions", ["schedule_id", "seq"], postgresql_where=sa.text("schedule_id IS NOT NULL")
        )
        extend(
            "idempotency_keys",
            {"schedule_id": "uuid"},
            {
                "fk_idempotency_keys_schedule_id_schedules": "FOREIGN KEY (schedule_id) REFERENCES schedules (id)",
                "ck_idempotency_keys_made": "CHECK (num_nonnulls(transaction_id, batch_id, schedule_id) = 1)",
            },
        )


def downgrade() -> None:
    # A key that comes again then makes its schedule again; the older schema has no place for it.
    op.drop_constraint(op.f("ck_idempotency_keys_made"), "idempotency_keys")
    op.execute("DELETE FROM idempotency_keys WHERE schedule_id IS NOT NULL")
    op.drop_column("idempotency_keys", "schedule_id")
    op.create_check_constraint(op.f("ck_idempotency_keys_made"), "idempotency_keys", "(transaction_id IS NULL) <> (batch_id IS NULL)")
    op.drop_index("ix_transactions_schedule_id", "transactions")
    op.drop_constraint("fk_transactions_schedule_id_schedules", "transactions")
    op.drop_column("transactions", "schedule_id")
    op.drop_table("schedule_runs")
    op.drop_table("schedules")
