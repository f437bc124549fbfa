"""Requests by the thousand that Schemathesis makes of our own OpenAPI document, and what must be true of every answer."""

import itertools
import json
import random
import re
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
from hypothesis.errors import Flaky, Unsatisfiable
from requests.structures import CaseInsensitiveDict
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.core.parameters import ParameterLocation
from schemathesis.core.transport import Response
from schemathesis.engine.recorder import ScenarioRecorder
from schemathesis.generation.meta import TestPhase
from schemathesis.generation.stateful.state_machine import StepInput, StepOutput
from schemathesis.openapi.checks import IgnoredAuth
from schemathesis.specs.openapi import checks
from sqlalchemy import text
from werkzeug.test import TestResponse

from bank.auth import passwords, tokens
from bank.db import unit_of_work
from bank.users.models import Role
from bank.web.context import new_id
from tests.conftest import PASSWORD, people, poster
from tests.contract.document import Document
from tests.contract.problems import check_form
from tests.security.cast import COLUMNS, Cast, cast

# How many cases one operation gets in a row, of one kind and as one caller, who follows twice as many chains.
_CHUNK = 25

# How many requests a chain has at most: enough to register, open an account, pay into it, take that back and read what came of it, with
# others in between.
_STEPS = 20

CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.positive_data_acceptance,
    checks.missing_required_header,
    checks.unsupported_method,
    checks.allow_header_conformance,
    checks.ignored_auth,
    checks.ensure_resource_availability,
    checks.use_after_free,
]

# The checks of Schemathesis that are not among them, and why.
LEFT_OUT = {
    "not_a_server_error": "A 503 that says when to try again is documented. Every other 5xx is a find, by a rule of our own.",
    "max_response_time": "How long an answer takes is measured by tests/bench, where nothing else runs.",
    "object_level_authorization": "It takes for a hole that staff read what is another's. tests/security/authorization.py knows who may.",
}

# What else may answer to a request that fits the document, but not a 400, say: a version or a media type that we asked for besides is not
# there; and what no schema can tell, as that an account holds too little.
_REFUSALS = ["406", "412", "422"]

# Where things are still to be read after they were deleted: a user's history stays, and a schedule is cancelled.
_SOFTLY_DELETED = ("/api/v1/users/", "/api/v1/schedules/")

# Those that end users and logins come last: who is gone is asked nothing more.
_LAST = ("auth_logout", "users_change_user", "users_delete_user", "privacy_erase_user")

# Not audit_logs: who could not log in is noted there, and is to be.
_COUNTED = (
    *("transactions", "entries", "events", "idempotency_keys", "accounts", "users", "batches", "schedules"),
    *("fx_rates", "fx_quotes", "limits", "rules", "replays", "erased_events"),
)


# What an operation makes, by the name that ids of its kind have.
_MADE_BY = {
    "/accounts": "account_id",
    **{f"/transactions/{kind}": "transaction_id" for kind in ("credit", "debit", "transfer", "{transaction_id}/rollback")},
    "/transactions/batch": "batch_id",
    "/schedules": "schedule_id",
    "/limits": "limit_id",
    "/rules": "rule_id",
    "/fx/quotes": "quote_id",
    "/admin/replays": "replay_id",
}

# How many of a kind are remembered besides the newest one.
_REMEMBERED = 4


