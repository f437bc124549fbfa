"""Holds: what is reserved and not moved, until when, and who takes it or lets it go.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

from migrations.beside import build_index, extend

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
    # A worker of the version before takes both for transfers, and would move the money.
    "hold_moves_nothing": "status <> 'completed' OR (voids_id IS NULL AND (expires_at IS NULL OR captured_amount > 0))",
}


def upgrade() -> None:
    """Safe while the bank runs, and to run again after it failed."""
    columns = {
        "expires_at": "timestamptz",
        "held_amount": "bigint NOT NULL DEFAULT '0'",
        "captured_amount": "bigint NOT NULL DEFAULT '0'",
        "captures_id": "uuid",
        "voids_id": "uuid",
    }
    keys = {
        f"fk_transactions_{column}_transactions": f"FOREIGN KEY ({column}) REFERENCES transactions (id)"
        for column in ("captures_id", "voids_id")
    }
    with op.get_context().autocommit_block():
        extend("transactions", columns, keys | {f"ck_transactions_{name}": f"CHECK ({condition})" for name, condition in CHECKS.items()})
        # By `held_amount` and not by `status`, which every posting changes: see the model.
        build_index("ix_transactions_held", "transactions", ["from_account_id"], postgresql_where=sa.text("held_amount > 0"))
        build_index("ix_transactions_expiring", "transactions", ["expires_at"], postgresql_where=sa.text("held_amount > 0"))
        build_index(
            "ix_transactions_hold",
            "transactions",
            [sa.literal_column("COALESCE(captures_id, voids_id)"), "seq"],
            postgresql_where=sa.text("captures_id IS NOT NULL OR voids_id IS NOT NULL"),
        )
        extend("replayed_accounts", {"held": "bigint NOT NULL DEFAULT '0'"}, {})
        extend("replays", {"open_holds": "bigint", "voided": "bigint"}, {})


# What the version before would take for a transfer, or could never give back.
OPEN = """
    SELECT count(*) FROM transactions
     WHERE held_amount > 0
        OR (status = 'pending' AND (expires_at IS NOT NULL OR captures_id IS NOT NULL OR voids_id IS NOT NULL))
"""


def downgrade() -> None:
    """Raises RuntimeError while a hold is open, or a request about one waits."""
    op.execute("LOCK TABLE transactions IN ACCESS EXCLUSIVE MODE")
    if left := op.get_bind().exec_driver_sql(OPEN).scalar_one():
        raise RuntimeError(f"{left} holds, or captures and voids of these, are still open. Let them be taken or let go first.")
    # A hold that was captured moved nothing itself; the version before would let it be rolled back all the same.
    op.execute("UPDATE transactions SET status = 'voided' WHERE expires_at IS NOT NULL AND status = 'completed'")
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
