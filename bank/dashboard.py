"""rq-dashboard behind the bank's own login: for active administrators only, and safe against foreign pages.

rq-dashboard brings no login, answers a GET that requeues jobs, reads pickles and writes what it finds in
Redis into its pages as HTML. Each of these is dealt with here; the dashboard itself is used as it is.
"""

import hmac
import json
import secrets
import time
from functools import partial
from hashlib import sha256
from typing import Any

import rq
from flask import Flask, Response, g, redirect, request
from jinja2.ext import Extension
from rq.serializers import JSONSerializer
from rq_dashboard import web
from sqlalchemy import text

from bank import db as database
from bank.audit import service as audit
from bank.auth import factors, throttle
from bank.auth.passwords import verify
from bank.config import Config
from bank.db import reader, unit_of_work
from bank.errors import BankError
from bank.events.types import Origin
from bank.observability import logs
from bank.users.models import Role, UserStatus
from bank.web.context import sent_by_own_page

MOUNT = "/rq"
# Browsers send the password with every request, several a second; argon2 is asked this often only.
REMEMBERED_S = 300
# HTTP Basic has a field for a password and none for a code, so the code stands behind the password, and a browser sends the two
# until they are refused. Asking for another one every five minutes would be asking for none.
REMEMBERED_WITH_CODE_S = 3_600
_REMEMBERED_AT_MOST = 1000
_DIGITS = 6

_USER = text(
    """
    SELECT u.id::text AS id, u.password_hash, u.role, u.status,
           EXISTS (SELECT FROM logins l WHERE l.user_id = u.id AND l.address = :address) AS known,
           (SELECT f.confirmed_at FROM second_factors f WHERE f.user_id = u.id) AS enrolled_at
    FROM users u WHERE lower(u.username) = lower(:username)
    """
)

# As a login does, so that of two who send one code at once the second finds it used.
_LOCK_USER = text("SELECT FROM users WHERE id = :id FOR NO KEY UPDATE")

# What is a tag, or ends an attribute, becomes a character that looks alike and means nothing.
_HARMLESS = str.maketrans({"<": "‹", ">": "›", '"': "″", "'": "′"})

