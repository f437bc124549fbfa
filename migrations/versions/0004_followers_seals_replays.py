"""Followers of the log, its seals, replays of it; the trace of a transaction; balances at a time whatever a day holds.

Revision ID: 0004
Revises: 0003
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


# So many positions of the log a slice; each takes a few hundredths of a second.
SLICE = 2_000

# Locked in the order in which they were accepted. What is there already, a run before this one filled in.
BACKFILL = """
WITH slice AS (
    SELECT t.id, e.trace_id FROM transactions t JOIN events e ON e.position = t.seq AND e.stream_id = t.id
     WHERE t.seq BETWEEN %(first)s AND %(last)s AND e.position BETWEEN %(first)s AND %(last)s
       AND e.trace_id IS NOT NULL AND t.trace_id IS NULL
     ORDER BY t.seq FOR NO KEY UPDATE OF t
)
UPDATE transactions t SET trace_id = slice.trace_id FROM slice WHERE t.id = slice.id
"""


def upgrade() -> None:
    """Safe while the bank runs, and to run again after it failed.

    Tables that are written to all the time are locked only for what takes no time: what takes long is done in autocommit,
    and the migration's own transactions are short.
    """
    if not sa.inspect(op.get_bind()).has_table("followers"):
        create_tables()
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE transactions ADD COLUMN IF NOT EXISTS trace_id text")
        fill_in_traces()
        # The amounts are in it now, so that a day's are summed without reading the entries; the version nobody needed.
        build_index("ix_entries_account_id_effective_at", ["account_id", "effective_at"], postgresql_include=["amount"])
        build_index(
            "ix_entries_late",
            ["account_id", "posted_at"],
            postgresql_include=["effective_at", "amount"],
            postgresql_where=sa.text("(posted_at - effective_at > interval '10 seconds')"),
        )
    put_in_place("ix_entries_account_id_effective_at")
    put_in_place("ix_entries_late")


def fill_in_traces() -> None:
    """Give the transactions that are there the trace that their events tell already: a row must be as its events say."""
    connection = op.get_bind()
    newest = connection.exec_driver_sql("SELECT COALESCE(max(seq), 0) FROM transactions").scalar_one()
    for first in range(1, newest + 1, SLICE):
        connection.exec_driver_sql(BACKFILL, {"first": first, "last": first + SLICE - 1})


def build_index(name: str, columns: list[str], **options: Any) -> None:
    """Build an index of `entries` beside the one that bears its name, without keeping anybody from posting."""
    # What a run that failed left behind may be invalid. Nobody waits behind such a build while it waits for others.
    op.execute("SET lock_timeout = 0")
    op.drop_index(f"{name}_new", "entries", if_exists=True, postgresql_concurrently=True)
    op.create_index(f"{name}_new", "entries", columns, unique=False, postgresql_concurrently=True, **options)
    op.execute("SET lock_timeout = '5s'")


def put_in_place(name: str) -> None:
    """Let the index that was built take its name, from the one that has it until now."""
    op.drop_index(name, "entries", if_exists=True)
    op.execute(f"ALTER INDEX {name}_new RENAME TO {name}")


def create_tables() -> None:
    """All at once or none."""
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
    with op.get_context().autocommit_block():
        build_index("ix_entries_account_id_effective_at", ["account_id", "effective_at", "version"])
    put_in_place("ix_entries_account_id_effective_at")
    op.drop_index("ix_entries_late", "entries")
    op.drop_column("transactions", "trace_id")
    for table in ("replayed_accounts", "replays", "snapshots", "blocks", "followers"):
        op.drop_table(table)
