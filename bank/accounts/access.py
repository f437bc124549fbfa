"""Whose things a caller may read, and whose accounts a teller may act on."""

from sqlalchemy import text
from sqlalchemy.orm import Session

from bank.auth.guard import Principal
from bank.db import reader
from bank.errors import Forbidden, NotFound
from bank.users.models import Role

_STAFF = text("SELECT id::text FROM users WHERE id = ANY(CAST(:ids AS uuid[])) AND role <> 'customer'")


def staff_among(session: Session, *user_ids: str | None) -> set[str]:
    """Those of these users who work at the bank; None stands for the outside."""
    ids = [user_id for user_id in user_ids if user_id is not None]
    return set(session.execute(_STAFF, {"ids": ids}).scalars()) if ids else set()


def reads_as(session: Session, caller: Principal, *owner_ids: str | None) -> str | None:
    """As whom the caller reads what is these users' (None: the outside's): as the one whose id this is, or None for all there is in it.

    Everybody reads their own, auditors and admins anybody's. A teller reads customers', and not what a colleague has: where
    money went between the two, as the customer does. Raises NotFound when it is not for the caller at all.
    """
    if caller.may_read_all:
        return None
    owners = {owner_id for owner_id in owner_ids if owner_id is not None}
    if caller.role == Role.TELLER:
        seen = owners - staff_among(session, *(owners - {caller.id}))
        if seen and seen == owners:
            return None
    else:
        seen = owners & {caller.id}
    if not seen:
        raise NotFound
    return caller.id if caller.id in seen else seen.pop()


def check_seen(caller: Principal, owner_id: str) -> None:
    """Raise NotFound when what is this user's is a colleague's of the teller who asks. Costs the others nothing."""
    if caller.role == Role.TELLER and caller.id != owner_id:
        with reader() as session:
            reads_as(session, caller, owner_id)


def only_seen_by(caller: Principal) -> str | None:
    """The id of a teller, whose lists leave out what is a colleague's; None for everybody else."""
    return caller.id if caller.role == Role.TELLER else None


def customers_and(parameter: str, *columns: str) -> str:
    """A condition in SQL: one of these columns is a customer's id, or the `parameter`. By the key of each row, since a page has few."""
    return f"""EXISTS (SELECT FROM users seen WHERE seen.id IN ({", ".join(columns)})
                       AND (seen.role = 'customer' OR seen.id = CAST({parameter} AS uuid)))"""


def check_teller(session: Session, caller: Principal, *owner_ids: str | None) -> None:
    """Raise Forbidden when a teller acts on accounts that are not all customers'; None stands for the outside.

    Who makes money appear, moves it back or lets an account be overdrawn must not do it for
    themselves, or for a colleague.
    """
    if caller.role == Role.TELLER and staff_among(session, *owner_ids):
        raise Forbidden("Tellers act on customers' accounts.")
