"""Erasing what is personal of a deleted user (GDPR, Article 17), so that the ledger stays whole.

Gone are the name, the email, the password and second factors, from where and with what the user logged in and acted, and what they called
their accounts and schedules. What a bank has to keep stays (Article 17(3)(b)): entries, transactions with the texts that were sent to the
other side, and who did what when, by the id of somebody who has no name any more.

The log is written once, and sealed. An event of which something is erased keeps its place, and the hash that stood for its data in its
leaf, so that the chain verifies as before (docs/decisions/0013).
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import orjson
from redis.exceptions import RedisError
from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from bank.auth.guard import Principal
from bank.db import unit_of_work
from bank.errors import Unavailable
from bank.events.types import Origin
from bank.followers import runner
from bank.proof import leaves, sealer
from bank.proof.models import ErasedEvent
from bank.resilience.cache import cache
from bank.users import service as users


def erase(who: Principal, user_id: str, origin: Origin) -> None:
    """Delete the user, if they are not yet, and erase what is personal of them; again, it changes nothing.

    Raises NotFound, Forbidden, and what `bank.users.service.delete` raises where they cannot be deleted.
    """
    users.delete(who, user_id, origin)
    # What is erased must be sealed or not, and not be just read by the sealer, which has its row locked while it seals.
    runner.register(sealer.NAME)
    with unit_of_work() as session:
        session.execute(text("SELECT FROM followers WHERE name = :name FOR UPDATE"), {"name": sealer.NAME})
        if not users.erase_names(session, user_id, origin):
            return
        account_ids = session.execute(_UNNAME_ACCOUNTS, {"user_id": user_id}).scalars().all()
        session.execute(_UNNAME_SCHEDULES, {"user_id": user_id})
        for statement in _ERASE:
            session.execute(text(statement), {"user_id": user_id})
        _erase_events(session, session.execute(_EVENTS, {"user_id": user_id}).all(), user_id)
    # Where Redis is away, what it keeps is over within the minute.
    with suppress(RedisError, Unavailable):
        cache().renew("user", [user_id])
        cache().renew("account", account_ids)


_UNNAME_ACCOUNTS = text("UPDATE accounts SET name = NULL WHERE user_id = CAST(:user_id AS uuid) AND name IS NOT NULL RETURNING id::text")
_UNNAME_SCHEDULES = text("UPDATE schedules SET name = NULL WHERE from_user_id = CAST(:user_id AS uuid) AND name IS NOT NULL")

_THEIRS = """
    SELECT CAST(:user_id AS uuid) AS id UNION ALL SELECT id FROM accounts WHERE user_id = CAST(:user_id AS uuid)
     UNION ALL SELECT id FROM schedules WHERE from_user_id = CAST(:user_id AS uuid)
"""

_ERASE = [
    "DELETE FROM logins WHERE user_id = CAST(:user_id AS uuid)",
    "DELETE FROM second_factors WHERE user_id = CAST(:user_id AS uuid)",
    "DELETE FROM recovery_codes WHERE user_id = CAST(:user_id AS uuid)",
    # Their answers hold names of schedules.
    "DELETE FROM idempotency_keys WHERE user_id = CAST(:user_id AS uuid)",
    "UPDATE replayed_accounts SET name = NULL WHERE user_id = CAST(:user_id AS uuid) AND name IS NOT NULL",
    # These only spare a replay its way from the beginning.
    "DELETE FROM snapshots",
    """UPDATE audit_logs SET address = NULL
        WHERE address IS NOT NULL AND (actor_id = CAST(:user_id AS uuid)
              OR actor_id IS NULL AND entity_type = 'user' AND entity_id = CAST(:user_id AS uuid))""",
    f"""UPDATE audit_logs SET details = jsonb_set(details::jsonb, '{{name}}', 'null')
         WHERE entity_type IN ('account', 'schedule') AND entity_id IN ({_THEIRS}) AND details->>'name' IS NOT NULL""",
]

_EVENTS = text(
    f"""
    SELECT {leaves.COLUMNS}, (SELECT b.secret FROM blocks b WHERE b.last >= position ORDER BY b.last LIMIT 1) AS secret
      FROM events
     WHERE stream_id IN ({_THEIRS})
       AND type IN ('UserRegistered', 'UserChanged', 'AccountOpened', 'AccountChanged', 'ScheduleCreated', 'ScheduleChanged')
     ORDER BY position
    """
)

_OVERWRITE = text("UPDATE events SET data = CAST(:data AS json) WHERE position = :position")


def _erase_events(session: Session, rows: Iterable[Row[Any]], user_id: str) -> None:
    """Write over what is personal in these events; the trigger of the table knows what may be left."""
    for row in rows:
        data = orjson.loads(row.data)
        # As the schema's trigger has it (migration 0012).
        erased = {**users.erased_names(user_id), "salt": ""} if row.type.startswith("User") else {"name": None}
        left = {**data, **{key: value for key, value in erased.items() if key in data}}
        if left == data:
            continue
        if row.secret is not None:
            session.add(ErasedEvent(position=row.position, commitment=leaves.leaf(tuple(row)[:-1], row.secret).data.commitment))
        session.execute(_OVERWRITE, {"position": row.position, "data": orjson.dumps(left).decode()})
