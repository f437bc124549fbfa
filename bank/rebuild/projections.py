"""What the events say that the tables must hold: one statement a table and kind of event, for thousands of events at once.

This is a second reading of the events beside the code that wrote table and event together, and on purpose: two that
agree are a proof, one that reads its own output is none. Only the reading of a submission is shared with the code
that takes in many at once (`bank.transactions.many`). Each statement reads the CTE `event`, the part of
the log at hand, in which every stream's events are complete up to its end.
"""

from collections.abc import Mapping

from bank.schedules.store import ROWS_OF_EVENTS_OF_SCHEDULES
from bank.transactions.many import ROWS_OF_EVENTS

SHADOW = "rebuild"
"""The schema in which the projections are made."""

REPLACED = "replaced"
"""The schema of the tables that were in use before a swap, until they are dropped."""

TABLES = {
    "users": ("id",),
    "accounts": ("id",),
    "balances": ("account_id",),
    "batches": ("id",),
    "schedules": ("id",),
    "transactions": ("id",),
    "schedule_runs": ("schedule_id", "due_at"),
    "entries": ("account_id", "version"),
    "daily_balances": ("account_id", "day"),
    "limits": ("id",),
    "rules": ("id",),
}
"""The projections and their keys, in the order in which they refer to each other."""

_PART = """
WITH event AS MATERIALIZED (
    SELECT position, stream_id, version, data, actor_id, request_id, trace_id, recorded_at FROM events
     WHERE position > %(low)s AND position <= %(high)s AND type = '{type}'
)"""

# The newest event of each stream: of changes that tell the whole state the last one counts.
_NEWEST = ", newest AS (SELECT DISTINCT ON (stream_id) * FROM event ORDER BY stream_id, version DESC)"


def _of(event_type: str, statement: str, *, newest: bool = False) -> str:
    return _PART.format(type=event_type) + (_NEWEST if newest else "") + statement


READ = {
    "UserRegistered": 2,
    "UserChanged": 2,
    "PersonalDataErased": 1,
    "AccountOpened": 1,
    "AccountChanged": 1,
    "BatchSubmitted": 1,
    "TransactionSubmitted": 2,
    "TransactionHeld": 2,
    "TransactionApproved": 1,
    "TransactionRejected": 1,
    "TransactionFailed": 2,
    "TransactionVoided": 1,
    "TransactionCompleted": 2,
    "TransactionRolledBack": 1,
    "HoldCaptured": 1,
    "HoldVoided": 1,
    "HoldExpired": 1,
    "ScheduleCreated": 1,
    "ScheduleChanged": 1,
    "ScheduleRan": 1,
    "ScheduleSkipped": 1,
    "LimitSet": 1,
    "LimitRemoved": 1,
    "RuleSet": 1,
    "RuleRemoved": 1,
}
"""The types of event that the statements read, each up to that version of its shape."""

# What is held changes by what each event says of it: they are added up, in any order.
_HELD = f"""
        UPDATE {SHADOW}.balances b SET held = b.held {{sign}} h.amount
          FROM (SELECT (data->>'account_id')::uuid AS account_id, sum((data->>'amount')::bigint) AS amount FROM event GROUP BY 1) h
         WHERE b.account_id = h.account_id
        """


def _end_of_hold(event_type: str) -> str:
    return _of(
        event_type,
        f"""
        , ended AS (
            UPDATE {SHADOW}.transactions t
               SET status = CASE (data->>'captured_amount')::bigint WHEN 0 THEN 'voided' ELSE 'completed' END,
                   held_amount = 0, completed_at = e.recorded_at, version = e.version
              FROM event e WHERE t.id = e.stream_id
        )"""
        + _HELD.format(sign="-"),
    )


def _end_of_review(event_type: str, review: str) -> str:
    # What is not held any more is completed or failed by an event that follows, which may be in a part behind this one.
    return _of(
        event_type,
        f"""
        , reviewed AS (
            UPDATE {SHADOW}.transactions t
               SET review = '{review}', version = e.version, held_amount = t.held_amount - (data->>'amount')::bigint,
                   status = CASE WHEN (data->>'amount')::bigint > 0 THEN 'pending' ELSE t.status END
              FROM event e WHERE t.id = e.stream_id
        )"""
        + _HELD.format(sign="-"),
    )


