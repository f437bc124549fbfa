"""Batches: many transactions that were asked for at once, and an idempotency key that stands for them.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

from migrations.beside import build_index, extend

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Safe while the bank runs, and to run again after it failed."""
    with op.get_context().autocommit_block():
        op.create_table(
            "batches",
            sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
            sa.Column("user_id", sa.Uuid(as_uuid=False), nullable=False),
            sa.Column("mode", sa.Text(), nullable=False),
            sa.Column("items", sa.Integer(), nullable=False),
            sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
            sa.CheckConstraint("mode IN ('atomic', 'independent')", name=op.f("ck_batches_mode")),
            sa.CheckConstraint("items > 0", name=op.f("ck_batches_items")),
            sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_batches_user_id_users"),
            sa.PrimaryKeyConstraint("id", name="pk_batches"),
            if_not_exists=True,
        )
        extend(
            "transactions",
            {"batch_id": "uuid", "batch_index": "integer"},
            {
                "fk_transactions_batch_id_batches": "FOREIGN KEY (batch_id) REFERENCES batches (id)",
                "ck_transactions_batch_index": "CHECK ((batch_id IS NULL) = (batch_index IS NULL))",
            },
        )
        build_index("ix_transactions_batch", "transactions", ["batch_id", "batch_index"], postgresql_where=sa.text("batch_id IS NOT NULL"))
        op.alter_column("idempotency_keys", "transaction_id", nullable=True)
        extend(
            "idempotency_keys",
            {"batch_id": "uuid"},
            {
                "fk_idempotency_keys_batch_id_batches": "FOREIGN KEY (batch_id) REFERENCES batches (id)",
                "ck_idempotency_keys_made": "CHECK ((transaction_id IS NULL) <> (batch_id IS NULL))",
            },
        )


def downgrade() -> None:
    """Raises RuntimeError while a batch waits: the version before would post what is atomic one by one."""
    op.execute("LOCK TABLE idempotency_keys, transactions IN ACCESS EXCLUSIVE MODE")
    waits = "SELECT count(*) FROM transactions WHERE batch_id IS NOT NULL AND status = 'pending'"
    if waiting := op.get_bind().exec_driver_sql(waits).scalar_one():
        raise RuntimeError(f"{waiting} transactions of batches are still pending. Let them be posted first.")
    op.drop_constraint(op.f("ck_idempotency_keys_made"), "idempotency_keys")
    # A key of a batch stands for nothing that the older schema can name.
    op.execute("DELETE FROM idempotency_keys WHERE transaction_id IS NULL")
    op.alter_column("idempotency_keys", "transaction_id", nullable=False)
    op.drop_column("idempotency_keys", "batch_id")
    op.drop_index("ix_transactions_batch", "transactions")
    op.drop_constraint(op.f("ck_transactions_batch_index"), "transactions")
    op.drop_column("transactions", "batch_index")
    op.drop_column("transactions", "batch_id")
    op.drop_table("batches")
