"""Erasing what is personal: when it was, which sealed events it was taken from, and the only changes that the log takes.

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op

from migrations.beside import build_index, extend

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# What an erasure leaves of the data of an event. NULL where there is nothing to erase in such an event, or its user was not erased.
LEFT_OF_EVENT = """
CREATE OR REPLACE FUNCTION left_of_event(type text, schema smallint, stream_id uuid, data json) RETURNS jsonb STABLE LANGUAGE sql AS $$
    SELECT left_of_event.data::jsonb
           || jsonb_build_object('username', '_erased-' || id, 'email', id || '@erased')
           || CASE WHEN left_of_event.schema > 1 THEN '{"salt": ""}'::jsonb ELSE '{}' END
      FROM users
     WHERE left_of_event.type IN ('UserRegistered', 'UserChanged') AND id = left_of_event.stream_id AND erased_at IS NOT NULL
     UNION ALL
    SELECT left_of_event.data::jsonb || '{"name": null}'
      FROM accounts a JOIN users u ON u.id = a.user_id
     WHERE left_of_event.type IN ('AccountOpened', 'AccountChanged') AND a.id = left_of_event.stream_id AND u.erased_at IS NOT NULL
     UNION ALL
    SELECT left_of_event.data::jsonb || '{"name": null}'
      FROM schedules s JOIN users u ON u.id = s.from_user_id
     WHERE left_of_event.type IN ('ScheduleCreated', 'ScheduleChanged') AND s.id = left_of_event.stream_id AND u.erased_at IS NOT NULL
$$
"""

# Compared as text: to jsonb, a key that is there twice is there once.
REFUSE_CHANGE_OF_EVENT = """
CREATE OR REPLACE FUNCTION refuse_change_of_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF to_jsonb(NEW) - 'data' <> to_jsonb(OLD) - 'data'
       OR NEW.data::text IS DISTINCT FROM left_of_event(OLD.type, OLD.schema, OLD.stream_id, OLD.data)::text
    THEN
        RAISE EXCEPTION 'events is append-only: UPDATE is refused' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END
$$
"""

# Who did what, and from where, stays. What somebody called an account or a schedule may go.
REFUSE_CHANGE_OF_AUDIT_LOG = """
CREATE OR REPLACE FUNCTION refuse_change_of_audit_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF to_jsonb(NEW) - 'details' <> to_jsonb(OLD) - 'details'
       OR NEW.details::text IS DISTINCT FROM jsonb_set(OLD.details::jsonb, '{name}', 'null', false)::text
       OR NOT EXISTS (
            SELECT FROM users u WHERE u.erased_at IS NOT NULL AND u.id = CASE OLD.entity_type
                WHEN 'account' THEN (SELECT a.user_id FROM accounts a WHERE a.id = OLD.entity_id)
                WHEN 'schedule' THEN (SELECT s.from_user_id FROM schedules s WHERE s.id = OLD.entity_id) END)
    THEN
        RAISE EXCEPTION 'audit_logs is append-only: UPDATE is refused' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END
$$
"""


def upgrade() -> None:
    """Safe while the bank runs, and to run again after it failed."""
    with op.get_context().autocommit_block():
        extend("users", {"erased_at": "timestamptz"}, {})
        # What tells the name of a schedule, whoever made it.
        build_index(
            "ix_idempotency_keys_schedule_id",
            "idempotency_keys",
            ["schedule_id"],
            postgresql_where=sa.text("schedule_id IS NOT NULL"),
        )
        op.create_table(
            "erased_events",
            sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
            sa.Column("commitment", sa.Text(), nullable=False),
            sa.CheckConstraint("commitment ~ '^[0-9a-f]{64}$'", name=op.f("ck_erased_events_commitment")),
            sa.PrimaryKeyConstraint("position", name="pk_erased_events"),
            if_not_exists=True,
        )
        op.execute(
            "CREATE OR REPLACE TRIGGER erased_events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON erased_events "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
        for function in (LEFT_OF_EVENT, REFUSE_CHANGE_OF_EVENT, REFUSE_CHANGE_OF_AUDIT_LOG):
            op.execute(function)
        for table, function in (("events", "refuse_change_of_event"), ("audit_logs", "refuse_change_of_audit_log")):
            # The new one first, so that there is no moment without.
            op.execute(f"CREATE OR REPLACE TRIGGER {table}_erased_only BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION {function}()")
            op.execute(
                f"CREATE OR REPLACE TRIGGER {table}_append_only BEFORE DELETE OR TRUNCATE ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
            )


def downgrade() -> None:
    """Raises SystemExit where somebody was erased: the version before can neither read the event nor verify the log."""
    if op.get_bind().exec_driver_sql("SELECT EXISTS (SELECT FROM users WHERE erased_at IS NOT NULL)").scalar_one():
        raise SystemExit("Users were erased: the version before cannot read that.")
    for table, function in (("events", "refuse_change_of_event"), ("audit_logs", "refuse_change_of_audit_log")):
        op.execute(
            f"CREATE OR REPLACE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
        op.execute(f"DROP TRIGGER {table}_erased_only ON {table}")
        op.execute(f"DROP FUNCTION {function}()")
    op.execute("DROP FUNCTION left_of_event(text, smallint, uuid, json)")
    op.drop_table("erased_events")
    op.drop_index("ix_idempotency_keys_schedule_id", "idempotency_keys")
    op.drop_column("users", "erased_at")
