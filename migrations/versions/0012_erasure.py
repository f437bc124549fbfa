"""Erasing what is personal: when it was, which sealed events it was taken from, and the only changes that the log takes.

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op

from migrations.beside import extend

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# What may be written over an event is what an erasure leaves of it, and only where its user was erased.
REFUSE_CHANGE_OF_EVENT = """
CREATE OR REPLACE FUNCTION refuse_change_of_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    erased jsonb;
BEGIN
    IF OLD.type IN ('UserRegistered', 'UserChanged') THEN
        SELECT jsonb_build_object('username', '_erased-' || id, 'email', id || '@erased')
               || CASE WHEN OLD.schema > 1 THEN '{"salt": ""}'::jsonb ELSE '{}' END
          INTO erased FROM users WHERE id = OLD.stream_id AND erased_at IS NOT NULL;
    ELSIF OLD.type IN ('AccountOpened', 'AccountChanged') THEN
        SELECT '{"name": null}' INTO erased
          FROM accounts a JOIN users u ON u.id = a.user_id WHERE a.id = OLD.stream_id AND u.erased_at IS NOT NULL;
    ELSIF OLD.type IN ('ScheduleCreated', 'ScheduleChanged') THEN
        SELECT '{"name": null}' INTO erased
          FROM schedules s JOIN users u ON u.id = s.from_user_id WHERE s.id = OLD.stream_id AND u.erased_at IS NOT NULL;
    END IF;
    IF erased IS NULL OR to_jsonb(NEW) <> to_jsonb(OLD) || jsonb_build_object('data', OLD.data::jsonb || erased) THEN
        RAISE EXCEPTION 'events is append-only: UPDATE is refused' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END
$$
"""

# Of an act of an erased user, or on what was theirs, the address and the name that was given may go.
REFUSE_CHANGE_OF_AUDIT_LOG = """
CREATE OR REPLACE FUNCTION refuse_change_of_audit_log() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    erased jsonb := jsonb_build_object('address', NEW.address, 'details', OLD.details::jsonb);
BEGIN
    IF jsonb_typeof(NEW.details::jsonb -> 'name') = 'null' THEN
        erased := jsonb_set(erased, '{details,name}', 'null', false);
    END IF;
    IF NEW.address IS NOT NULL AND NEW.address IS DISTINCT FROM OLD.address OR to_jsonb(NEW) <> to_jsonb(OLD) || erased OR NOT EXISTS (
        SELECT FROM users u WHERE u.erased_at IS NOT NULL AND u.id IN (
            OLD.actor_id,
            OLD.entity_id,
            (SELECT a.user_id FROM accounts a WHERE a.id = OLD.entity_id),
            (SELECT s.from_user_id FROM schedules s WHERE s.id = OLD.entity_id)))
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
        op.execute(REFUSE_CHANGE_OF_EVENT)
        op.execute(REFUSE_CHANGE_OF_AUDIT_LOG)
        for table, function in (("events", "refuse_change_of_event"), ("audit_logs", "refuse_change_of_audit_log")):
            # The new one first, so that there is no moment without.
            op.execute(f"CREATE OR REPLACE TRIGGER {table}_erased_only BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION {function}()")
            op.execute(
                f"CREATE OR REPLACE TRIGGER {table}_append_only BEFORE DELETE OR TRUNCATE ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
            )


def downgrade() -> None:
    """Raises SystemExit where something was erased: without what stands for it, the log could not be verified any more."""
    if op.get_bind().exec_driver_sql("SELECT EXISTS (SELECT FROM erased_events)").scalar_one():
        raise SystemExit("Events were erased: the version before cannot verify these.")
    for table, function in (("events", "refuse_change_of_event"), ("audit_logs", "refuse_change_of_audit_log")):
        op.execute(
            f"CREATE OR REPLACE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
        op.execute(f"DROP TRIGGER {table}_erased_only ON {table}")
        op.execute(f"DROP FUNCTION {function}()")
    op.drop_table("erased_events")
    op.drop_column("users", "erased_at")
