"""Requests by the thousand that Schemathesis makes of our own OpenAPI document, and what must be true of every answer."""

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import psycopg2
import schemathesis
from argon2 import PasswordHasher
from flask import Flask
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.core.parameters import ParameterLocation
from schemathesis.specs.openapi import checks
from sqlalchemy import text
from werkzeug.test import TestResponse

from bank.auth import passwords, tokens
from bank.db import unit_of_work
from bank.web.context import new_id
from tests.conftest import PASSWORD, poster
from tests.contract.document import Document
from tests.contract.problems import check_form
from tests.security.cast import COLUMNS, Cast, cast

# How many cases one operation gets in a row, of one kind and as one caller.
_CHUNK = 25

_CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.missing_required_header,
]

# Those that end users and logins come last: who is gone is asked nothing more.
_LAST = ("auth_logout", "users_change_user", "users_delete_user")

# Not audit_logs: who could not log in is noted there, and is to be.
_COUNTED = (
    *("transactions", "entries", "events", "idempotency_keys", "accounts", "users", "batches", "schedules"),
    *("fx_rates", "fx_quotes", "limits", "rules", "replays"),
)


@dataclass
class Report:
    """What came of it: `finds` are what was wrong, by operation, with the first request that showed it."""

    seed: int
    cases: int = 0
    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    finds: dict[tuple[str, str], str] = field(default_factory=dict)

    def __str__(self) -> str:
        answered = ", ".join(f"{status}: {count}" for status, count in sorted(self.statuses.items()))
        return f"seed {self.seed}, {self.cases} cases, {self.seconds:.1f} seconds, {len(self.finds)} finds ({answered})"


class _Watch:
    """Tells whether rows came since it was asked last. Nobody else must write meanwhile."""

    _XID = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"
    _COUNTS = "SELECT " + ", ".join(f"(SELECT count(*) FROM {table})" for table in _COUNTED)

    def __init__(self, connection: Any) -> None:
        self._cursor = connection.cursor()
        self._xid, self._counts = self._one(self._XID), self._one(self._COUNTS)

    def _one(self, statement: str) -> tuple[Any, ...]:
        self._cursor.execute(statement)
        row: tuple[Any, ...] = self._cursor.fetchone()
        return row

    def written(self) -> dict[str, int]:
        """How many rows more there are than before, by table, where that is any."""
        # Whoever writes takes a transaction id. Where none was taken there is nothing to count, which is most of the time.
        xid = self._one(self._XID)
        if xid == self._xid:
            return {}
        before, self._xid, self._counts = self._counts, xid, self._one(self._COUNTS)
        grown = zip(_COUNTED, before, self._counts, strict=True)
        return {table: after - was for table, was, after in grown if after != was}


