"""Reads go to a replica that has all the caller has written, and money never does."""

import secrets
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask, g
from werkzeug.test import TestResponse

from bank import create_app
from bank.cli.migrate import add_lanes, bind
from bank.config import Config
from bank.db import Databases, databases
from bank.errors import Unavailable
from bank.processing.queue import redis
from bank.resilience import deadlines
from bank.resilience import replicas as module
from bank.resilience.cache import AsOf
from bank.resilience.replicas import Replicas
from bank.users.models import Role
from tests.conftest import PASSWORD, Person, people, poster
from tests.processes import wait_until
from tests.replica import Postgres, Replica, ask_as_superuser, primary_and_replica, signal_all

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

Pair = tuple[Postgres, Replica]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with primary_and_replica() as both:
        yield both


@pytest.fixture(scope="module")
def routed(environ: Mapping[str, str], pair: Pair) -> Flask:
    from flask_migrate import upgrade

    primary, replica = pair
    config = Config.from_env(
        {**environ, "DATABASE_URL": primary.url, "DATABASE_REPLICA_URL": replica.url, "BANK_REPLICA_MAX_LAG_SECONDS": "2"}
    )
    app = create_app(config)
    with app.app_context():
        bind(app)
        upgrade()
        add_lanes(config)
    return app


@pytest.fixture(autouse=True)
def _all_up(routed: Flask, pair: Pair) -> None:
    """Both answer, and the replica is followed, as the test before may have left it otherwise."""
    for server in pair:
        if server.process.poll() is not None:
            server.stop()
            server.start()
    ask_as_superuser(pair[1], "SELECT pg_wal_replay_resume()")
    with routed.app_context():
        wait_until(lambda: databases().primary.closed and databases().replica.closed, "the breakers close")
        wait_until(lambda: _age(routed) < 1, "the replica is fresh")


def _age(routed: Flask) -> float:
    seen = routed.extensions["replicas"].seen
    return 1_000.0 if seen is None else time.monotonic() - seen.confirmed_at


@pytest.fixture
def cast(routed: Flask, password_hash: str) -> dict[str, Person]:
    return people(routed, password_hash, {"alice": Role.CUSTOMER, "bob": Role.CUSTOMER, "teller": Role.TELLER, "admin": Role.ADMIN})


@pytest.fixture
def post(routed: Flask) -> Callable[[], None]:
    return poster(routed)


def from_replica(answer: TestResponse) -> bool:
    return "Age" in answer.headers


def read(who: Person, path: str, position: str | None = None) -> TestResponse:
    answer = who.get(path, headers={} if position is None else {"Bank-Position": position})
    assert answer.status_code == 200, answer.json
    return answer


def test_who_has_written_nothing_reads_from_the_replica_and_is_told_how_old_that_is(cast: dict[str, Person]) -> None:
    wait_until(lambda: from_replica(read(cast["alice"], "/accounts")), "the replica has the login")
    answer = read(cast["alice"], "/accounts")
    assert 0 <= int(answer.headers["Age"]) <= 2
    assert int(answer.headers["Bank-Position"]) > 0


@pytest.mark.parametrize("sends_it_back", [True, False])
def test_what_somebody_has_written_is_there_when_they_read(cast: dict[str, Person], pair: Pair, sends_it_back: bool) -> None:
    alice, bob = cast["alice"], cast["bob"]
    wait_until(lambda: from_replica(read(bob, "/accounts")), "the replica has the logins")
    ask_as_superuser(pair[1], "SELECT pg_wal_replay_pause()")
    made = alice.post("/accounts", {"currency": "USD"})
    position = made.headers["Bank-Position"] if sends_it_back else None
    # The replica is fresh enough for others, who have written nothing.
    assert from_replica(read(bob, "/accounts"))
    own = read(alice, f"/accounts/{made.json['id']}", position)
    assert not from_replica(own)
    ask_as_superuser(pair[1], "SELECT pg_wal_replay_resume()")
    wait_until(lambda: from_replica(read(alice, f"/accounts/{made.json['id']}", position)), "the replica has come past it")


