"""Who is asking: the one door that every route of a logged-in caller goes through."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

from flask import current_app, g
from structlog.contextvars import bind_contextvars

from bank.auth import factors, tokens
from bank.db import READER, fetch, reader, route
from bank.errors import EnrolmentRequired, Forbidden, Unauthenticated, Unavailable
from bank.events.types import Origin
from bank.users.models import Role
from bank.web import context
from bank.web.api import Blueprint

View = TypeVar("View", bound=Callable[..., Any])

# Who may move money, and open what it lies in: auditors change nothing.
MOVERS = (Role.CUSTOMER, Role.TELLER, Role.ADMIN)


@dataclass(frozen=True, slots=True)
class Principal:
    """The user who asks, as the database knows them at this request, and the login they ask by."""

    id: str
    role: Role
    login_id: str

    @property
    def may_read_all(self) -> bool:
        """Whether they read everything of everybody: auditors and admins. A teller reads customers only."""
        return self.role in (Role.AUDITOR, Role.ADMIN)


# Asked at every request and by primary keys only. The role comes from here and not from the token,
# so that a demotion, a freeze or a logout holds from the next request on.
_WHO = """
    SELECT u.role FROM logins l JOIN users u ON u.id = l.user_id
    WHERE l.id = %(login_id)s AND l.user_id = %(user_id)s AND l.ended_at IS NULL AND u.status = 'active'
"""

_ROLES = {role.value: role for role in Role}


def login_required(*roles: Role, enrolling: bool = False) -> Callable[[View], View]:
    """Let a view run only for a caller with a good access token and, where roles are given, one of these.

    Stands right under `blp.route`, so that nothing of the request is read before. Documents the
    scheme and the 401 and 403 in the OpenAPI document. The view raises Unauthenticated, or
    Forbidden where the role does not do. `enrolling` lets in also the administrator who must have a
    second factor and has none.
    """
    allowed = frozenset(roles)

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            who = g.principal = _identify()
            bind_contextvars(user_id=who.id)
            if allowed and who.role not in allowed:
                raise Forbidden
            if not enrolling:
                require_enrolment(who)
            return view(*args, **kwargs)

        documented: View = Blueprint.doc(security=[{"bearerAuth": []}], responses={"401": "UNAUTHORIZED", "403": "FORBIDDEN"})(guarded)
        return documented

    return decorate


def _identify() -> Principal:
    claims = tokens.verify("access")
    return standing(claims.user_id, claims.login_id)


def standing(user_id: str, login_id: str) -> Principal:
    """Who asks by this login. Raises Unauthenticated when it has ended, or its user is not active."""
    rows = fetch(_WHO, {"login_id": login_id, "user_id": user_id}, route().logins)
    if not rows:
        if route().logins != READER:
            # It may have begun after what the replica knows: a client that is told 401 throws its tokens away.
            raise Unavailable("This login is not known here yet.")
        raise Unauthenticated("This login has ended.")
    return Principal(user_id, _ROLES[rows[0][0]], login_id)


def require_enrolment(who: Principal) -> None:
    """Raise EnrolmentRequired for an administrator who must have a second factor and has none.

    Whoever has one has shown a code of it in this login: each login needs one, and confirming it ended those of before.
    """
    if who.role != Role.ADMIN or not current_app.config["BANK"].totp_for_admins:
        return
    with reader(route().logins) as session:
        enrolled = factors.is_on(session, who.id)
    if not enrolled:
        raise EnrolmentRequired


def still_stands(who: Principal) -> bool:
    """Whether the caller's login goes on and their role is what it was; for answers that take minutes."""
    return fetch(_WHO, {"login_id": who.login_id, "user_id": who.id}, route().logins) == [(who.role.value,)]


def principal() -> Principal:
    """The caller of the current request, in a view under `login_required`."""
    who: Principal = g.principal
    return who


def viewer() -> str | None:
    """None for staff, who may read what is anybody's; else the caller's id, whose things alone they may read."""
    return principal().id if principal().role == Role.CUSTOMER else None


def whose(query: Mapping[str, Any]) -> str | None:
    """Whose things a list is to show: the `user_id` it names, or those of the `viewer`. Raises Forbidden where a customer names another."""
    viewer_id = viewer()
    named: str | None = query.get("user_id", viewer_id)
    if viewer_id not in (None, named):
        raise Forbidden("Only staff may name a user.")
    return named


def origin() -> Origin:
    """The current request with its caller, for events and audit rows."""
    return context.origin(principal().id)
