"""Batches: many transactions that were asked for at once, and an idempotency key that stands for them.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
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
    )
    op.add_column("transactions", sa.Column("batch_id", sa.Uuid(as_uuid=False), nullable=True))
    op.add_column("transactions", sa.Column("batch_index", sa.Integer(), nullable=True))
    op.create_foreign_key("fk_transactions_batch_id_batches", "transactions", "batches", ["batch_id"], ["id"])
    op.create_check_constraint(op.f("ck_transactions_batch_index"), "transactions", "(batch_id IS NULL) = (batch_index IS NULL)")
    op.create_index(
        "ix_transactions_batch",
        "transactions",
        ["batch_id", "batch_index"],
        unique=False,
        postgresql_where=sa.text("batch_id IS NOT NULL"),
    )
    op.add_column("idempotency_keys", sa.Column("batch_id", sa.Uuid(as_uuid=False), nullable=True))
    op.create_foreign_key("fk_idempotency_keys_batch_id_batches", "idempotency_keys", "batches", ["batch_id"], ["id"])
    op.alter_column("idempotency_keys", "transaction_id", nullable=True)
    op.create_check_constraint(op.f("ck_idempotency_keys_made"), "idempotency_keys", "(transaction_id IS NULL) <> (batch_id IS NULL)")


def downgrade() -> None:
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
