"""The first schema: users, accounts, transactions, entries, events, audit.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Entries, events and audit rows are written once. The database itself refuses to change them,
# whoever asks.
APPEND_ONLY = ("entries", "events", "audit_logs")

REFUSE_CHANGE = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
END
$$
"""

# What one statement inserts must sum to zero for each transaction and currency, and must belong to
# transactions and accounts that are there. Once a statement and not once a row: a batch of hundreds
# pays for one look.
CHECK_ENTRIES = """
CREATE FUNCTION check_entries() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wrong uuid;
BEGIN
    SELECT transaction_id INTO wrong FROM posted
     GROUP BY transaction_id, currency HAVING sum(amount) <> 0 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the entries of transaction % do not sum to zero', wrong USING ERRCODE = 'check_violation';
    END IF;
    SELECT transaction_id INTO wrong FROM posted
     WHERE NOT EXISTS (SELECT FROM transactions t WHERE t.id = transaction_id) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'there is no transaction %', wrong USING ERRCODE = 'foreign_key_violation';
    END IF;
    SELECT account_id INTO wrong FROM posted
     WHERE NOT EXISTS (SELECT FROM accounts a WHERE a.id = account_id AND a.currency = posted.currency) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'there is no account % in that currency', wrong USING ERRCODE = 'foreign_key_violation';
    END IF;
    RETURN NULL;
END
$$
"""


