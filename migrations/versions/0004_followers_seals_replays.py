"""Followers of the log, its seals, replays of it; the trace of a transaction; balances at a time whatever a day holds.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("transactions", sa.Column("trace_id", sa.Text(), nullable=True))
    # The events of those that are there tell it already, and a row must be as its events say.
    op.execute(
        "UPDATE transactions t SET trace_id = e.trace_id FROM events e "
        "WHERE e.stream_id = t.id AND e.version = 1 AND e.trace_id IS NOT NULL"
    )
    # The amounts are in it now, so that a day's are summed without reading the entries; the version nobody needed.
    op.drop_index("ix_entries_account_id_effective_at", "entries")
    op.create_index(
        "ix_entries_account_id_effective_at", "entries", ["account_id", "effective_at"], unique=False, postgresql_include=["amount"]
    )
    op.create_index(
        "ix_entries_late",
        "entries",
        ["account_id", "posted_at"],
        unique=False,
        postgresql_include=["effective_at", "amount"],
        postgresql_where=sa.text("(posted_at - effective_at > interval '10 seconds')"),
    )
    op.create_table(
        "followers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_followers"),
    )
    op.create_table(
        "blocks",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.Column("header", sa.Text(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("leaves", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("octet_length(secret) = 32", name=op.f("ck_blocks_secret")),
        sa.PrimaryKeyConstraint("number", name="pk_blocks"),
        sa.UniqueConstraint("last", name="uq_blocks_last"),
    )
    # Hashes do not compress, and trying costs.
    op.execute("ALTER TABLE blocks ALTER COLUMN leaves SET STORAGE EXTERNAL")
    op.execute(
        "CREATE TRIGGER blocks_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON blocks "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.create_table(
        "snapshots",
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("recorded_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("position", "code", name="pk_snapshots"),
    )
    op.create_table(
        "replays",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("asked_by", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("until_position", sa.BigInteger(), nullable=True),
        sa.Column("until_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("account_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("from_start", sa.Boolean(), nullable=False),
        sa.Column("status", sa.Text(), server_default="queued", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("started_from", sa.BigInteger(), nullable=True),
        sa.Column("position", sa.BigInteger(), nullable=True),
        sa.Column("end_position", sa.BigInteger(), nullable=True),
        sa.Column("users", sa.BigInteger(), nullable=True),
        sa.Column("submitted", sa.BigInteger(), nullable=True),
        sa.Column("completed", sa.BigInteger(), nullable=True),
        sa.Column("failed", sa.BigInteger(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("heard_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(until_position IS NULL) <> (until_time IS NULL)", name=op.f("ck_replays_until")),
        sa.CheckConstraint("status IN ('queued', 'running', 'finished', 'failed', 'forgotten')", name=op.f("ck_replays_status")),
        sa.ForeignKeyConstraint(["asked_by"], ["users.id"], name="fk_replays_asked_by_users"),
        sa.PrimaryKeyConstraint("id", name="pk_replays"),
    )
    op.create_index("ix_replays_created_at", "replays", ["created_at"], unique=False)
    op.create_index("ix_replays_open", "replays", ["heard_at"], unique=False, postgresql_where=sa.text("status IN ('queued', 'running')"))
    op.create_table(
        "replayed_accounts",
        sa.Column("replay_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("account_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("user_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("overdraft_limit", sa.BigInteger(), nullable=True),
        sa.Column("balance", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["replay_id"], ["replays.id"], name="fk_replayed_accounts_replay_id_replays", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("replay_id", "account_id", name="pk_replayed_accounts"),
    )


def downgrade() -> None:
    for table in ("replayed_accounts", "replays", "snapshots", "blocks", "followers"):
        op.drop_table(table)
    op.drop_index("ix_entries_late", "entries")
    op.drop_index("ix_entries_account_id_effective_at", "entries")
    op.create_index("ix_entries_account_id_effective_at", "entries", ["account_id", "effective_at", "version"], unique=False)
    op.drop_column("transactions", "trace_id")
