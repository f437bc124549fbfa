"""Second factors with their recovery codes, and logins by age.

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

from migrations.beside import build_index

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Safe while the bank runs, and to run again after it failed."""
    with op.get_context().autocommit_block():
        op.create_table(
            "second_factors",
            sa.Column("user_id", sa.Uuid(as_uuid=False), nullable=False),
            sa.Column("secret", sa.LargeBinary(), nullable=False),
            sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
            sa.Column("confirmed_at", sa.DateTime(timezone=True), nullable=True),
            sa.Column("last_step", sa.BigInteger(), nullable=True),
            sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_second_factors_user_id_users"),
            sa.PrimaryKeyConstraint("user_id", name="pk_second_factors"),
            if_not_exists=True,
        )
        op.create_table(
            "recovery_codes",
            sa.Column("user_id", sa.Uuid(as_uuid=False), nullable=False),
            sa.Column("digest", sa.Text(), nullable=False),
            sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_recovery_codes_user_id_users"),
            sa.PrimaryKeyConstraint("user_id", "digest", name="pk_recovery_codes"),
            if_not_exists=True,
        )
        build_index("ix_logins_refreshed_at", "logins", ["refreshed_at"])


def downgrade() -> None:
    op.drop_index("ix_logins_refreshed_at", "logins")
    # Whoever has a second factor logs in without it again.
    for table in ("recovery_codes", "second_factors"):
        op.drop_table(table)