class _Lifelike:
    """Puts what there is in the place of what was made up, now and then: among all ids, hardly one made up is anybody's."""

    def __init__(self, who: Cast) -> None:
        ids = who.ids
        accounts = [ids["account_id"], ids["payer_account_id"]]
        users = [person.id for person in who.people.values()]
        transactions = [ids["transaction_id"], ids["hold_id"], ids["review_id"]]
        self._known: dict[str, list[Any]] = {
            **dict.fromkeys(("account_id", "from_account_id", "to_account_id"), accounts),
            **dict.fromkeys(("user_id", "to_user_id", "actor_id"), users),
            **dict.fromkeys(("transaction_id", "hold_id", "stream_id", "entity_id"), transactions),
            **{name: [ids[name]] for name in ("batch_id", "schedule_id", "limit_id")},
            **{name: ["USD", "USD", "EUR", "JPY", "BHD", "XAU"] for name in ("currency", "to_currency")},
            "amount": ["1.00", "0.01", 1, "1000000", "0.001"],
            "quote_id": [],
            "replay_id": [],
            "rule_id": [],
            "to_username": [person.username for person in who.people.values()],
            "username": [person.username for person in who.people.values()],
            **{name: [PASSWORD] for name in ("password", "current_password")},
            "time_zone": ["Europe/Prague", "UTC", "America/New_York"],
            "rrule": ["FREQ=DAILY", "FREQ=MONTHLY;BYMONTHDAY=31", "FREQ=HOURLY;INTERVAL=5;COUNT=3"],
            "expression": ["transaction.amount > 100000", "user.role == 'teller'", "transaction.metadata['x'] == 'y'"],
            **{name: ["2099-01-31T08:00:00Z"] for name in ("start", "run_at")},
            "effective_at": ["2020-02-29T23:59:59.999999Z"],
            "counterparties": [["outside"], accounts],
            "role": ["customer", "teller"],
        }

    def learn(self, operation: APIOperation, body: Any) -> None:
        """Remember what an answer has made."""
        if isinstance(body, dict) and isinstance(body.get("id"), str):
            name = {"quotes": "quote_id", "replays": "replay_id", "rules": "rule_id"}.get(operation.path.rpartition("/")[2])
            self._known.setdefault(name or "", []).append(body["id"])
        if isinstance(body, dict) and isinstance(body.get("next_cursor"), str):
            self._known["cursor"] = [body["next_cursor"]]

    def value(self, name: str, value: Any, draw: random.Random, often: float) -> Any:
        """The value of this name in a request, or what is known of its name."""
        known = self._known.get(name)
        if known and draw.random() < often:
            return draw.choice(known)
        if isinstance(value, dict):
            return self.members(value, draw, often)
        if isinstance(value, list):
            return [self.members(each, draw, often) if isinstance(each, dict) else each for each in value]
        return value

    def members(self, value: dict[str, Any], draw: random.Random, often: float) -> dict[str, Any]:
        return {name: self.value(name, member, draw, often) for name, member in value.items()}

    def put_into(self, case: Case, draw: random.Random) -> None:
        """Make a case more lifelike. What is wrong by intention stays so."""
        wrong = {place for place, made in case.meta.components.items() if made.mode.is_negative} if case.meta else set()
        if case.path_parameters and ParameterLocation.PATH not in wrong:
            case.path_parameters = self.members(dict(case.path_parameters), draw, 0.8)
        if case.query and ParameterLocation.QUERY not in wrong:
            case.query = self.members(dict(case.query), draw, 0.5)
        if isinstance(case.body, dict) and ParameterLocation.BODY not in wrong:
            case.body = self.members(self._like_example(case, draw), draw, 0.8)

    def _like_example(self, case: Case, draw: random.Random) -> dict[str, Any]:
        """Half of the time the example of the body, with some of what was made up in it: most of that alone breaks a rule that no schema
        can tell, such as to name one account of two."""
        content = case.operation.definition.raw["requestBody"]["content"].get("application/json", {})
        if draw.random() < 0.5 or "example" not in content:
            return case.body
        example = self.members(content["example"], draw, 1.0)
        return {**example, **{name: value for name, value in case.body.items() if draw.random() < (0.1 if name in example else 0.05)}}