def _settings(event_type: str, table: str, columns: Mapping[str, str]) -> str:
    """What is set as a whole each time, the first time too: from the newest event of each stream."""
    return _of(
        event_type,
        f"""
        , made AS (
            INSERT INTO {SHADOW}.{table} (id, version, created_at, updated_at, {", ".join(columns)})
            SELECT stream_id, n.version, first.recorded_at, n.recorded_at, {", ".join(columns.values())}
              FROM newest n
              JOIN (SELECT stream_id, recorded_at FROM event WHERE version = 1) first USING (stream_id)
        )
        UPDATE {SHADOW}.{table} t
           SET version = n.version, updated_at = n.recorded_at, {", ".join(f"{name} = {column}" for name, column in columns.items())}
          FROM newest n WHERE t.id = n.stream_id
        """,
        newest=True,
    )


# A change that came after the run says when the schedule is due, and not the run.
_NEXT_RUN = f"""
        UPDATE {SHADOW}.schedules s
           SET version = n.version, updated_at = n.recorded_at, next_run_at = (n.data->>'next_run_at')::timestamptz,
               status = CASE WHEN s.status = 'active' AND n.data->>'next_run_at' IS NULL THEN 'finished' ELSE s.status END
          FROM newest n WHERE s.id = n.stream_id AND s.version < n.version
"""