@dataclass
class Report:
    """What came of it: `finds` are what was wrong, by operation, with the first request that showed it.

    `links` are those of chains that led from one success to another, as the two operations.
    """

    seed: int
    cases: int = 0
    chained: int = 0
    seconds: float = 0.0
    statuses: dict[str, Counter[int]] = field(default_factory=lambda: {column: Counter() for column in COLUMNS})
    finds: dict[tuple[str, str], str] = field(default_factory=dict)
    links: set[tuple[str, str]] = field(default_factory=set)
    # The operations that were seen to refuse who has no token, or one that is none. To ask each once is enough.
    guarded: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        answered = ", ".join(f"{status}: {count}" for status, count in sorted(self.answered().items()))
        asked = {"all": self.cases, **{column: found.total() for column, found in self.statuses.items()}}
        succeeded = ", ".join(f"{column} {share:.0%} of {asked[column]}" for column, share in self.succeeded().items())
        return (
            f"seed {self.seed}, {self.cases} cases, {self.seconds:.1f} seconds, {len(self.finds)} finds\n"
            f"chains: {self.chained} cases, {len(self.links)} links\n"
            f"answered: {answered}\nsucceeded: {succeeded}"
        )

    def answered(self) -> Counter[int]:
        """How often each status came."""
        return sum(self.statuses.values(), Counter())

    def succeeded(self) -> dict[str, float]:
        """What share of the requests did what they asked for: of all, and by who asked."""
        counted = {"all": self.answered(), **self.statuses}
        return {name: sum(n for status, n in found.items() if status < 300) / max(1, found.total()) for name, found in counted.items()}


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
    """Puts what there is in the place of what was made up, most of the time: among all ids, hardly one made up is anybody's."""

    def __init__(self, who: Cast, column: str) -> None:
        ids = who.ids
        accounts = [ids["account_id"], ids["payer_account_id"]]
        users = [person.id for person in who.people.values()]
        transactions = [ids["transaction_id"], ids["hold_id"], ids["review_id"]]
        # Customers may ask for their own things only.
        asks = [who.people[column].id] * 5 if column in who.people else []
        names = [person.username for person in who.people.values()]
        self._known: dict[str, list[Any]] = {
            **dict.fromkeys(("account_id", "from_account_id", "to_account_id"), accounts),
            "user_id": [*asks, *users],
            **dict.fromkeys(("to_user_id", "actor_id"), users),
            **dict.fromkeys(("transaction_id", "stream_id", "entity_id"), transactions),
            **{name: [ids[name]] for name in ("hold_id", "batch_id", "schedule_id", "limit_id")},
            # Most of what anybody has is in USD.
            "currency": [*["USD"] * 5, "EUR", "JPY", "BHD", "XAU"],
            "to_currency": ["EUR", "JPY"],
            "amount": ["1.00", "0.01", "2.50", 1, "1000000", "0.001"],
            **dict.fromkeys(("to_username", "username"), names),
            **{name: [PASSWORD] for name in ("password", "current_password")},
            "time_zone": ["Europe/Prague", "UTC", "America/New_York"],
            "rrule": ["FREQ=DAILY", "FREQ=MONTHLY;BYMONTHDAY=31", "FREQ=HOURLY;INTERVAL=5;COUNT=3"],
            "expression": ["transaction.amount > 100000", "user.role == 'teller'", "transaction.metadata['x'] == 'y'"],
            **{name: ["2099-01-31T08:00:00Z"] for name in ("start", "run_at", "expires_at")},
            **{name: ["2020-02-29T23:59:59.999999Z"] for name in ("effective_at", "known_at")},
            "metadata": [{"order": "4711"}, {}],
            "counterparties": [["outside"], accounts],
            "role": ["customer", "teller"],
        }

    def learn(self, operation: APIOperation, body: Any) -> None:
        """Remember what an answer has made, or where the next page of a list begins."""
        if not isinstance(body, dict):
            return
        name = _MADE_BY.get(operation.path.removeprefix("/api/v1"))
        # What would be made has no id yet.
        if name and operation.method == "post" and isinstance(body.get("id"), str):
            self._known[name] = [*self._known.get(name, [])[-_REMEMBERED:], body["id"]]
        if isinstance(body.get("next_cursor"), str):
            self._known[f"cursor of {operation.label}"] = [body["next_cursor"]]

    def put_into(self, case: Case, draw: random.Random, linked: StepInput | None = None) -> None:
        """Make a case more lifelike. What is wrong by intention stays so, and what a chain took from an earlier answer."""
        kept = {place for place, made in case.meta.components.items() if made.mode.is_negative} if case.meta else set()
        taken = set(linked.applied_parameters) if linked else set()
        # In a chain, an id that no earlier answer gave is meant to be nobody's.
        linked_path = linked is not None and linked.transition is not None
        if case.path_parameters and ParameterLocation.PATH not in kept and not linked_path:
            case.path_parameters = self._members(dict(case.path_parameters), draw, 0.8)
        # What was reckoned out is at the boundary of something, and most of it has to stay there.
        if case.meta and case.meta.phase.name is TestPhase.COVERAGE:
            if case.query and ParameterLocation.QUERY not in kept:
                case.query = self._members(dict(case.query), draw, 0.5)
            if isinstance(case.body, dict) and ParameterLocation.BODY not in kept:
                case.body = self._members(case.body, draw, 0.5)
            return
        if case.query and ParameterLocation.QUERY not in kept:
            query = {name: value for name, value in case.query.items() if (ParameterLocation.QUERY, name) in taken}
            case.query = {**self._like_asked(case, draw), **query}
        if isinstance(case.body, dict) and ParameterLocation.BODY not in kept:
            body = {name: value for name, value in case.body.items() if (ParameterLocation.BODY, name) in taken}
            case.body = {**self._like_example(case, case.body, draw), **body}

    def _value(self, name: str, value: Any, draw: random.Random, often: float) -> Any:
        """The value of this name in a request, or what is known of its name."""
        known = self._known.get(name)
        if known and draw.random() < often:
            return draw.choice(known)
        if isinstance(value, dict):
            return self._members(value, draw, often)
        if isinstance(value, list):
            return [self._members(each, draw, often) if isinstance(each, dict) else each for each in value]
        # No schema tells that a text holds no control characters.
        return "".join(filter(str.isprintable, value)) if isinstance(value, str) and draw.random() < often else value

    def _members(self, value: dict[str, Any], draw: random.Random, often: float) -> dict[str, Any]:
        return {name: self._value(name, member, draw, often) for name, member in value.items()}

    def _like_asked(self, case: Case, draw: random.Random) -> dict[str, Any]:
        """A query with the examples of its parameters, and half of the time with few of them: of all at once, one is always wrong."""
        parameters = {each["name"]: each for each in case.operation.definition.raw["parameters"] if each["in"] == "query"}
        thin = draw.random() < 0.5
        query = {}
        for name, value in case.query.items():
            parameter = parameters.get(name, {})
            if thin and not parameter.get("required") and draw.random() < 0.6:
                continue
            if name == "cursor" and draw.random() < 0.8:
                # Where there is no next page yet, the first one.
                if not (known := self._known.get(f"cursor of {case.operation.label}")):
                    continue
                value = draw.choice(known)
            elif "example" in parameter.get("schema", {}) and name not in self._known and draw.random() < 0.8:
                value = parameter["schema"]["example"]
            query[name] = self._value(name, value, draw, 0.8)
        return query

    def _like_example(self, case: Case, body: dict[str, Any], draw: random.Random) -> dict[str, Any]:
        """Most of the time the example of the body, with some of what was made up in it: most of that alone breaks a rule that no schema
        can tell, such as to name one account of two."""
        content = case.operation.definition.raw["requestBody"]["content"].get("application/json", {})
        made_up = self._members(body, draw, 0.9)
        if draw.random() < 0.3 or "example" not in content:
            return made_up
        example = self._members(content["example"], draw, 1.0)
        if case.operation.path.endswith("/register"):
            # Each can be taken once.
            example["username"] = f"u{draw.getrandbits(64)}"
            example["email"] = f"{example['username']}@example.com"
        return {**example, **{name: value for name, value in made_up.items() if draw.random() < (0.1 if name in example else 0.05)}}