def upgrade() -> None:
    op.create_table(
        "audit_logs",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("entity_type", sa.Text(), nullable=False),
        sa.Column("entity_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("actor_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_logs"),
    )
    op.create_index("ix_audit_logs_actor_id", "audit_logs", ["actor_id", "id"], unique=False)
    op.create_index("ix_audit_logs_entity", "audit_logs", ["entity_type", "entity_id", "id"], unique=False)

    op.create_table(
        "events",
        sa.Column("position", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("stream_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("schema", sa.SmallInteger(), server_default="1", nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("actor_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("trace_id", sa.Text(), nullable=True),
        sa.Column("recorded_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_events"),
        sa.UniqueConstraint("stream_id", "version", name="uq_events_stream_id_version"),
    )
    op.create_table(
        "lanes",
        sa.Column("lane", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("position", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("candidate", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("candidate_xid", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("lane", name="pk_lanes"),
    )
    op.create_table(
        "login_failures",
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("counted_since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_failed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("subject", name="pk_login_failures"),
    )
    op.create_index("ix_login_failures_counted_since", "login_failures", ["counted_since"], unique=False)

    op.create_table(
        "users",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("username", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=True),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("role IN ('customer', 'teller', 'auditor', 'admin')", name=op.f("ck_users_role")),
        sa.CheckConstraint("status IN ('active', 'frozen', 'deleted')", name=op.f("ck_users_status")),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
    )
    op.create_index("ix_users_not_active", "users", ["status", "id"], unique=False, postgresql_where=sa.text("status <> 'active'"))
    op.create_index("ix_users_role", "users", ["role", "id"], unique=False)
    op.create_index("uq_users_email", "users", [sa.literal_column("lower(email) text_pattern_ops")], unique=True)
    op.create_index("uq_users_username", "users", [sa.literal_column("lower(username) text_pattern_ops")], unique=True)

    op.create_table(
        "accounts",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("user_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("is_default", sa.Boolean(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("(kind = 'customer') = (user_id IS NOT NULL)", name=op.f("ck_accounts_owner")),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("ck_accounts_currency")),
        sa.CheckConstraint("kind IN ('customer', 'outside')", name=op.f("ck_accounts_kind")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_accounts_user_id_users"),
        sa.PrimaryKeyConstraint("id", name="pk_accounts"),
    )
    op.create_index("ix_accounts_user_id_id", "accounts", ["user_id", "id"], unique=False)
    op.create_index("uq_accounts_default", "accounts", ["user_id", "currency"], unique=True, postgresql_where=sa.text("is_default"))

    op.create_table(
        "logins",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("user_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("refresh_jti", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("refreshed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_reason", sa.Text(), nullable=True),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("user_agent", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_logins_user_id_users"),
        sa.PrimaryKeyConstraint("id", name="pk_logins"),
    )
    op.create_index("ix_logins_user_id", "logins", ["user_id", "address"], unique=False)

    op.create_table(
        "balances",
        sa.Column("account_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("user_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("held", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("overdraft_limit", sa.BigInteger(), nullable=True),
        sa.Column("status", sa.Text(), server_default="active", nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("last_updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("status <> 'closed' OR (amount = 0 AND held = 0)", name=op.f("ck_balances_closed_is_empty")),
        sa.CheckConstraint("status IN ('active', 'frozen', 'closed')", name=op.f("ck_balances_status")),
        sa.CheckConstraint("amount - held >= -overdraft_limit", name=op.f("ck_balances_not_under_limit")),
        sa.CheckConstraint("held >= 0", name=op.f("ck_balances_held")),
        sa.CheckConstraint("overdraft_limit >= 0", name=op.f("ck_balances_overdraft_limit")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="fk_balances_account_id_accounts"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_balances_user_id_users"),
        sa.PrimaryKeyConstraint("account_id", name="pk_balances"),
    )
    op.create_index("ix_balances_user_id", "balances", ["user_id", "account_id"], unique=False)

    op.create_table(
        "daily_balances",
        sa.Column("account_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("closing", sa.Numeric(38, 0), nullable=False),
        sa.Column("credits", sa.Numeric(38, 0), nullable=False),
        sa.Column("debits", sa.Numeric(38, 0), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "day", name="pk_daily_balances"),
    )
    op.create_table(
        "transactions",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("lane", sa.SmallInteger(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("from_user_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("to_user_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("from_account_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("to_account_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("to_amount", sa.BigInteger(), nullable=False),
        sa.Column("to_currency", sa.Text(), nullable=False),
        sa.Column("rate", sa.Text(), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("reference", sa.Text(), nullable=True),
        sa.Column("metadata", sa.JSON(), nullable=True),
        sa.Column("failure_code", sa.Text(), nullable=True),
        sa.Column("reverses_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("rolled_back_amount", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("actor_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("awaited", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("effective_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(status = 'failed') = (failure_code IS NOT NULL)", name=op.f("ck_transactions_failure_code")),
        sa.CheckConstraint("(type = 'rollback') = (reverses_id IS NOT NULL)", name=op.f("ck_transactions_reverses_id")),
        sa.CheckConstraint(
            "status IN ('pending', 'held', 'completed', 'failed', 'rolled_back', 'voided')", name=op.f("ck_transactions_status")
        ),
        sa.CheckConstraint("type IN ('credit', 'debit', 'transfer', 'rollback')", name=op.f("ck_transactions_type")),
        sa.CheckConstraint("amount > 0 AND to_amount > 0", name=op.f("ck_transactions_amount")),
        sa.CheckConstraint("rolled_back_amount BETWEEN 0 AND amount", name=op.f("ck_transactions_rolled_back_amount")),
        sa.ForeignKeyConstraint(["actor_id"], ["users.id"], name="fk_transactions_actor_id_users"),
        sa.ForeignKeyConstraint(["from_account_id"], ["accounts.id"], name="fk_transactions_from_account_id_accounts"),
        sa.ForeignKeyConstraint(["from_user_id"], ["users.id"], name="fk_transactions_from_user_id_users"),
        sa.ForeignKeyConstraint(["reverses_id"], ["transactions.id"], name="fk_transactions_reverses_id_transactions"),
        sa.ForeignKeyConstraint(["to_account_id"], ["accounts.id"], name="fk_transactions_to_account_id_accounts"),
        sa.ForeignKeyConstraint(["to_user_id"], ["users.id"], name="fk_transactions_to_user_id_users"),
        sa.PrimaryKeyConstraint("id", name="pk_transactions"),
        sa.UniqueConstraint("seq", name="uq_transactions_seq"),
    )
    op.create_index("ix_transactions_from_account_id_seq", "transactions", ["from_account_id", "seq"], unique=False)
    op.create_index("ix_transactions_from_user_id_seq", "transactions", ["from_user_id", "seq"], unique=False)
    op.create_index("ix_transactions_to_user_id_seq", "transactions", ["to_user_id", "seq"], unique=False)
    op.create_index("ix_transactions_lane_seq", "transactions", ["lane", "seq"], unique=False)
    op.create_index(
        "ix_transactions_reference", "transactions", ["reference", "seq"], unique=False, postgresql_where=sa.text("reference IS NOT NULL")
    )
    op.create_index(
        "ix_transactions_reverses_id", "transactions", ["reverses_id"], unique=False, postgresql_where=sa.text("reverses_id IS NOT NULL")
    )
    op.create_index("ix_transactions_to_account_id_seq", "transactions", ["to_account_id", "seq"], unique=False)

    op.create_table(
        "entries",
        sa.Column("account_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("transaction_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("balance", sa.BigInteger(), nullable=False),
        sa.Column("effective_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("posted_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("amount <> 0", name=op.f("ck_entries_amount")),
        sa.CheckConstraint("effective_at <= posted_at", name=op.f("ck_entries_effective_at")),
        sa.PrimaryKeyConstraint("account_id", "version", name="pk_entries"),
    )
    op.create_index("ix_entries_account_id_effective_at", "entries", ["account_id", "effective_at", "version"], unique=False)
    op.create_index("ix_entries_transaction_id", "entries", ["transaction_id"], unique=False)

    op.create_table(
        "idempotency_keys",
        sa.Column("user_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("transaction_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("response_status", sa.SmallInteger(), nullable=True),
        sa.Column("response_body", sa.LargeBinary(), nullable=True),
        sa.Column("answer_by", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["transaction_id"], ["transactions.id"], name="fk_idempotency_keys_transaction_id_transactions"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_idempotency_keys_user_id_users"),
        sa.PrimaryKeyConstraint("user_id", "route", "key", name="pk_idempotency_keys"),
    )
    # Rows that are updated after they were written, and have no index on what changes, stay on their
    # page when it has room (HOT).
    op.execute("ALTER TABLE transactions SET (fillfactor = 45)")
    op.execute("ALTER TABLE balances SET (fillfactor = 45)")
    op.execute("ALTER TABLE daily_balances SET (fillfactor = 60)")
    op.execute("ALTER TABLE lanes SET (fillfactor = 10)")
    op.execute(REFUSE_CHANGE)
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    op.execute(CHECK_ENTRIES)
    op.execute(
        "CREATE TRIGGER check_entries AFTER INSERT ON entries REFERENCING NEW TABLE AS posted "
        "FOR EACH STATEMENT EXECUTE FUNCTION check_entries()"
    )


def downgrade() -> None:
    for table in (
        "idempotency_keys",
        "entries",
        "transactions",
        "daily_balances",
        "balances",
        "logins",
        "accounts",
        "users",
        "login_failures",
        "lanes",
        "events",
        "audit_logs",
    ):
        op.drop_table(table)
    op.execute("DROP FUNCTION check_entries()")
    op.execute("DROP FUNCTION refuse_change()")