class Fuzzer:
    """Asks an application, whose database nobody else uses, for everything that its document offers, as everybody."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        document = app.test_client().get("/openapi.json").json
        self.document, self.secured = Document(document), set()
        for _, _, operation in self.document.operations():
            # By it the document describes every status there is, and nothing could be missing.
            operation["responses"].pop("default")
            # The tokens are ours to send; a wrong one would be replaced, and taken for accepted.
            if operation.pop("security", None):
                self.secured.add(operation["operationId"])
        self.schema = schemathesis.openapi.from_dict(document)
        self.schema.app = app
        found = [each.ok() for each in self.schema.get_all_operations()]
        self.operations = sorted(found, key=lambda each: each.definition.raw["operationId"] in _LAST)
        self.strategies: dict[tuple[str, GenerationMode], st.SearchStrategy[Case]] = {}
        self.post = poster(app)

    def run(self, cases: int, first_seed: int, chunk: int = _CHUNK, tell: Callable[[Report], None] = lambda report: None) -> Report:
        """Send about `cases` requests, and no more."""
        report, started = Report(first_seed), time.monotonic()
        numbers = random.Random(first_seed)
        # What it costs to hash is what keeps a password, and would be most of what is done here.
        hasher, passwords.hasher = passwords.hasher, PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
        url = self.app.config["BANK"].database_url.replace("+psycopg2", "")
        try:
            with self.app.app_context():
                password_hash = passwords.hash(PASSWORD)
            with closing(psycopg2.connect(url)) as connection:
                connection.autocommit = True
                while report.cases < cases:
                    for column in COLUMNS:
                        # Nobody is refused at the door, which needs no thousands of proofs.
                        most = max(1, chunk // 8) if column == "nobody" else chunk
                        self._as_one(column, cast(self.app, password_hash, self.post), report, cases, most, numbers, _Watch(connection))
                        report.seconds = time.monotonic() - started
                        tell(report)
        finally:
            passwords.hasher = hasher
        return report

    def _as_one(self, column: str, who: Cast, report: Report, cases: int, chunk: int, numbers: random.Random, watch: _Watch) -> None:
        lifelike = _Lifelike(who)
        for operation in self.operations:
            for mode in GenerationMode.POSITIVE, GenerationMode.NEGATIVE:
                number, most = numbers.getrandbits(64), min(chunk, cases - report.cases)
                if most <= 0:
                    return
                # A login that ended in the chunk before is no reason to be asked nothing more.
                token = None if column == "nobody" else self._log_in(who.people[column].id)
                self._chunk(operation, mode, number, most, _Asker(self, operation, token, lifelike, report, watch))
            self.post()
            watch.written()

    def _log_in(self, user_id: str) -> str:
        login_id, refresh_id = new_id(), new_id()
        with self.app.app_context():
            with unit_of_work() as session:
                statement = text("INSERT INTO logins (id, user_id, refresh_jti) VALUES (:id, :user_id, :refresh)")
                session.execute(statement, {"id": login_id, "user_id": user_id, "refresh": refresh_id})
            return str(tokens.pair(user_id, login_id, refresh_id)["access_token"])

    def _chunk(self, operation: APIOperation, mode: GenerationMode, number: int, most: int, ask: Callable[[Case, int], None]) -> None:
        key = (operation.label, mode)
        if key not in self.strategies:
            self.strategies[key] = operation.as_strategy(generation_mode=mode)

        @seed(number)
        @settings(max_examples=most, phases=[Phase.generate], database=None, deadline=None, suppress_health_check=list(HealthCheck))
        @given(self.strategies[key], st.integers(0, 2**32))
        def send(case: Case, draw: int) -> None:
            ask(case, draw)

        try:
            send()
        except Unsatisfiable:
            # Where nothing can be wrong with a request, there is no wrong one.
            return


@dataclass
class _Asker:
    """Sends the cases of one operation as one caller, and looks at the answers."""

    fuzzer: Fuzzer
    operation: APIOperation
    token: str | None
    lifelike: _Lifelike
    report: Report
    watch: _Watch

    def __call__(self, case: Case, number: int) -> None:
        draw = random.Random(number)
        self.lifelike.put_into(case, draw)
        sent = case.as_transport_kwargs()
        sent["headers"] = self._headers(case, dict(sent["headers"]), draw)
        if "json" in sent:
            # The client would write it by the application's own JSON, which has no such numbers as are to be sent.
            sent["data"] = json.dumps(sent.pop("json"))
        self.watch.written()
        response = self.fuzzer.app.test_client().open(**sent)
        self.report.cases += 1
        self.report.statuses[response.status_code] += 1
        for what in self._wrong(case, response):
            told = {name: value for name, value in sent.items() if name != "headers"}
            asked = {name: value for name, value in sent["headers"].items() if name != "Authorization"}
            shown = f"{told} {asked} -> {response.status_code} {response.get_data(as_text=True)[:300]}"
            self.report.finds.setdefault((self.operation.label, what), shown)

    def _headers(self, case: Case, headers: dict[str, str], draw: random.Random) -> dict[str, str]:
        headers.pop("Authorization", None)
        # The client makes its own, and one that names no host makes a URL that the checks cannot read.
        headers.pop("Host", None)
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        # Nobody posts while a request waits, and it would wait for nothing but the end of its time.
        if "wait" in headers.get("Prefer", "").lower():
            headers["Prefer"] = "respond-async"
        if "304" in self.operation.definition.raw["responses"] and draw.random() < 0.2:
            headers[draw.choice(("If-Match", "If-None-Match"))] = draw.choice(("*", '"1"', 'W/"1", "x"', "x", ""))
        offered = [kind for answer in self.operation.definition.raw["responses"].values() for kind in answer.get("content", {})]
        # A stream that follows the log has no end.
        if offered and draw.random() < 0.2 and (case.query or {}).get("follow") != "true":
            headers["Accept"] = draw.choice(offered)
        return headers

    def _wrong(self, case: Case, response: TestResponse) -> Iterator[str]:
        status = response.status_code
        if status >= 500 and (status != 503 or "Retry-After" not in response.headers):
            yield f"{status} is a bug"
        if status >= 400:
            if written := self.watch.written():
                yield f"{status}, and yet it wrote to {', '.join(written)}"
            try:
                check_form(response, status)
            except (AssertionError, KeyError, ValueError) as error:
                yield f"{status} is no problem: {error!r}"[:300]
        else:
            if self.token is None and self.operation.definition.raw["operationId"] in self.fuzzer.secured:
                yield f"{status} for nobody"
            yield from self._objections(response)
        try:
            # The checks read what was sent from the request of the answer.
            case.validate_response(response, checks=_CHECKS)
        except FailureGroup as group:
            yield from (f"{status}: {type(each).__name__}: {each}"[:300] for each in group.exceptions)

    def _objections(self, response: TestResponse) -> Sequence[str]:
        """By what a success differs from the document, which must tell of all that is in it."""
        if response.mimetype != "application/json" or str(response.status_code) not in self.operation.definition.raw["responses"]:
            return []
        body = json.loads(response.data)
        self.lifelike.learn(self.operation, body)
        schema = self.fuzzer.document.answer(self.operation.definition.raw, response.status_code)["content"]["application/json"]["schema"]
        return [f"{response.status_code}: {each}" for each in self.fuzzer.document.objections(schema, body)][:3]