class Fuzzer:
    """Asks an application, whose database nobody else uses, for everything that its document offers, as everybody."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        document = _by_things(app.test_client().get("/openapi.json").get_data(as_text=True))
        self.document = Document(document)
        for _, _, operation in self.document.operations():
            # By it the document describes every status there is, and nothing could be missing.
            operation["responses"].pop("default")
        self.schema = schemathesis.openapi.from_dict(document)
        self.schema.app = app
        # The tokens are ours to send; a wrong one would be replaced, and taken for accepted.
        self.schema.config.generation.update(with_security_parameters=False)
        self.schema.config.checks.positive_data_acceptance.expected_statuses += _REFUSALS
        # A chain goes on from what succeeded. What is wrong is asked for one by one.
        self.schema.config.phases.stateful.generation.update(modes=[GenerationMode.POSITIVE])
        found = [each.ok() for each in self.schema.get_all_operations()]
        self.operations = sorted(found, key=lambda each: each.definition.raw["operationId"] in _LAST)
        self.strategies: dict[tuple[str, GenerationMode], st.SearchStrategy[Case]] = {}
        self.boundaries: dict[str, list[Case]] = {}
        self.chains = chains_of(self.schema)
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

                def begin(column: str) -> _Asker:
                    return _Asker(self, column, lambda: self._new_cast(password_hash), report, cases, _Watch(connection))

                for column in itertools.cycle(COLUMNS):
                    if report.cases >= cases:
                        break
                    # Nobody is refused at the door, which needs no thousands of proofs.
                    most = max(1, chunk // 8) if column == "nobody" else chunk
                    # Each link of a chain needs what the one before made, and nobody makes anything.
                    if column != "nobody":
                        self._chain(begin(column), 2 * most, numbers.getrandbits(64))
                    self._one_by_one(begin(column), most, numbers)
                    report.seconds = time.monotonic() - started
                    tell(report)
        finally:
            passwords.hasher = hasher
        return report

    def _new_cast(self, password_hash: str) -> Cast:
        admin = people(self.app, password_hash, {"admin": Role.ADMIN})["admin"]
        # What admins before have set would be for these too, and a bank has fifty rules at most.
        for path in "/rules", "/limits":
            for each in admin.get(f"{path}?limit=200").json["data"]:
                assert admin.request("DELETE", f"{path}/{each['id']}").status_code == 204
        # Without a rate nothing could be changed into another currency.
        assert admin.post("/fx/rates", {"currency": "USD", "rate": "1.25"}).status_code == 201
        return cast(self.app, password_hash, self.post)

    def _one_by_one(self, ask: "_Asker", most: int, numbers: random.Random) -> None:
        """Ask for each operation by itself."""
        for operation in self.operations:
            # A login that ended in the chunk before is no reason to be asked nothing more.
            ask.log_in()
            for mode in GenerationMode.POSITIVE, GenerationMode.NEGATIVE:
                self._made_up(operation, mode, most, ask, numbers.getrandbits(64))
            self._at_boundaries(operation, most, ask, numbers)
            self.post()

    def _made_up(self, operation: APIOperation, mode: GenerationMode, most: int, ask: "_Asker", number: int) -> None:
        key = (operation.label, mode)
        if key not in self.strategies:
            self.strategies[key] = operation.as_strategy(generation_mode=mode)

        @seed(number)
        @_settings(most)
        @given(self.strategies[key], st.integers(0, 2**32))
        def send(case: Case, draw: int) -> None:
            ask(case, random.Random(draw))

        try:
            send()
        except Unsatisfiable:
            # Where nothing can be wrong with a request, there is no wrong one.
            return

    def _at_boundaries(self, operation: APIOperation, most: int, ask: "_Asker", numbers: random.Random) -> None:
        """Send some of the cases that Schemathesis reckons out and does not make up: the longest value and one longer, what is required
        left out, methods that there are none of."""
        if operation.label not in self.boundaries:
            config = self.schema.config.generation_for(operation=operation, phase="coverage")
            found = self.schema.iter_coverage_cases(operation, generation_modes=list(GenerationMode), generation_config=config)
            self.boundaries[operation.label] = list(found)
        cases = self.boundaries[operation.label]
        for case in numbers.sample(cases, min(most, len(cases))):
            ask(case, numbers)

    def _chain(self, ask: "_Asker", most: int, number: int) -> None:
        """Follow chains of requests, each of which needs what an earlier one has made, as the links of the document tell."""
        self.chains.ask, self.chains.rule_order_seed = ask, number
        try:
            seed(number)(self.chains).run(settings=settings(_settings(most), stateful_step_count=_STEPS))
        except Flaky:
            # Hypothesis asked the same again, and the bank had changed meanwhile, which is no bug. The next round has other chains.
            return


def _settings(most: int) -> settings:
    return settings(max_examples=most, phases=[Phase.generate], database=None, deadline=None, suppress_health_check=list(HealthCheck))


def _by_things(text: str) -> dict[str, Any]:
    """The document with each schema of an answer named as the thing that it is, from which Schemathesis infers that an `account_id` is the
    `id` of an Account; and with the links that cannot be told from names."""

    def renamed(name: str) -> str:
        return name.removesuffix("Answer") if name.endswith("Answer") else f"{name}Asked"

    document: dict[str, Any] = json.loads(re.sub(r"(?<=#/components/schemas/)\w+", lambda found: renamed(found[0]), text))
    document["components"]["schemas"] = {renamed(name): schema for name, schema in document["components"]["schemas"].items()}
    paid_from = {"from_account_id": "$response.body#/id", "currency": "$response.body#/currency"}
    document["paths"]["/api/v1/accounts"]["post"]["responses"]["201"]["links"] = {
        "pay": {"operationId": "transactions_transfer", "requestBody": paid_from},
        "pay_later": {"operationId": "schedules_create_schedule", "requestBody": {"transfer": paid_from}},
    }
    return document


def chains_of(schema: Any) -> Any:
    """The state machine that Schemathesis makes of the links, with our way to send."""
    machine: Any = schema.as_state_machine()

    class Chains(machine):
        ask: "_Asker"

        def setup(self) -> None:
            self.ask.begin_chain()

        def step(self, input: StepInput) -> StepOutput | None:
            response = self.ask.step(input, self.recorder)
            return StepOutput(response, input.case) if response else None

    return Chains


@dataclass
class _Asker:
    """Sends cases as one caller, and looks at the answers.

    `column` is who that is in the cast, and `most` how many cases the report may have.
    """

    fuzzer: Fuzzer
    column: str
    new_cast: Callable[[], Cast]
    report: Report
    most: int
    watch: _Watch
    token: str | None = None
    lost: bool = False

    def __post_init__(self) -> None:
        self.join(self.new_cast())

    def join(self, who: Cast) -> None:
        """Be one of these from now on."""
        self.who, self.lifelike = who, _Lifelike(who, self.column)

    def begin_chain(self) -> None:
        """Log in anew, and where the last chain ended whom it was for, as somebody new."""
        if self.lost:
            self.join(self.new_cast())
            self.lost = False
        self.log_in()

    def log_in(self) -> None:
        """Begin a login, as somebody who has one."""
        if self.column == "nobody":
            return
        user_id, login_id, refresh_id = self.who.people[self.column].id, new_id(), new_id()
        with self.fuzzer.app.app_context():
            with unit_of_work() as session:
                statement = text("INSERT INTO logins (id, user_id, refresh_jti) VALUES (:id, :user_id, :refresh)")
                session.execute(statement, {"id": login_id, "user_id": user_id, "refresh": refresh_id})
            self.token = str(tokens.pair(user_id, login_id, refresh_id)["access_token"])

    def __call__(self, case: Case, draw: random.Random) -> None:
        """Send one case, unless that would be one too many."""
        if self.report.cases < self.most:
            self.lifelike.put_into(case, draw)
            self._send(case, draw, None)

    def step(self, linked: StepInput, recorder: ScenarioRecorder) -> Response | None:
        """Send the next case of a chain, unless that would be one too many, and let what is pending be posted."""
        if self.report.cases >= self.most:
            return None
        draw = random.Random(self.report.seed + self.report.cases)
        self.lifelike.put_into(linked.case, draw, linked)
        response = self._send(linked.case, draw, recorder)
        self.report.chained += 1
        source = recorder.find_parent(case_id=linked.case.id)
        if source and response.status_code < 300:
            self.report.links.add((source.operation.label, linked.case.operation.label))
        if response.status_code == 202:
            self.fuzzer.post()
        self.lost = self.lost or response.status_code == 401
        return response

    def _send(self, case: Case, draw: random.Random, recorder: ScenarioRecorder | None) -> Response:
        sent = case.as_transport_kwargs()
        sent["headers"] = self._headers(case, CaseInsensitiveDict(sent["headers"]), draw)
        if "json" in sent:
            # The client would write it by the application's own JSON, which has no such numbers as are to be sent.
            sent["data"] = json.dumps(sent.pop("json"))
        self.watch.written()
        answer = self.fuzzer.app.test_client().open(**sent)
        # The checks read what was sent from the request of the answer.
        response = Response.from_any(answer)
        if recorder:
            recorder.record_response(case_id=case.id, response=response)
        self.report.cases += 1
        self.report.statuses[self.column][answer.status_code] += 1
        for what in self._wrong(case, answer, response, sent["headers"], recorder):
            told = {name: value for name, value in sent.items() if name != "headers"}
            asked = {name: value for name, value in sent["headers"].items() if name != "Authorization"}
            shown = f"{self.column}: {told} {asked} -> {answer.status_code} {answer.get_data(as_text=True)[:300]}"
            self.report.finds.setdefault((case.operation.label, what), shown)
        return response

    def _headers(self, case: Case, headers: CaseInsensitiveDict[str], draw: random.Random) -> dict[str, str]:
        headers.pop("Authorization", None)
        # The client makes its own, and one that names no host makes a URL that the checks cannot read.
        headers.pop("Host", None)
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        # Nobody posts while a request waits, and it would wait for nothing but the end of its time.
        if "wait" in headers.get("Prefer", "").lower():
            headers["Prefer"] = "respond-async"
        if "304" in case.operation.definition.raw["responses"] and draw.random() < 0.2:
            headers[draw.choice(("If-Match", "If-None-Match"))] = draw.choice(("*", '"1"', 'W/"1", "x"', "x", ""))
        offered = [kind for answer in case.operation.definition.raw["responses"].values() for kind in answer.get("content", {})]
        # A stream that follows the log has no end.
        if offered and draw.random() < 0.2 and (case.query or {}).get("follow") != "true":
            headers["Accept"] = draw.choice(offered)
        return dict(headers)

    def _wrong(
        self, case: Case, answer: TestResponse, response: Response, headers: dict[str, str], recorder: ScenarioRecorder | None
    ) -> Iterator[str]:
        status, label = answer.status_code, case.operation.label
        if status >= 500 and (status != 503 or "Retry-After" not in answer.headers):
            yield f"{status} is a bug"
        if status >= 400:
            if written := self.watch.written():
                yield f"{status}, and yet it wrote to {', '.join(written)}"
            try:
                check_form(answer, status)
            except (AssertionError, KeyError, ValueError) as error:
                yield f"{status} is no problem: {error!r}"[:300]
        else:
            yield from self._objections(case, answer)
        left_out = [checks.use_after_free] if case.operation.path.startswith(_SOFTLY_DELETED) else []
        if case.media_type == "text/csv":
            # To the document it is any text.
            left_out.append(checks.positive_data_acceptance)
        if label in self.report.guarded and self.token:
            left_out.append(checks.ignored_auth)
        try:
            case.validate_response(response, checks=CHECKS, excluded_checks=left_out, headers=headers, recorder=recorder)
        except FailureGroup as group:
            yield from (f"{status}: {type(each).__name__}: {each}"[:300] for each in group.exceptions)
            if any(isinstance(each, IgnoredAuth) for each in group.exceptions):
                return
        # Of a method that the document does not have, the check asks nothing.
        if self.token and 200 <= status < 300 and case.method == case.operation.method.upper():
            self.report.guarded.add(label)

    def _objections(self, case: Case, answer: TestResponse) -> Sequence[str]:
        """By what a success differs from the document, which must tell of all that is in it."""
        operation = case.operation.definition.raw
        if answer.mimetype != "application/json" or str(answer.status_code) not in operation["responses"]:
            return []
        body = json.loads(answer.data)
        self.lifelike.learn(case.operation, body)
        schema = self.fuzzer.document.answer(operation, answer.status_code)["content"]["application/json"]["schema"]
        return [f"{answer.status_code}: {each}" for each in self.fuzzer.document.objections(schema, body)][:3]
