"""Erasing what is personal of a user (GDPR, Article 17), so that the ledger stays whole.

Gone are the name, the email, the password and second factors, the list of logins, and what the user called accounts, schedules and imports.
What a bank has to keep stays (Article 17(3)(b) and (e)): entries, transactions with the texts that were sent to the other side, and who did
what, when and from where, by the id of somebody who has no name any more.

The log is written once, and sealed. An event of which something is erased keeps its place, and the hash that stood for its
data in its leaf, so that the chain verifies as before (docs/decisions/0013).
"""

from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256

from redis.exceptions import RedisError
from sqlalchemy import func, text
from sqlalchemy.orm import Session

from bank.audit import service as audit
from bank.auth.guard import Principal
from bank.db import unit_of_work
from bank.errors import Conflict, Unavailable
from bank.events import store as events
from bank.events.types import Origin, PersonalDataErased
from bank.proof import leaves, sealer
from bank.proof.models import ErasedEvent
from bank.rebuild import shadow
from bank.resilience.cache import cache
from bank.users import service as users
from bank.users.models import Role, User


def erase(who: Principal, user_id: str, password: str, origin: Origin) -> None:
    """Delete the user, if they are not yet, and erase what is personal of them, in one unit of work. Again, it takes what was left.

    Whoever asks, admin or the user, confirms it by their own password: it cannot be undone. Staff are erased by another admin.

    Raises NotFound, Forbidden, Conflict, Unprocessable and TooManyAttempts (password), and what `bank.users.service.delete`
    raises where they cannot be deleted.
    """
    known = users.to_change(who, user_id)
    if who.id == user_id and known.role != Role.CUSTOMER:
        raise Conflict("Staff are erased by another admin.")
    users.confirm(users.get(who, who.id), password)
    with unit_of_work() as session:
        user = users.locked_whole(session, user_id)
        users.close(session, user, origin)
        account_ids = _erase(session, user, origin)
    shadow.drop_if_idle()
    # Where Redis is away, what it keeps is over within the minute.
    with suppress(RedisError, Unavailable):
        cache().renew("user", [user_id])
        cache().renew("account", account_ids)


# As an array, so that what they are looked up in is found by its index and not read from end to end.
_THEIRS = """ARRAY(
    SELECT id FROM accounts WHERE user_id = CAST(:user_id AS uuid)
     UNION ALL SELECT id FROM schedules WHERE from_user_id = CAST(:user_id AS uuid)
     UNION ALL SELECT CAST(:user_id AS uuid)
)"""

_UNNAME_ACCOUNTS = text("UPDATE accounts SET name = NULL WHERE user_id = CAST(:user_id AS uuid) AND name IS NOT NULL RETURNING id::text")

_ERASE = [
    "UPDATE schedules SET name = NULL WHERE from_user_id = CAST(:user_id AS uuid) AND name IS NOT NULL",
    "DELETE FROM logins WHERE user_id = CAST(:user_id AS uuid)",
    "DELETE FROM second_factors WHERE user_id = CAST(:user_id AS uuid)",
    "DELETE FROM recovery_codes WHERE user_id = CAST(:user_id AS uuid)",
    # Answers that tell what schedules are called, whoever made these.
    "DELETE FROM idempotency_keys WHERE user_id = CAST(:user_id AS uuid)",
    f"DELETE FROM idempotency_keys WHERE schedule_id = ANY({_THEIRS})",
    "UPDATE imports SET name = id::text WHERE owner_id = CAST(:user_id AS uuid)",
    "UPDATE import_accounts SET name = account_id::text WHERE owner_id = CAST(:user_id AS uuid)",
    f"""UPDATE replayed_accounts a SET name = NULL FROM replays r
         WHERE a.replay_id = r.id AND a.account_id = ANY({_THEIRS}) AND a.name IS NOT NULL""",
    f"""UPDATE audit_logs SET details = jsonb_set(details::jsonb, '{{name}}', 'null', false)
         WHERE entity_type IN ('account', 'schedule') AND entity_id = ANY({_THEIRS}) AND details->>'name' IS NOT NULL""",
]

# These only spare a replay its way from the beginning. Locked, so that none is written that has the names still.
_FORGET_SNAPSHOTS = ("LOCK TABLE snapshots IN SHARE ROW EXCLUSIVE MODE", "DELETE FROM snapshots")

_EVENTS = text(
    f"""
    SELECT {leaves.COLUMNS}, (SELECT b.secret FROM blocks b WHERE b.last >= position ORDER BY b.last LIMIT 1) AS secret, remains
      FROM events CROSS JOIN LATERAL (SELECT left_of_event(type, schema, stream_id, data)::text AS remains) l
     WHERE stream_id = ANY({_THEIRS}) AND remains::jsonb <> data::jsonb
     ORDER BY position
    """
)

_OVERWRITE = text(
    """UPDATE events e SET data = CAST(remains AS json)
         FROM unnest(CAST(:positions AS bigint[]), CAST(:remains AS text[])) AS left_over (position, remains)
        WHERE e.position = left_over.position"""
)


def _erase(session: Session, user: User, origin: Origin) -> Sequence[str]:
    """Erase what there is; the ids of the accounts that had a name."""
    parameters = {"user_id": user.id}
    if user.erased_at is None:
        # The functions of the schema take their word from it.
        user.erased_at, user.password_hash = func.now(), None
        for name, value in users.erased_names(user.id).items():
            setattr(user, name, value)
        user.version += 1
        user.updated_at = func.now()
        session.flush()
        events.append(session, user.id, user.version, PersonalDataErased(events=_erase_events(session, user.id)), origin)
        audit.record(session, "user", user.id, "user.erased", origin)
        for statement in _FORGET_SNAPSHOTS:
            session.execute(text(statement))
    account_ids = session.execute(_UNNAME_ACCOUNTS, parameters).scalars().all()
    for statement in _ERASE:
        session.execute(text(statement), parameters)
    return account_ids


def _erase_events(session: Session, user_id: str) -> list[list[int | str]]:
    """Write what remains over events; of those that are sealed, position and hash of that."""
    # What is read here is sealed or not, and not just being read by the sealer.
    sealer.hold(session)
    rows = session.execute(_EVENTS, {"user_id": user_id}).all()
    sealed: list[list[int | str]] = []
    for *row, secret, remains in rows:
        if secret is not None:
            session.add(ErasedEvent(position=row[0], commitment=leaves.leaf(row, secret).data.commitment))
            sealed.append([row[0], sha256(remains.encode()).hexdigest()])
    session.execute(_OVERWRITE, {"positions": [row.position for row in rows], "remains": [row.remains for row in rows]})
    return sealed
