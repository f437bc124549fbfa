"""The search of the audit log and of events by type; and an order that readers of the log can trust.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# An INSERT draws its rows' positions before the row itself makes the transaction take an id. A reader that knows
# which transaction ids have ended could then not tell which positions are still to come (bank.events.horizon).
NUMBER_TRANSACTION = """
CREATE FUNCTION number_transaction() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_current_xact_id();
    RETURN NULL;
END
$$
"""


def upgrade() -> None:
    op.create_index(
        "ix_events_type",
        "events",
        ["type", "position"],
        unique=False,
        postgresql_where=sa.text("type <> 'TransactionSubmitted' AND type <> 'TransactionCompleted'"),
    )
    op.drop_index("ix_audit_logs_actor_id", table_name="audit_logs")
    op.drop_index("ix_audit_logs_entity", table_name="audit_logs")
    op.create_index("ix_audit_logs_created_at", "audit_logs", ["created_at", "id"], unique=False)
    op.create_index(
        "ix_audit_logs_entity_type",
        "audit_logs",
        ["entity_type", "created_at", "id"],
        unique=False,
        postgresql_where=sa.text("entity_type <> 'transaction'"),
    )
    op.create_index("ix_audit_logs_entity", "audit_logs", ["entity_type", "entity_id", "created_at", "id"], unique=False)
    op.create_index(
        "ix_audit_logs_action",
        "audit_logs",
        ["action", "created_at", "id"],
        unique=False,
        postgresql_where=sa.text("action <> 'transaction.transfer' AND action <> 'transaction.credit' AND action <> 'transaction.debit'"),
    )
    op.create_index("ix_audit_logs_actor_id", "audit_logs", ["actor_id", "created_at", "id"], unique=False)
    op.execute(NUMBER_TRANSACTION)
    op.execute("CREATE TRIGGER events_number_transaction BEFORE INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION number_transaction()")


def downgrade() -> None:
    op.execute("DROP TRIGGER events_number_transaction ON events")
    op.execute("DROP FUNCTION number_transaction()")
    for index in ("created_at", "entity_type", "entity", "action", "actor_id"):
        op.drop_index(f"ix_audit_logs_{index}", table_name="audit_logs")
    op.create_index("ix_audit_logs_actor_id", "audit_logs", ["actor_id", "id"], unique=False)
    op.create_index("ix_audit_logs_entity", "audit_logs", ["entity_type", "entity_id", "id"], unique=False)
    op.drop_index("ix_events_type", table_name="events")