# The order is that of a thing's life: within one part of the log a row is made before it is changed.
STATEMENTS = [
    # A name that somebody gave up may be another's within the same part.
    *(
        _of(kind, f"UPDATE {SHADOW}.users u SET username = '_' || u.id, email = '_' || u.id FROM event e WHERE u.id = e.stream_id")
        for kind in ("UserChanged", "PersonalDataErased")
    ),
    _of(
        "UserRegistered",
        f"""
        INSERT INTO {SHADOW}.users (id, username, email, role, status, version, created_at, updated_at)
        SELECT stream_id, data->>'username', data->>'email', data->>'role', data->>'status', version, recorded_at, recorded_at FROM event
        """,
    ),
    _of(
        "UserChanged",
        f"""
        UPDATE {SHADOW}.users u
           SET username = data->>'username', email = data->>'email', role = data->>'role', status = data->>'status',
               version = n.version, updated_at = n.recorded_at
          FROM newest n WHERE u.id = n.stream_id
        """,
        newest=True,
    ),
    _of(
        "AccountOpened",
        f"""
        , opened AS (
            INSERT INTO {SHADOW}.accounts (id, user_id, currency, kind, name, is_default, version, created_at)
            SELECT stream_id, (data->>'user_id')::uuid, data->>'currency', data->>'kind', data->>'name',
                   (data->>'is_default')::boolean, version, recorded_at
              FROM event
            RETURNING id, user_id, currency, kind, created_at
        )
        INSERT INTO {SHADOW}.balances (account_id, user_id, currency, overdraft_limit, last_updated_at)
        SELECT id, user_id, currency, CASE kind WHEN 'customer' THEN 0 END, created_at FROM opened
        """,
    ),
    _of(
        "AccountChanged",
        f"""
        , account AS (
            UPDATE {SHADOW}.accounts a
               SET name = data->>'name', version = n.version, is_default = a.is_default AND data->>'status' <> 'closed'
              FROM newest n WHERE a.id = n.stream_id
        )
        UPDATE {SHADOW}.balances b SET status = data->>'status', overdraft_limit = (data->>'overdraft_limit')::bigint
          FROM newest n WHERE b.account_id = n.stream_id
        """,
        newest=True,
    ),
    _of(
        "BatchSubmitted",
        f"""
        INSERT INTO {SHADOW}.batches (id, user_id, mode, items, created_at)
        SELECT stream_id, actor_id, data->>'mode', (data->>'items')::integer, recorded_at FROM event
        """,
    ),
    _of("TransactionSubmitted", ROWS_OF_EVENTS.format(into=f"{SHADOW}.transactions", events="event", schedule_id="NULL::uuid")),
    _of(
        "TransactionHeld",
        f"""
        , held AS (
            UPDATE {SHADOW}.transactions t
               SET status = 'held', held_amount = (data->>'amount')::bigint, version = e.version,
                   review = CASE WHEN (data->>'review')::boolean THEN 'open' END
              FROM event e WHERE t.id = e.stream_id
        )"""
        + _HELD.format(sign="+"),
    ),
    _end_of_review("TransactionApproved", "approved"),
    _end_of_review("TransactionRejected", "rejected"),
    _of(
        "TransactionFailed",
        f"""
        UPDATE {SHADOW}.transactions t
           SET status = 'failed', failure_code = data->>'failure_code', completed_at = e.recorded_at, version = e.version
          FROM event e WHERE t.id = e.stream_id
        """,
    ),
    _of(
        "TransactionVoided",
        f"""
        UPDATE {SHADOW}.transactions t SET status = 'voided', completed_at = e.recorded_at, version = e.version
          FROM event e WHERE t.id = e.stream_id
        """,
    ),
    _of(
        "TransactionCompleted",
        f"""
        , completed AS (
            UPDATE {SHADOW}.transactions t SET status = 'completed', completed_at = e.recorded_at, version = e.version
              FROM event e WHERE t.id = e.stream_id
            RETURNING t.id, t.type, t.currency, t.to_currency, t.remainder, t.effective_at, e.data, e.recorded_at
        ), posted AS (
            INSERT INTO {SHADOW}.entries (account_id, version, transaction_id, currency, amount, balance, effective_at, posted_at)
            SELECT (entry->>0)::uuid, (entry->>1)::bigint, id,
                   CASE WHEN number * 2 <= json_array_length(data->'entries') THEN currency ELSE to_currency END,
                   (entry->>2)::bigint, (entry->>3)::bigint, effective_at, recorded_at
              FROM completed CROSS JOIN LATERAL json_array_elements(data->'entries') WITH ORDINALITY AS e (entry, number)
            RETURNING account_id, version, balance, effective_at, posted_at
        ), last AS (
            SELECT DISTINCT ON (account_id) * FROM posted ORDER BY account_id, version DESC
        ), touched AS (
            INSERT INTO {SHADOW}.touched AS t (account_id, day)
            SELECT account_id, min((effective_at AT TIME ZONE 'UTC')::date) FROM posted GROUP BY 1
            ON CONFLICT (account_id) DO UPDATE SET day = least(t.day, EXCLUDED.day)
        )
        , left_over AS (
            SELECT CASE type WHEN 'rollback' THEN data->'entries'->1->>0 ELSE data->'entries'->2->>0 END::uuid AS account_id,
                   sum(remainder::numeric) AS remainder
              FROM completed WHERE remainder IS NOT NULL GROUP BY 1
        )
        UPDATE {SHADOW}.balances b
           SET amount = l.balance, version = l.version, last_updated_at = l.posted_at, remainder = b.remainder + COALESCE(o.remainder, 0)
          FROM last l LEFT JOIN left_over o USING (account_id) WHERE b.account_id = l.account_id
        """,
    ),
    _of(
        "TransactionRolledBack",
        f"""
        UPDATE {SHADOW}.transactions t
           SET rolled_back_amount = (data->>'rolled_back_amount')::bigint, version = n.version,
               status = CASE WHEN (data->>'rolled_back_amount')::bigint = t.amount THEN 'rolled_back' ELSE 'completed' END
          FROM newest n WHERE t.id = n.stream_id
        """,
        newest=True,
    ),
    _of(
        "HoldCaptured",
        f"""
        , captured AS (
            UPDATE {SHADOW}.transactions t
               SET captured_amount = (data->>'captured_amount')::bigint, held_amount = (data->>'held_amount')::bigint,
                   version = n.version, status = CASE (data->>'held_amount')::bigint WHEN 0 THEN 'completed' ELSE 'held' END,
                   completed_at = CASE (data->>'held_amount')::bigint WHEN 0 THEN n.recorded_at END
              FROM newest n WHERE t.id = n.stream_id
        )"""
        + _HELD.format(sign="-"),
        newest=True,
    ),
    _end_of_hold("HoldVoided"),
    _end_of_hold("HoldExpired"),
    _of("ScheduleCreated", ROWS_OF_EVENTS_OF_SCHEDULES.format(into=f"{SHADOW}.schedules", events="event")),
    _of(
        "ScheduleChanged",
        f"""
        UPDATE {SHADOW}.schedules s
           SET status = t.status, name = t.name, amount = t.amount, description = t.description, run_at = t.run_at, rrule = t.rrule,
               time_zone = t.time_zone, starts_at = t.starts_at, month_end = t.month_end, ends_at = t.ends_at, misfire = t.misfire,
               retry_attempts = t.retry_attempts, retry_delay_seconds = t.retry_delay_seconds, next_run_at = t.next_run_at,
               version = n.version, updated_at = n.recorded_at
          FROM newest n CROSS JOIN LATERAL json_to_record(n.data)
            AS t (status text, name text, amount bigint, description text, run_at timestamptz, rrule text, time_zone text,
                  starts_at timestamptz, month_end text, ends_at timestamptz, misfire text, retry_attempts smallint,
                  retry_delay_seconds int, next_run_at timestamptz)
         WHERE s.id = n.stream_id
        """,
        newest=True,
    ),
    # What was filled in before has the names still.
    _of(
        "PersonalDataErased",
        f"""
        , named AS (
            UPDATE {SHADOW}.accounts a SET name = NULL FROM newest n WHERE a.user_id = n.stream_id
        ), planned AS (
            UPDATE {SHADOW}.schedules s SET name = NULL FROM newest n WHERE s.from_user_id = n.stream_id
        ), first AS (
            SELECT stream_id, min(recorded_at) AS erased_at FROM event GROUP BY 1
        )
        UPDATE {SHADOW}.users u
           SET username = '_erased-' || u.id, email = u.id || '@erased', version = n.version, updated_at = n.recorded_at,
               erased_at = COALESCE(u.erased_at, first.erased_at)
          FROM newest n JOIN first USING (stream_id) WHERE u.id = n.stream_id
        """,
        newest=True,
    ),
    _of(
        "ScheduleSkipped",
        f"""
        , skipped AS (
            INSERT INTO {SHADOW}.schedule_runs (schedule_id, due_at, attempts, created_at)
            SELECT stream_id, (data->>'due_at')::timestamptz, 0, recorded_at FROM event
        )
        {_NEXT_RUN}
        """,
        newest=True,
    ),
    _of(
        "ScheduleRan",
        f"""
        , tried AS (
            SELECT stream_id, recorded_at, t.*, max(attempt) OVER run AS attempts, min(recorded_at) OVER run AS first_at
              FROM event CROSS JOIN LATERAL json_to_record(data)
                AS t (due_at timestamptz, attempt smallint, transaction_id uuid, failure_code text, retry_at timestamptz)
            WINDOW run AS (PARTITION BY stream_id, due_at)
        ), ran AS (
            INSERT INTO {SHADOW}.schedule_runs AS r (schedule_id, due_at, attempts, transaction_id, failure_code, look_at, created_at)
            SELECT stream_id, due_at, attempt, transaction_id, failure_code, retry_at, first_at FROM tried WHERE attempt = attempts
            ON CONFLICT (schedule_id, due_at) DO UPDATE
               SET attempts = EXCLUDED.attempts, transaction_id = EXCLUDED.transaction_id, failure_code = EXCLUDED.failure_code,
                   look_at = EXCLUDED.look_at
        ), paid AS (
            UPDATE {SHADOW}.transactions t SET schedule_id = stream_id FROM tried WHERE t.id = tried.transaction_id
        )
        {_NEXT_RUN}
        """,
        newest=True,
    ),
    _settings(
        "LimitSet",
        "limits",
        {
            **{name: f"data->>'{name}'" for name in ("scope", "role", "currency", "kind", "time_zone")},
            **{name: f"(data->>'{name}')::uuid" for name in ("user_id", "account_id")},
            "amount": "(data->>'amount')::bigint",
            "payments": "(data->>'count')::integer",
            "span": "data->>'window'",
            "counterparties": """CASE json_typeof(data->'counterparties') WHEN 'array'
                                 THEN ARRAY(SELECT json_array_elements_text(data->'counterparties')) END""",
            **{name: f"(data->>'{name}')::smallint" for name in ("opens_at", "closes_at")},
        },
    ),
    _of("LimitRemoved", f"DELETE FROM {SHADOW}.limits l USING event e WHERE l.id = e.stream_id"),
    _settings(
        "RuleSet",
        "rules",
        {**{name: f"data->>'{name}'" for name in ("name", "expression", "effect")}, "enabled": "(data->>'enabled')::boolean"},
    ),
    _of("RuleRemoved", f"DELETE FROM {SHADOW}.rules r USING event e WHERE r.id = e.stream_id"),
]

