"""Taking in many transactions with one statement."""

from collections.abc import Sequence

import orjson
from sqlalchemy import Connection

from bank.events.types import Origin, TransactionSubmitted

ROWS_OF_EVENTS = """
INSERT INTO {into} (id, seq, lane, type, status, from_user_id, to_user_id, from_account_id, to_account_id, amount, currency,
                    to_amount, to_currency, rate, remainder, quote_id, description, reference, metadata, reverses_id, expires_at,
                    captures_id, voids_id, awaited, batch_id, batch_index, schedule_id, actor_id, request_id, trace_id, effective_at,
                    created_at)
SELECT e.stream_id, e.position, t.lane, t.type, 'pending', t.from_user_id, t.to_user_id, t.from_account_id, t.to_account_id,
       t.amount, t.currency, t.to_amount, t.to_currency, t.rate, t.remainder, t.quote_id, t.description, t.reference,
       t.metadata, t.reverses_id, t.expires_at, t.captures_id, t.voids_id, t.awaited, t.batch_id, t.batch_index, {schedule_id},
       e.actor_id, e.request_id, e.trace_id, COALESCE(t.effective_at, e.recorded_at), e.recorded_at
  FROM {events} e
 CROSS JOIN LATERAL json_to_record(e.data)
    AS t (lane smallint, type text, from_user_id uuid, to_user_id uuid, from_account_id uuid, to_account_id uuid,
          amount bigint, currency text, to_amount bigint, to_currency text, rate text, remainder text, quote_id uuid,
          description text, reference text, metadata json, reverses_id uuid, expires_at timestamptz, captures_id uuid,
          voids_id uuid, awaited boolean, effective_at timestamptz, batch_id uuid, batch_index integer)
"""
"""The pending transactions that the `TransactionSubmitted` of `events` tell of, in any version, as rows of the table `into`: what an
older version does not have is NULL.

`schedule_id` is an expression for the schedule that runs: its own event tells that."""

# As for a single one (see `bank.transactions.store`) the transaction id is taken before the first
# event's position is drawn. The positions, which are the transactions' `seq`, are drawn in the order
# of the list: PostgreSQL draws them after the ORDER BY of an INSERT … SELECT. The rows are read from
# the events themselves, so the two cannot differ.
_SUBMIT_MANY = """
WITH begun AS MATERIALIZED (
    SELECT pg_current_xact_id() AS xid
), wanted AS MATERIALIZED (
    SELECT w.id, w.data, w.n
      FROM ROWS FROM (unnest(%(ids)s::uuid[]), json_array_elements(%(events)s::json)) WITH ORDINALITY AS w (id, data, n)
), event AS (
    INSERT INTO events (stream_id, version, type, schema, data, actor_id, request_id, trace_id)
    SELECT w.id, 1, 'TransactionSubmitted', %(schema)s, w.data, %(actor_id)s::uuid, %(request_id)s, %(trace_id)s
      FROM begun CROSS JOIN wanted w
     WHERE begun.xid IS NOT NULL
     ORDER BY w.n
    RETURNING position, stream_id, data, actor_id, request_id, trace_id, recorded_at
)
""" + ROWS_OF_EVENTS.format(into="transactions", events="event", schedule_id="NULL::uuid")


def submit_many(connection: Connection, transactions: Sequence[tuple[str, TransactionSubmitted]], origin: Origin) -> None:
    """Insert pending transactions, each an id and its event, in this order of `seq`.

    Writes neither audit rows nor idempotency keys: the act and its repetition are the caller's. The
    lanes must be drained, or rung for, after the commit.
    """
    parameters = {
        "ids": [transaction_id for transaction_id, _ in transactions],
        "events": "[" + ",".join(orjson.dumps(event).decode() for _, event in transactions) + "]",
        "schema": TransactionSubmitted.SCHEMA,
        "actor_id": origin.actor_id,
        "request_id": origin.request_id,
        "trace_id": origin.trace_id,
    }
    connection.exec_driver_sql(_SUBMIT_MANY, parameters)