def test_a_position_that_is_none_and_one_that_is_far_ahead_lead_to_the_primary(cast: dict[str, Person]) -> None:
    wait_until(lambda: from_replica(read(cast["bob"], "/accounts")), "the replica has the login")
    for told in ("", "now", "-1", "1.5", "9" * 19, "9" * 30, "١"):
        assert not from_replica(read(cast["bob"], "/accounts", told.encode().decode("latin-1"))), told


def test_a_replica_that_is_too_far_behind_is_not_read_from(cast: dict[str, Person], pair: Pair, routed: Flask) -> None:
    bob = cast["bob"]
    wait_until(lambda: from_replica(read(bob, "/accounts")), "the replica has the login")
    ask_as_superuser(pair[1], "SELECT pg_wal_replay_pause()")
    cast["alice"].open_account()
    wait_until(lambda: not from_replica(read(bob, "/accounts")), "it has become too old", 10)
    assert _age(routed) > 2


def test_an_idle_bank_does_not_make_its_replica_old(cast: dict[str, Person], routed: Flask) -> None:
    bob = cast["bob"]
    wait_until(lambda: from_replica(read(bob, "/accounts")), "the replica has the login")
    until = time.monotonic() + 3
    wait_until(lambda: time.monotonic() > until, "longer than the most lag goes by")
    assert from_replica(read(bob, "/accounts"))


def test_who_was_frozen_a_moment_ago_is_shut_out_of_the_replica_too(cast: dict[str, Person], pair: Pair) -> None:
    bob = cast["bob"]
    wait_until(lambda: from_replica(read(bob, "/accounts")), "the replica has the login")
    ask_as_superuser(pair[1], "SELECT pg_wal_replay_pause()")
    user = cast["admin"].get(f"/users/{bob.id}")
    body = {"username": bob.username, "email": user.json["email"], "role": "customer", "status": "frozen"}
    answer = cast["admin"].request("PUT", f"/users/{bob.id}", json=body, headers={"If-Match": user.headers["ETag"]})
    assert answer.status_code == 200, answer.json
    assert bob.get("/accounts").status_code == 401


def test_money_is_never_decided_from_a_replica(cast: dict[str, Person], pair: Pair, post: Callable[[], None]) -> None:
    alice, bob, teller = cast["alice"], cast["bob"], cast["teller"]
    ours, theirs = alice.open_account()["id"], bob.open_account()["id"]
    credit = {"account_id": ours, "amount": "10.00", "currency": "USD"}
    assert teller.post("/transactions/credit", credit).status_code in (202, 201)
    post()
    wait_until(lambda: from_replica(read(alice, f"/accounts/{ours}")), "the replica has the money")
    ask_as_superuser(pair[1], "SELECT pg_wal_replay_pause()")
    for status in ("completed", "failed"):
        body = {"from_account_id": ours, "to_account_id": theirs, "amount": "10.00", "currency": "USD"}
        sent = alice.post("/transactions/transfer", body)
        post()
        assert read(alice, f"/transactions/{sent.json['id']}").json["status"] == status