# Closing balances follow from the entries. They are made anew for the accounts that were touched since, from the first
# day that was: a backdated entry moves every day behind it, and what lies before stays.
CLOSINGS = [
    f"DELETE FROM {SHADOW}.daily_balances d USING {SHADOW}.touched t WHERE d.account_id = t.account_id AND d.day >= t.day",
    f"""
    INSERT INTO {SHADOW}.daily_balances (account_id, day, closing, credits, debits, count)
    SELECT account_id, day,
           COALESCE((SELECT closing FROM {SHADOW}.daily_balances before
                      WHERE before.account_id = d.account_id AND before.day < d.first ORDER BY before.day DESC LIMIT 1), 0)
               + sum(change) OVER (PARTITION BY account_id ORDER BY day),
           credits, debits, count
      FROM (SELECT e.account_id, t.day AS first, (e.effective_at AT TIME ZONE 'UTC')::date AS day, sum(e.amount) AS change,
                   COALESCE(sum(e.amount) FILTER (WHERE e.amount > 0), 0) AS credits,
                   COALESCE(-sum(e.amount) FILTER (WHERE e.amount < 0), 0) AS debits, count(*) AS count
              FROM {SHADOW}.touched t JOIN {SHADOW}.entries e
                ON e.account_id = t.account_id AND e.effective_at >= t.day::timestamp AT TIME ZONE 'UTC'
             GROUP BY 1, 2, 3) d
    """,
    f"DELETE FROM {SHADOW}.touched",
]
