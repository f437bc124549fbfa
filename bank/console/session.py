"""Who looks at a page: a signed cookie that names a login, which the database is asked about at each request.

The cookie is no token: the API takes it for nothing, and no token is ever made for a login that begins here. It ends with the login,
after half an hour in which nobody did anything, and after twelve hours (OWASP ASVS 5.0, 7.3.1 and 7.3.2).
"""

import hmac
import time
from collections.abc import Callable
from functools import wraps
from hashlib import sha256
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote

from flask import current_app, g, make_response, redirect, request, url_for
from itsdangerous import BadData, URLSafeTimedSerializer
from structlog.contextvars import bind_contextvars
from werkzeug.wrappers import Response

from bank.auth.guard import require_enrolment, standing
from bank.auth.service import Begun
from bank.errors import Forbidden, Unauthenticated
from bank.users.models import Role
from bank.web.context import sent_by_own_page

View = TypeVar("View", bound=Callable[..., Any])

IDLE_SECONDS = 1_800
LONGEST_SECONDS = 43_200


class Session(NamedTuple):
    """What the cookie holds: a user, their login, and when it began (seconds since 1970)."""

    user_id: str
    login_id: str
    began_at: int


def start(begun: Begun) -> Response:
    """To the first page, with a cookie for a login that has just begun."""
    response = redirect(_next(), 303)
    _give(response, Session(begun.user_id, begun.login_id, int(time.time())))
    return response


def end(response: Response) -> Response:
    """Take the cookie back."""
    response.delete_cookie(cookie(), path="/console", secure=_secure(), httponly=True, samesite="Strict")
    return response


def user() -> str | None:
    """The id of who looks at the page, or None where nobody has logged in; their login may have ended."""
    session = current()
    return session.user_id if session else None


def csrf() -> str:
    """What each form of the page sends along, and which no other site knows: made of the login."""
    return _csrf_by(current_app.config["BANK"].jwt_secret)


def _csrf_by(key: str) -> str:
    session: Session = g.session
    return hmac.digest(key.encode(), f"console:{session.login_id}".encode(), sha256).hex()


def _is_of_this_login(mark: str) -> bool:
    # A form may have been open since before the key was changed.
    return any(hmac.compare_digest(mark.encode(), _csrf_by(key).encode()) for key in current_app.config["BANK"].signing_keys)


def require_own_page() -> None:
    """Raise Forbidden for what another site's page made the browser send."""
    if not sent_by_own_page():
        raise Forbidden("This was not sent by a page of the console.")


def signed_in(*roles: Role, renews: bool = True, enrolling: bool = False) -> Callable[[View], View]:
    """Let a view run for who has logged in here and, where roles are given, has one of these. Others are led to the login.

    What changes something must come from a form of our own. The cookie lives on by each request of a person, and not by those of htmx,
    which asks by itself; `renews` says whether by this one. `enrolling` lets in also the administrator who must have a second factor and
    has none. The view raises Forbidden and EnrolmentRequired.
    """

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            session = current()
            if session is None:
                return _to_login()
            try:
                who = g.principal = standing(session.user_id, session.login_id)
            except Unauthenticated:
                return end(_to_login())
            g.session = session
            bind_contextvars(user_id=who.id)
            if request.method == "POST":
                g.writer = who.id
                require_own_page()
                if not _is_of_this_login(request.form.get("csrf", "")):
                    raise Forbidden("The form is not of this login. Open the page again.")
            if roles and who.role not in roles:
                raise Forbidden
            if not enrolling:
                require_enrolment(who)
            response = make_response(view(*args, **kwargs))
            if renews and "HX-Request" not in request.headers:
                _give(response, session)
            return response

        return guarded  # type: ignore[return-value]

    return decorate


def _signer() -> URLSafeTimedSerializer:
    options = {"key_derivation": "hmac", "digest_method": sha256}
    return URLSafeTimedSerializer(current_app.config["BANK"].signing_keys, salt="console", signer_kwargs=options)


def _secure() -> bool:
    return current_app.config["BANK"].env == "production" or request.is_secure


def cookie() -> str:
    """What the cookie is called: a browser takes the prefix from a connection that is encrypted only (RFC 6265bis, 4.1.3.1)."""
    return "__Secure-bank_console" if _secure() else "bank_console"


def current() -> Session | None:
    """What the request's cookie says, if it is ours and neither too old nor left alone for too long."""
    try:
        session = Session(*_signer().loads(request.cookies.get(cookie(), ""), max_age=IDLE_SECONDS))
    except (BadData, TypeError):
        # TypeError: of a version that kept something else in it.
        return None
    return session if time.time() - session.began_at < LONGEST_SECONDS else None


def _give(response: Response, session: Session) -> None:
    # Signed anew, so that the half hour begins anew. `Strict`: a link of another site leads to the login.
    response.set_cookie(
        cookie(),
        _signer().dumps(session),
        path="/console",
        secure=_secure(),
        httponly=True,
        samesite="Strict",
    )


def _to_login() -> Response:
    if "HX-Request" in request.headers:
        # htmx would put the page of the login into the part that it asked for.
        return Response(status=401, headers={"HX-Redirect": url_for("console.log_in")})
    asked = request.full_path.rstrip("?") if request.method == "GET" and request.path != url_for("console.home") else None
    return redirect(url_for("console.log_in", next=asked), 303)


def _next() -> str:
    """Where to go after the login: to the page that was asked for, if it is one of ours."""
    asked = request.form.get("next", "")
    ours = asked.startswith("/console/") and asked.isprintable() and "\\" not in asked
    # A browser goes up at "..", however it is written.
    climbs = ".." in unquote(asked.partition("?")[0]).split("/")
    return asked if ours and not climbs else url_for("console.home")