def test_who_has_just_registered_and_logged_in_is_there(routed: Flask, pair: Pair) -> None:
    ask_as_superuser(pair[1], "SELECT pg_wal_replay_pause()")
    client, name = routed.test_client(), f"new-{secrets.token_hex(5)}"
    made = client.post("/api/v1/auth/register", json={"username": name, "email": f"{name}@example.com", "password": PASSWORD})
    assert made.status_code == 201, made.json
    login = client.post("/api/v1/auth/login", json={"username": name, "password": PASSWORD})
    token = login.json["access_token"]
    assert client.get(f"/api/v1/users/{made.json['id']}", headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_a_replica_that_hangs_holds_up_nobody_for_long(cast: dict[str, Person], pair: Pair) -> None:
    bob, alice = cast["bob"], cast["alice"]
    wait_until(lambda: from_replica(read(bob, "/accounts")), "the replica has the login")
    signal_all(pair[1], signal.SIGSTOP)
    try:
        for _ in range(5):
            began = time.monotonic()
            read(bob, "/accounts")
            assert time.monotonic() - began < 5
        assert alice.post("/accounts", {"currency": "EUR"}).status_code == 201
    finally:
        signal_all(pair[1], signal.SIGCONT)


def test_what_is_kept_in_redis_is_not_older_than_what_the_caller_has_been_told_of(cast: dict[str, Person], routed: Flask) -> None:
    alice, bob = cast["alice"], cast["bob"]
    made = alice.open_account()
    changed = alice.patch(f"/accounts/{made['id']}", {"name": "New"})
    cache = routed.extensions["cache"]
    with routed.test_request_context(headers={"Bank-Position": changed.headers["Bank-Position"]}):
        g.principal = SimpleNamespace(id=bob.id)
        g.known_position = int(changed.headers["Bank-Position"])
        name = f"bank:cache:account:{made['id']}"
        redis().set("bank:cache:fresh", 1, px=3_000)
        for as_of, result in ((g.known_position, "passed"), (g.known_position + 1, "hit")):
            kept = cache.sealed("account", made["id"], AsOf(1, as_of), {})
            redis().hset(name, mapping={"timeline": 1, "as_of": as_of, "value": kept})
            assert cache._ask("account", made["id"])[0] == result


def test_who_has_been_told_of_a_position_does_not_wait_for_what_others_began_to_read_before(
    cast: dict[str, Person], routed: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob = cast["alice"], cast["bob"]
    account = alice.open_account()["id"]
    cache = routed.extensions["cache"]
    read, go_on = Event(), Event()

    def slowly(keys: Any, bind: str, load: Any = cache._loads["account"]) -> Any:
        values = load(keys, bind)
        if not read.is_set():
            read.set()
            assert go_on.wait(10)
        return values

    monkeypatch.setitem(cache._loads, "account", slowly)

    def ask(position: int) -> Any:
        with routed.test_request_context():
            g.principal, g.known_position = SimpleNamespace(id=bob.id), position
            redis().set("bank:cache:fresh", 1, px=60_000)
            return cache.read("account", account)["body"]["name"]

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, 0)
        assert read.wait(10)
        changed = alice.patch(f"/accounts/{account}", {"name": "New"})
        assert changed.status_code == 200
        assert ask(int(changed.headers["Bank-Position"])) == "New"
        go_on.set()
        assert first.result(10) is None


def test_a_replica_that_was_killed_costs_no_reader_an_answer(cast: dict[str, Person], pair: Pair) -> None:
    bob = cast["bob"]
    wait_until(lambda: from_replica(read(bob, "/accounts")), "the replica has the login")
    signal_all(pair[1], signal.SIGKILL)
    for _ in range(20):
        assert not from_replica(read(bob, "/accounts"))
    pair[1].stop()
    pair[1].start()
    wait_until(lambda: from_replica(read(bob, "/accounts")), "the replica is read from again")


def test_without_the_primary_everything_known_can_be_read_and_nothing_written(cast: dict[str, Person], pair: Pair, routed: Flask) -> None:
    primary, _ = pair
    alice, bob = cast["alice"], cast["bob"]
    made = alice.open_account()
    path = f"/accounts/{made['id']}"
    wait_until(lambda: from_replica(read(alice, path)), "the replica has the account")
    position = read(alice, path).headers["Bank-Position"]
    signal_all(primary, signal.SIGKILL)
    primary.process.wait()
    for _ in range(10):
        refused = alice.post("/accounts", {"currency": "EUR"})
        assert (refused.status_code, refused.json["code"]) == (503, "unavailable")
        assert 1 <= int(refused.headers["Retry-After"]) <= 5
        assert from_replica(read(alice, path, position))
        assert from_replica(read(bob, "/accounts"))
    # Older than it may be while the primary answers.
    wait_until(lambda: int(read(alice, path).headers["Age"]) > 2, "it is told how old it is", 10)
    # What the replica cannot have yet is not shown as if it were not.
    answer = alice.get(path, headers={"Bank-Position": str(int(position) + 10**9)})
    assert answer.status_code == 503
    primary.stop()
    primary.start()
    wait_until(lambda: alice.post("/accounts", {"currency": "EUR"}).status_code == 201, "the bank takes writes again", 10)


def test_a_primary_that_hangs_is_given_up_and_then_not_asked_by_everybody(
    cast: dict[str, Person], pair: Pair, routed: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = cast["alice"]
    monkeypatch.setattr(deadlines, "SECONDS", 2.0)
    wait_until(lambda: from_replica(read(alice, "/accounts")), "the replica has the login")

    def write() -> tuple[int, float]:
        began = time.monotonic()
        status = alice.post("/accounts", {"currency": "EUR"}).status_code
        return status, time.monotonic() - began

    signal_all(pair[0], signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(6) as clients:
            answers = [each.result() for each in [clients.submit(write) for _ in range(6)]]
        assert {status for status, _ in answers} == {503}
        assert max(seconds for _, seconds in answers) < 8
        # Nobody waits any more; and what is known is still told.
        wait_until(lambda: not databases_of(routed).primary.closed, "the breaker opens", 10)
        assert write()[1] < 1
        assert from_replica(read(alice, "/accounts"))
    finally:
        signal_all(pair[0], signal.SIGCONT)
    wait_until(lambda: write()[0] == 201, "the bank takes writes again", 15)


def databases_of(routed: Flask) -> Databases:
    with routed.app_context():
        return databases()


def test_a_bank_that_forgot_what_somebody_wrote_lets_them_read_from_the_primary(
    cast: dict[str, Person], routed: Flask, monkeypatch: Any
) -> None:
    alice = cast["alice"]
    wait_until(lambda: from_replica(read(alice, "/accounts")), "the replica has the login")
    monkeypatch.setattr("bank.resilience.replicas.redis", lambda: redis().__class__(port=1, socket_connect_timeout=0.1))
    with routed.app_context():
        assert not from_replica(read(alice, "/accounts"))
    # Who says what they have seen needs no memory.
    assert from_replica(read(alice, "/accounts", "0"))


def test_the_later_of_two_positions_is_remembered_whichever_is_told_last(cast: dict[str, Person], routed: Flask) -> None:
    key = "bank:position:somebody"
    with routed.app_context():
        for told in (5, 9, 7):
            redis().eval(module._REMEMBER, 1, key, told, module._REMEMBERED_SECONDS)
        assert redis().get(key) == b"9"
        assert 0 < redis().ttl(key) <= module._REMEMBERED_SECONDS
        redis().delete(key)


def test_a_replica_that_was_promoted_or_is_silent_is_not_read_from(
    environ: Mapping[str, str], pair: Pair, routed: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What was promoted answers, and follows nobody: as the primary itself does.
    promoted = create_app(Config.from_env({**environ, "DATABASE_URL": pair[0].url, "DATABASE_REPLICA_URL": pair[0].url}))
    looks = Replicas(promoted)
    with promoted.app_context():
        looks._note_primary()
        looks._look()
        assert looks._seen is None
    replicas = routed.extensions["replicas"]
    assert replicas.seen is not None
    monkeypatch.setattr(module, "_SEEN_SECONDS", -1.0)
    assert replicas.seen is None


def test_a_position_that_nobody_could_ask_for_is_told_as_one_behind_everything(
    cast: dict[str, Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = cast["alice"]

    def away(*_: Any) -> None:
        raise Unavailable("The database is away.", part="database")

    monkeypatch.setattr(module, "flushed", away)
    answer = alice.post("/accounts", {"currency": "USD"})
    assert answer.status_code == 201
    assert int(answer.headers["Bank-Position"]) > 2**53
    monkeypatch.undo()
    assert not from_replica(read(alice, "/accounts"))


def test_a_line_that_was_given_back_in_time_is_not_cut(routed: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    with routed.app_context(), deadlines.bounded():
        monkeypatch.setattr(deadlines, "SECONDS", 0.2)
        cut: list[int] = []
        monkeypatch.setattr(deadlines, "_cut", cut.append)
        watched = deadlines.Deadlines()
        kept, given_back = (SimpleNamespace(fileno=lambda number=number: number) for number in (1001, 1002))
        watched.take(given_back, "given back", of_replica=False)
        watched.take(kept, "kept", of_replica=False)
        watched.give_back(given_back, "given back")
        wait_until(lambda: bool(cut), "the line that is kept too long is cut", 5)
        assert cut == [1001]
