"""Whose accounts a teller may act on."""

from sqlalchemy import text
from sqlalchemy.orm import Session

from bank.auth.guard import Principal
from bank.errors import Forbidden
from bank.users.models import Role

_OTHERS = text("SELECT EXISTS (SELECT FROM users WHERE id = ANY(CAST(:ids AS uuid[])) AND role <> 'customer')")


def check_teller(session: Session, caller: Principal, *owner_ids: str | None) -> None:
    """Raise Forbidden when a teller acts on accounts that are not all customers'; None stands for the outside.

    Who makes money appear, moves it back or lets an account be overdrawn must not do it for
    themselves, or for a colleague.
    """
    if caller.role == Role.TELLER:
        ids = [owner_id for owner_id in owner_ids if owner_id is not None]
        if session.execute(_OTHERS, {"ids": ids}).scalar_one():
            raise Forbidden("Tellers act on customers' accounts.")
