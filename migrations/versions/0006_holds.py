"""Holds: what is reserved and not moved, until when, and who takes it or lets it go.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

CHECKS = {
    "hold_parts": "held_amount >= 0 AND captured_amount >= 0 AND held_amount + captured_amount <= amount",
    "held": "(status = 'held') = (held_amount > 0)",
    "hold": "expires_at IS NOT NULL OR (held_amount = 0 AND captured_amount = 0)",
    "hold_requests": "(expires_at IS NOT NULL)::int + (captures_id IS NOT NULL)::int + (voids_id IS NOT NULL)::int <= "
    "CASE type WHEN 'transfer' THEN 1 ELSE 0 END",
}


def upgrade() -> None:
    op.add_column("transactions", sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("transactions", sa.Column("held_amount", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("transactions", sa.Column("captured_amount", sa.BigInteger(), server_default="0", nullable=False))
    for column in ("captures_id", "voids_id"):
        op.add_column("transactions", sa.Column(column, sa.Uuid(as_uuid=False), nullable=True))
        op.create_foreign_key(f"fk_transactions_{column}_transactions", "transactions", "transactions", [column], ["id"])
    for name, condition in CHECKS.items():
        op.create_check_constraint(op.f(f"ck_transactions_{name}"), "transactions", condition)
    # By `held_amount` and not by `status`, which every posting changes: see the model.
    op.create_index("ix_transactions_held", "transactions", ["from_account_id"], unique=False, postgresql_where=sa.text("held_amount > 0"))
    op.create_index("ix_transactions_expiring", "transactions", ["expires_at"], unique=False, postgresql_where=sa.text("held_amount > 0"))
    op.create_index(
        "ix_transactions_hold",
        "transactions",
        [sa.literal_column("COALESCE(captures_id, voids_id)"), "seq"],
        unique=False,
        postgresql_where=sa.text("captures_id IS NOT NULL OR voids_id IS NOT NULL"),
    )
    op.add_column("replayed_accounts", sa.Column("held", sa.BigInteger(), server_default="0", nullable=False))
    for column in ("open_holds", "voided"):
        op.add_column("replays", sa.Column(column, sa.BigInteger(), nullable=True))


def downgrade() -> None:
    for column in ("voided", "open_holds"):
        op.drop_column("replays", column)
    op.drop_column("replayed_accounts", "held")
    for index in ("ix_transactions_hold", "ix_transactions_expiring", "ix_transactions_held"):
        op.drop_index(index, "transactions")
    for name in CHECKS:
        op.drop_constraint(op.f(f"ck_transactions_{name}"), "transactions", type_="check")
    for column in ("voids_id", "captures_id"):
        op.drop_constraint(f"fk_transactions_{column}_transactions", "transactions", type_="foreignkey")
    for column in ("voids_id", "captures_id", "captured_amount", "held_amount", "expires_at"):
        op.drop_column("transactions", column)
