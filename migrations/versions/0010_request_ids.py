"""Transactions are found by the request that asked for them.

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

from migrations.beside import build_index

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Safe while the bank runs, and to run again after it failed."""
    with op.get_context().autocommit_block():
        build_index("ix_transactions_request_id", "transactions", ["request_id", "seq"], postgresql_where=sa.text("request_id IS NOT NULL"))


def downgrade() -> None:
    op.drop_index("ix_transactions_request_id", "transactions")