# Each page has one inline script, which runs by the number used once that it is given. It fills the page by a template engine that
# compiles, so that cannot be forbidden. Nothing is loaded from and sent to elsewhere.
_POLICY = (
    "default-src 'self'; script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

_HEADERS = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def create_app(config: Config | None = None) -> Flask:
    """The dashboard as a WSGI application, mounted at /rq.

    Raises ConfigError when `config` is not given and the environment is not usable.
    """
    config = config or Config.from_env()
    logs.configure(config)
    app = Flask(__name__)
    app.config.update(
        BANK=config,
        **database.settings(config.database_url, "", pool_size=2),
        RQ_DASHBOARD_REDIS_URL=config.redis_url,
    )
    database.init_app(app)
    _speak_json()
    web.setup_rq_connection(app)
    app.register_blueprint(web.blueprint, url_prefix=MOUNT)
    app.jinja_env.add_extension(_Nonces)
    app.jinja_env.globals["nonce"] = _nonce
    app.add_url_rule("/", view_func=lambda: redirect(f"{MOUNT}/"), endpoint="home")
    gate = Gate(config.totp_for_admins)
    app.before_request(gate.admit)
    app.before_request(_refuse_foreign_changes)
    app.after_request(_harmless)
    return app


def _speak_json() -> None:
    # Jobs are JSON. rq-dashboard lets one say so for its queues only and takes pickles elsewhere, and a
    # pickle in Redis would run as code here.
    class JSONJob(rq.job.Job):
        @classmethod
        def fetch(cls, id: str, connection: Any = None, serializer: Any = None) -> "rq.job.Job":
            return rq.job.Job.fetch(id, connection=connection, serializer=serializer or JSONSerializer)

    class JSONWorker(rq.Worker):
        @classmethod
        def all(cls, connection: Any) -> list[Any]:  # type: ignore[override]
            return rq.Worker.all(connection=connection, serializer=JSONSerializer)

    web.config.serializer = JSONSerializer
    web.Job, web.Worker = JSONJob, JSONWorker
    web.requeue_job = partial(rq.requeue_job, serializer=JSONSerializer)


class Gate:
    """Lets active administrators in, by HTTP Basic authentication; holds for one process.

    Whoever has a second factor writes its six digits right behind the password. `code_required` keeps out who has none.
    """

    def __init__(self, code_required: bool) -> None:
        self._code_required = code_required
        self._key = secrets.token_bytes(32)
        # Digests of name, password and stored hash that were right, and until when that is remembered.
        self._right: dict[bytes, float] = {}

    def admit(self) -> Response | None:
        """None when the request may go on, else the answer that refuses it."""
        given = request.authorization
        if given is None or given.type != "basic" or not given.username or given.password is None:
            return _challenge()
        try:
            return None if self._is_administrator(given.username, given.password) else _challenge()
        except BankError as error:
            # Too many wrong passwords, or a database that is away.
            return Response(f"{error.detail}\n", error.status, error.headers, mimetype="text/plain")

    def _is_administrator(self, username: str, password: str) -> bool:
        if "\x00" in username:
            return False
        address = request.remote_addr
        with reader() as session:
            user = session.execute(_USER, {"username": username, "address": address}).one_or_none()
        # By when it was: a code of another authenticator than the one of now is not remembered.
        enrolled_at = user.enrolled_at if user is not None else None
        enrolled = enrolled_at is not None
        admin = user is not None and user.role == Role.ADMIN and user.status == UserStatus.ACTIVE and (enrolled or not self._code_required)
        # The stored hash and the role are read at each request, so a new password or a demotion holds at once.
        hashed = user.password_hash if user is not None else None
        digest = hmac.digest(self._key, json.dumps([username, password, hashed, str(enrolled_at)]).encode(), sha256)
        if admin and self._right.get(digest, 0) > time.monotonic():
            return True
        counted = throttle.subjects(user.id if user else username.lower(), address, known=bool(user and user.known))
        with reader() as session:
            throttle.check(session, counted)
        code = ""
        if enrolled:
            password, code = password[:-_DIGITS], password[-_DIGITS:]
        good = verify(hashed, password)
        with unit_of_work() as session:
            if good and enrolled and user is not None:
                session.execute(_LOCK_USER, {"id": user.id})
                good = code.isascii() and code.isdigit() and factors.spend(session, user.id, code)
            throttle.settle(session, counted, good=good)
            if not good:
                told = {"at": "rq-dashboard"}
                audit.record(session, "user", user.id if user else None, "login.failed", Origin(address=address), told)
        if not (good and admin):
            return False
        if len(self._right) >= _REMEMBERED_AT_MOST:
            self._right.clear()
        self._right[digest] = time.monotonic() + (REMEMBERED_WITH_CODE_S if enrolled else REMEMBERED_S)
        return True


def _challenge() -> Response:
    headers = {"WWW-Authenticate": 'Basic realm="bank", charset="UTF-8"'}
    return Response("Log in as an administrator of the bank.\n", 401, headers, mimetype="text/plain")


def _refuse_foreign_changes() -> Response | None:
    """Refuse what another site's page made the browser send along with the administrator's password."""
    changes = request.url_rule is not None and "POST" in (request.url_rule.methods or ())
    if not changes:
        return None
    if request.method != "POST":
        # rq-dashboard requeues a whole queue for a GET, which any image tag could send.
        return Response("Only by POST.\n", 405, {"Allow": "POST"}, mimetype="text/plain")
    return None if sent_by_own_page() else Response("Only from the dashboard's own pages.\n", 403, mimetype="text/plain")


class _Nonces(Extension):
    """Lets the inline script of rq-dashboard's own templates run: it is put into these before they are filled, so that what
    somebody else brings into a page gets none."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        return source.replace('<script type="text/javascript">', '<script type="text/javascript" nonce="{{ nonce() }}">')


def _nonce() -> str:
    """The number of the answer to the current request."""
    return str(g.setdefault("nonce", secrets.token_urlsafe(16)))


def _harmless(response: Response) -> Response:
    # The pages put strings of these answers into their HTML as they are.
    if response.mimetype == "application/json":
        response.set_data(json.dumps(_translated(response.get_json())))
    response.headers["Content-Security-Policy"] = _POLICY.format(nonce=_nonce())
    response.headers.extend({name: value for name, value in _HEADERS.items() if name not in response.headers})
    return response


def _translated(value: Any) -> Any:
    if isinstance(value, str):
        return value.translate(_HARMLESS)
    if isinstance(value, list):
        return [_translated(item) for item in value]
    if isinstance(value, dict):
        return {_translated(name): _translated(item) for name, item in value.items()}
    return value
