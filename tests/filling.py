"""Filling the tables with a million rows in seconds, past the code that would take its time over them."""

from collections.abc import Iterable, Mapping

from tests.processes import query

# Foreign keys change no plan, and checking them row by row would take most of the time.
_UNCHECKED = (
    """ALTER TABLE transactions DROP CONSTRAINT fk_transactions_from_account_id_accounts,
             DROP CONSTRAINT fk_transactions_to_account_id_accounts, DROP CONSTRAINT fk_transactions_from_user_id_users,
             DROP CONSTRAINT fk_transactions_to_user_id_users""",
    "ALTER TABLE entries DISABLE TRIGGER check_entries",
)

CLOSINGS = """
    INSERT INTO daily_balances (account_id, day, closing, credits, debits, count)
    SELECT account_id, day, sum(change) OVER (PARTITION BY account_id ORDER BY day), credits, debits, count
      FROM (SELECT account_id, (effective_at AT TIME ZONE 'UTC')::date AS day, sum(amount) AS change,
                   COALESCE(sum(amount) FILTER (WHERE amount > 0), 0) AS credits,
                   COALESCE(-sum(amount) FILTER (WHERE amount < 0), 0) AS debits, count(*) AS count
              FROM entries GROUP BY 1, 2) d
"""
"""The closing balances of all entries."""


def fill(environ: Mapping[str, str], statements: Iterable[str], **parameters: object) -> None:
    """Run the statements on a fresh database, and ANALYZE it.

    Without the tables' indexes, which are made afterwards as they were: keeping a million rows' up to date
    takes longer than making them.
    """
    patient = {
        **environ,
        "DATABASE_URL": environ["DATABASE_URL"] + "?options=-c%20statement_timeout%3D0%20-c%20maintenance_work_mem%3D256MB",
    }
    indexes = query(
        environ,
        """SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index i
            WHERE indrelid::regclass::text IN ('transactions', 'entries', 'events', 'audit_logs')
              AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid)""",
    )
    dropped, made = [f"DROP INDEX {name}" for name, _ in indexes], [definition for _, definition in indexes]
    checked = "ALTER TABLE entries ENABLE TRIGGER check_entries"
    for statement in (*dropped, *_UNCHECKED, *statements, checked, *made, "ANALYZE"):
        query(patient, statement, **parameters)
