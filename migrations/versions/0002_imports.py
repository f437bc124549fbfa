"""Imports of files, and what became of their lines.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "imports",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("options", sa.LargeBinary(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("owner_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("continues_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("lines_done", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["continues_id"], ["imports.id"], name="fk_imports_continues_id_imports"),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name="fk_imports_owner_id_users"),
        sa.PrimaryKeyConstraint("id", name="pk_imports"),
        sa.UniqueConstraint("content", "options", name="uq_imports_content_options"),
    )
    op.create_index("ix_imports_options", "imports", ["options", "size"], unique=False)
    op.create_index(
        "ix_imports_continues_id", "imports", ["continues_id"], unique=False, postgresql_where=sa.text("continues_id IS NOT NULL")
    )
    op.create_table(
        "import_accounts",
        sa.Column("owner_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_import_accounts_account_id_accounts"),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name="fk_import_accounts_owner_id_users"),
        sa.PrimaryKeyConstraint("owner_id", "name", name="pk_import_accounts"),
        sa.UniqueConstraint("account_id", name="uq_import_accounts_account_id"),
    )
    op.create_table(
        "import_lines",
        sa.Column("import_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("reference", sa.Text(), nullable=True),
        sa.Column("transaction_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.CheckConstraint("outcome IN ('submitted', 'known', 'refused')", name=op.f("ck_import_lines_outcome")),
        sa.CheckConstraint("(outcome = 'refused') = (reason IS NOT NULL)", name=op.f("ck_import_lines_reason")),
        sa.CheckConstraint("outcome = 'refused' OR transaction_id IS NOT NULL", name=op.f("ck_import_lines_transaction_id")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_import_lines_account_id_accounts"),
        sa.ForeignKeyConstraint(["import_id"], ["imports.id"], name="fk_import_lines_import_id_imports"),
        sa.ForeignKeyConstraint(["transaction_id"], ["transactions.id"], name="fk_import_lines_transaction_id_transactions"),
        sa.PrimaryKeyConstraint("import_id", "line", name="pk_import_lines"),
    )
    op.create_index(
        "uq_import_lines_reference",
        "import_lines",
        ["account_id", "reference"],
        unique=True,
        postgresql_where=sa.text("outcome = 'submitted' AND reference IS NOT NULL"),
    )
    op.create_index(
        "uq_import_lines_transaction_id",
        "import_lines",
        ["transaction_id", "import_id"],
        unique=True,
        postgresql_where=sa.text("transaction_id IS NOT NULL"),
    )
    op.create_index(
        "ix_import_lines_refused", "import_lines", ["import_id", "line"], unique=False, postgresql_where=sa.text("outcome = 'refused'")
    )


def downgrade() -> None:
    for table in ("import_lines", "import_accounts", "imports"):
        op.drop_table(table)
