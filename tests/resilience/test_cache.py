"""What is shown out of Redis is what the database holds, or it is not used; who has written reads it; no money is decided by it."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Event
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from click.testing import CliRunner
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from redis.exceptions import RedisError

from bank import create_app, embedded
from bank.cli import main
from bank.cli.follow import _warm
from bank.config import Config
from bank.followers.runner import Runner
from bank.processing.queue import bells, redis
from bank.resilience import cache as module
from bank.resilience import refresher as refreshing
from bank.resilience.breaker import Breaker
from bank.resilience.cache import AsOf
from bank.resilience.refresher import Refresher
from bank.users.models import Role
from tests.conftest import PASSWORD, Person, open_transaction, people, poster
from tests.events.test_horizon import append
from tests.processes import fresh_database, query, wait_until

Environ = dict[str, str]


@pytest.fixture(scope="module")
def own(environ: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environ]:
    with fresh_database(environ, tmp_path_factory.mktemp("cache")) as own:
        yield own


@pytest.fixture(scope="module")
def caching(own: Environ) -> Flask:
    return create_app(Config.from_env(own))


@pytest.fixture(scope="module")
def other(own: Environ) -> Flask:
    """The same bank in another process, as far as it matters."""
    return create_app(Config.from_env(own))


@pytest.fixture(autouse=True)
def _empty(caching: Flask) -> None:
    with caching.app_context():
        redis().flushdb()


@pytest.fixture
def follow(caching: Flask) -> Iterator[Callable[[], None]]:
    """Look at the log once, as `bank follow` does all the time."""
    with caching.app_context():
        refresher = Refresher(caching.extensions["cache"])
        runner = Runner([refresher.follower], refresher.tell)

        def look() -> None:
            runner.follow(Event())
            # What was committed a moment ago may still be unsettled.
            wait_until(lambda: runner.follow(Event()) or redis().exists(module.FRESH_KEY), "the cache is fresh", 10)

        yield look


@pytest.fixture
def cast(caching: Flask, password_hash: str) -> dict[str, Person]:
    roles = {"alice": Role.CUSTOMER, "bob": Role.CUSTOMER, "teller": Role.TELLER, "auditor": Role.AUDITOR, "admin": Role.ADMIN}
    return people(caching, password_hash, roles)


@pytest.fixture
def account(cast: dict[str, Person], post: Callable[[], None]) -> str:
    """Alice's, with ten dollars."""
    account_id = str(cast["alice"].open_account()["id"])
    body = {"account_id": account_id, "amount": "10.00", "currency": "USD"}
    assert cast["teller"].post("/transactions/credit", body).status_code == 202
    post()
    return account_id


@pytest.fixture
def post(caching: Flask) -> Callable[[], None]:
    return poster(caching)


@pytest.fixture
def forget_writers(caching: Flask) -> Callable[[], None]:
    """As after a minute."""

    def forget() -> None:
        with caching.app_context():
            for name in redis().scan_iter("bank:cache:wrote:*"):
                redis().delete(name)

    return forget


@pytest.fixture
def fresh(follow: Callable[[], None], account: str, forget_writers: Callable[[], None]) -> str:
    """The account, when the cache is fresh and nobody has written for a while."""
    follow()
    forget_writers()
    return account


def asked(kind: str, result: str) -> float:
    return REGISTRY.get_sample_value("bank_cache_requests_total", {"kind": kind, "result": result}) or 0.0


def outcome(kind: str, read: Callable[[], Any]) -> tuple[str, Any]:
    """How the cache answered to a read, and what came of it."""
    results = ("hit", "miss", "passed", "error")
    before = {result: asked(kind, result) for result in results}
    answer = read()
    [result] = [result for result in results if asked(kind, result) > before[result]]
    return result, answer


def test_nothing_is_taken_from_it_while_nobody_says_that_it_is_fresh(cast: dict[str, Person], account: str) -> None:
    auditor = cast["auditor"]
    for _ in range(2):
        assert outcome("account", lambda: auditor.get(f"/accounts/{account}"))[0] == "passed"


@pytest.mark.parametrize(
    ("kind", "path"),
    [("account", "/accounts/{id}"), ("balance", "/balances/current?account_id={id}"), ("user", "/users/{user}"), ("rates", "/fx/rates")],
)
def test_what_was_read_once_is_read_from_it_and_is_the_same(cast: dict[str, Person], fresh: str, kind: str, path: str) -> None:
    auditor, path = cast["auditor"], path.format(id=fresh, user=cast["alice"].id)
    passed = auditor.get(path, headers={"Cache-Control": "no-cache"})
    first, second = (outcome(kind, lambda: auditor.get(path)) for _ in range(2))
    assert (first[0], second[0]) == ("miss", "hit")
    assert passed.status_code == 200
    assert passed.data == first[1].data == second[1].data
    assert passed.headers.get("ETag") == second[1].headers.get("ETag")


def test_who_has_written_reads_what_they_wrote_wherever_they_ask(
    cast: dict[str, Person], fresh: str, other: Flask, post: Callable[[], None]
) -> None:
    alice = cast["alice"]
    for _ in range(2):
        assert alice.get(f"/accounts/{fresh}").json["name"] is None
    changed = alice.patch(f"/accounts/{fresh}", {"name": "Rent"})
    assert changed.status_code == 200
    for app in (alice.client.application, other):
        again = replace(alice, client=app.test_client())
        assert outcome("account", lambda again=again: again.get(f"/accounts/{fresh}").json["name"]) == ("passed", "Rent")
    bob = cast["bob"].open_account()["id"]
    assert alice.post("/transactions/transfer", {"from_account_id": fresh, "to_account_id": bob, "amount": "4", "currency": "USD"})
    post()
    assert alice.get(f"/balances/current?account_id={fresh}").json["data"][0]["amount"] == "6.00"


def test_what_was_kept_is_written_anew_after_each_commit(
    cast: dict[str, Person], fresh: str, follow: Callable[[], None], post: Callable[[], None], forget_writers: Callable[[], None]
) -> None:
    auditor, path = cast["auditor"], f"/accounts/{fresh}"
    for _ in range(2):
        auditor.get(path)
        auditor.get(f"/users/{cast['alice'].id}")
    cast["teller"].post("/transactions/credit", {"account_id": fresh, "amount": "1.00", "currency": "USD"})
    post()
    user = cast["admin"].get(f"/users/{cast['alice'].id}")
    body = {"username": user.json["username"], "email": f"new-{user.json['email']}"}
    assert cast["admin"].request("PUT", f"/users/{cast['alice'].id}", json=body).status_code == 200
    # Others see it as soon as it was followed, and not later.
    assert outcome("account", lambda: auditor.get(path).json["balance"]) == ("hit", "10.00")
    follow()
    assert outcome("account", lambda: auditor.get(path).json["balance"]) == ("hit", "11.00")
    assert outcome("user", lambda: auditor.get(f"/users/{cast['alice'].id}").json["email"]) == ("hit", body["email"])
    # What was never asked for takes no room.
    with auditor.client.application.app_context():
        assert not redis().exists(f"bank:cache:user:{cast['bob'].id}")


def test_it_is_not_used_any_more_when_the_log_is_not_followed_or_not_to_its_end(
    cast: dict[str, Person], fresh: str, follow: Callable[[], None], caching: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    auditor, path = cast["auditor"], f"/accounts/{fresh}"
    monkeypatch.setattr(refreshing, "FRESH_SECONDS", 0.2)
    monkeypatch.setattr(refreshing, "_UNSETTLED_SECONDS", 0.2)
    follow()
    wait_until(lambda: outcome("account", lambda: auditor.get(path))[0] == "passed", "nobody has followed for a while", 5)
    refresher = Refresher(caching.extensions["cache"])
    runner = Runner([refresher.follower], refresher.tell)
    with open_transaction() as connection:
        # It holds the horizon up; what comes behind it is not followed.
        append(connection)
        cast["bob"].open_account()

        def held_up() -> bool:
            runner.follow(Event())
            return not redis().exists(module.FRESH_KEY)

        wait_until(held_up, "it is not said that it is fresh", 5)
    wait_until(lambda: runner.follow(Event()) or redis().exists(module.FRESH_KEY), "it is fresh again", 10)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(writes=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2**62), st.integers(0, 9)), min_size=1, max_size=12))
def test_what_was_read_earlier_never_replaces_what_was_read_later(caching: Flask, writes: list[tuple[int, int, int]]) -> None:
    name = "bank:cache:test:one"
    with caching.app_context():
        redis().delete(name)
        kept: tuple[tuple[int, float], int] | None = None
        for timeline, position, value in writes:
            redis().eval(module._PUT, 2, name, f"{name}:loads", position, orjson.dumps(value), 60_000, "", timeline)
            # Redis compares numbers of 53 bits, which are 9 PB of write-ahead log. A later timeline may begin at an earlier position.
            as_of = (timeline, float(position))
            if kept is None or as_of >= kept[0]:
                kept = (as_of, value)
            assert orjson.loads(redis().hget(name, "value")) == kept[1]


def test_what_a_primary_said_that_was_replaced_gives_way_to_its_successor(
    cast: dict[str, Person], fresh: str, caching: Flask, post: Callable[[], None], follow: Callable[[], None]
) -> None:
    auditor, path = cast["auditor"], f"/accounts/{fresh}"
    auditor.get(path)
    # The old one was far ahead, in a timeline before ours, which is the first.
    redis().hset(f"bank:cache:account:{fresh}", mapping={"as_of": 2**50, "timeline": 0})
    cast["teller"].post("/transactions/credit", {"account_id": fresh, "amount": "1.00", "currency": "USD"})
    post()
    follow()
    assert outcome("account", lambda: auditor.get(path).json["balance"]) == ("hit", "11.00")


def test_a_value_is_as_of_a_moment_before_it_was_read_and_ends_before_the_mark_of_who_wrote_meanwhile(
    cast: dict[str, Person], fresh: str, caching: Flask, own: Environ, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, auditor, took = caching.extensions["cache"], cast["auditor"], 3.0
    flushed: list[int] = []
    clock = SimpleNamespace(monotonic=lambda: len(flushed) * took, sleep=time.sleep)

    def read(keys: Any, bind: str, load: Any = cache._loads["account"]) -> Any:
        values = load(keys, bind)
        query(own, "SELECT pg_logical_emit_message(true, 'test', 'something is written')")
        [(position,)] = query(own, "SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint")
        flushed.append(position)
        return values

    monkeypatch.setitem(cache._loads, "account", read)
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module.random, "random", lambda: 0.0)
    auditor.get(f"/accounts/{fresh}")
    kept = f"bank:cache:account:{fresh}"
    assert int(redis().hget(kept, "as_of")) < flushed[0]
    # Reading took three seconds: somebody who wrote in the first of them is marked until a second after a minute from then.
    assert 0 < redis().pttl(kept) <= (module._SECONDS - took) * 1000
    cast["teller"].post("/transactions/credit", {"account_id": fresh, "amount": "1.00", "currency": "USD"})
    assert redis().pttl(f"bank:cache:wrote:{cast['teller'].id}") > module._SECONDS * 1000


def test_what_was_read_before_a_commit_is_not_kept_after_it(
    cast: dict[str, Person],
    fresh: str,
    caching: Flask,
    other: Flask,
    post: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loads = caching.extensions["cache"]._loads
    read, go_on = Event(), Event()

    def slowly(keys: Any, bind: str, load: Any = loads["account"]) -> Any:
        values = load(keys, bind)
        read.set()
        assert go_on.wait(10)
        return values

    monkeypatch.setitem(loads, "account", slowly)
    # The follower is another process, which reads as fast as ever.
    refresher = Refresher(other.extensions["cache"])
    runner = Runner([refresher.follower], refresher.tell)
    auditor = cast["auditor"]
    elsewhere = replace(auditor, client=other.test_client())
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(lambda: auditor.get(f"/accounts/{fresh}").json["balance"])
        assert read.wait(10)
        cast["teller"].post("/transactions/credit", {"account_id": fresh, "amount": "1.00", "currency": "USD"})
        post()
        redis().delete(module.FRESH_KEY)
        wait_until(lambda: runner.follow(Event()) or redis().exists(module.FRESH_KEY), "it is followed", 8)
        go_on.set()
        assert late.result(10) == "10.00"
    runner.follow(Event())
    assert outcome("account", lambda: elsewhere.get(f"/accounts/{fresh}").json["balance"])[1] == "11.00"


def test_a_follower_whose_word_redis_does_not_take_has_not_taken_the_events_in(
    cast: dict[str, Person],
    fresh: str,
    caching: Flask,
    post: Callable[[], None],
    follow: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    auditor, path = cast["auditor"], f"/accounts/{fresh}"
    for _ in range(2):
        auditor.get(path)
    cast["teller"].post("/transactions/credit", {"account_id": fresh, "amount": "1.00", "currency": "USD"})
    post()
    refresher = Refresher(caching.extensions["cache"])
    runner = Runner([refresher.follower], refresher.tell)
    with monkeypatch.context() as patched:
        patched.setattr(caching.extensions["cache"], "_put", lambda *_: (_ for _ in ()).throw(RedisError("a hiccup")))
        redis().delete(module.FRESH_KEY)
        runner.follow(Event())
        assert not redis().exists(module.FRESH_KEY)
    follow()
    assert outcome("account", lambda: auditor.get(path).json["balance"]) == ("hit", "11.00")


def test_asking_for_what_is_not_there_takes_as_long_each_time(cast: dict[str, Person], fresh: str, caching: Flask) -> None:
    missing = "019b2f6e-8a00-7000-8000-000000000001"
    for _ in range(3):
        assert cast["auditor"].get(f"/accounts/{missing}").status_code == 404
        # Nobody has to wait for a lease that was left behind.
        assert not redis().exists(f"bank:cache:account:{missing}:loads")


@pytest.mark.parametrize("value", [b"{", b"{}", b"null", b"[]", b'{"balance":"9.00"}', b"", bytes(16) + b"{}"])
def test_what_the_bank_has_not_kept_itself_is_read_from_the_database(cast: dict[str, Person], fresh: str, value: bytes) -> None:
    redis().hset(f"bank:cache:account:{fresh}", mapping={"as_of": 2**50, "value": value})
    assert outcome("account", lambda: cast["auditor"].get(f"/accounts/{fresh}").json["balance"]) == ("error", "10.00")


def test_what_was_kept_in_another_place_or_another_form_is_not_taken(
    cast: dict[str, Person], fresh: str, caching: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, name = caching.extensions["cache"], f"bank:cache:account:{fresh}"
    cast["auditor"].get(f"/accounts/{fresh}")
    lie = orjson.loads(redis().hget(name, "value")[module._TAG_BYTES :])
    lie["body"]["balance"] = "9.00"

    def read() -> tuple[str, Any]:
        return outcome("account", lambda: cast["auditor"].get(f"/accounts/{fresh}").json["balance"])

    timeline, as_of = (int(part) for part in redis().hmget(name, "timeline", "as_of"))
    at = AsOf(timeline, as_of)
    redis().hset(name, "value", cache.sealed("account", fresh, at, lie))
    assert read() == ("hit", "9.00")
    # That of another kind, one that says of itself that it is newer, and one of a primary that was replaced.
    redis().hset(name, "value", cache.sealed("balance", fresh, at, lie))
    assert read() == ("error", "10.00")
    redis().hset(name, mapping={"as_of": as_of + 1, "value": cache.sealed("account", fresh, at, lie)})
    assert read() == ("error", "10.00")
    other = AsOf(timeline + 1, as_of)
    redis().hset(name, mapping={"as_of": as_of, "timeline": timeline + 1, "value": cache.sealed("account", fresh, other, lie)})
    assert read() == ("passed", "10.00")
    monkeypatch.setattr(module, "_SHAPES", b"bank cache 0")
    earlier = create_app(caching.config["BANK"]).extensions["cache"]
    redis().hset(name, mapping={"timeline": timeline, "value": earlier.sealed("account", fresh, at, lie)})
    assert read() == ("error", "10.00")


@pytest.mark.parametrize("as_of", [None, "abc"])
def test_another_thing_in_the_place_of_a_value_holds_nobody_up(
    cast: dict[str, Person], fresh: str, post: Callable[[], None], follow: Callable[[], None], as_of: str | None
) -> None:
    name, auditor, path = f"bank:cache:account:{fresh}", cast["auditor"], f"/accounts/{fresh}"
    if as_of is None:
        redis().set(name, "x")
    else:
        redis().hset(name, mapping={"as_of": as_of, "value": "x"})
    for _ in range(5):
        assert outcome("account", lambda: auditor.get(path).json["balance"]) == ("error", "10.00")
    assert bells.breaker.closed
    cast["teller"].post("/transactions/credit", {"account_id": fresh, "amount": "1.00", "currency": "USD"})
    post()
    follow()
    assert outcome("account", lambda: auditor.get(path).json["balance"]) == ("hit", "11.00")


def test_who_logs_in_has_written_nothing(caching: Flask, cast: dict[str, Person], fresh: str) -> None:
    auditor = cast["auditor"]
    answer = caching.test_client().post("/api/v1/auth/login", json={"username": auditor.username, "password": PASSWORD})
    assert answer.status_code == 200
    assert not redis().exists(f"bank:cache:wrote:{auditor.id}")


@pytest.mark.parametrize("processes", [1, 2])
def test_of_many_who_miss_the_same_at_once_one_reads_it(
    cast: dict[str, Person], fresh: str, caching: Flask, other: Flask, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    reads: list[str] = []
    apps = [caching, other][:processes]
    for app in apps:
        loads = app.extensions["cache"]._loads

        def slowly(keys: Any, bind: str, load: Any = loads["account"]) -> Any:
            reads.extend(keys)
            gathered.wait(0.1)
            return load(keys, bind)

        monkeypatch.setitem(loads, "account", slowly)
    gathered, start = Event(), Barrier(8)

    def read(number: int) -> str:
        who = replace(cast["auditor"], client=apps[number % processes].test_client())
        start.wait(10)
        return str(who.get(f"/accounts/{fresh}").json["balance"])

    with ThreadPoolExecutor(8) as readers:
        assert {*readers.map(read, range(8))} == {"10.00"}
    assert reads == [fresh]


def test_what_it_holds_is_shown_to_nobody_who_may_not_see_it(cast: dict[str, Person], fresh: str) -> None:
    auditor, bob, teller = cast["auditor"], cast["bob"], cast["teller"]
    paths = [f"/accounts/{fresh}", f"/balances/current?account_id={fresh}", f"/users/{cast['alice'].id}", f"/users/{auditor.id}"]
    for path in paths:
        assert auditor.get(path).status_code == 200
    assert [bob.get(path).status_code for path in paths] == [404] * 4
    assert [teller.get(path).status_code for path in paths] == [200, 200, 200, 404]


def test_no_money_is_decided_by_what_it_holds(
    cast: dict[str, Person], fresh: str, caching: Flask, post: Callable[[], None], follow: Callable[[], None]
) -> None:
    alice, auditor = cast["alice"], cast["auditor"]
    assert auditor.get(f"/accounts/{fresh}").json["balance"] == "10.00"
    with caching.app_context():
        name = f"bank:cache:account:{fresh}"
        lie = orjson.loads(redis().hget(name, "value")[module._TAG_BYTES :])
        lie["body"] |= {"balance": "1000000.00", "available": "1000000.00", "status": "closed", "user_id": cast["bob"].id}
        at = AsOf(*(int(part) for part in redis().hmget(name, "timeline", "as_of")))
        redis().hset(name, "value", caching.extensions["cache"].sealed("account", fresh, at, lie))
    assert auditor.get(f"/accounts/{fresh}").json["balance"] == "1000000.00", "the lie is not told, so nothing is shown here"
    theirs = cast["bob"].open_account()["id"]
    for amount, status in (("10.01", "failed"), ("10.00", "completed")):
        body = {"from_account_id": fresh, "to_account_id": theirs, "amount": amount, "currency": "USD"}
        assert alice.post("/transactions/transfer?dry_run=true", body).json["status"] == status
        sent = alice.post("/transactions/transfer", body)
        post()
        assert alice.get(f"/transactions/{sent.json['id']}").json["status"] == status


def test_a_rate_that_was_published_is_seen_at_once(cast: dict[str, Person], fresh: str) -> None:
    auditor, admin = cast["auditor"], cast["admin"]
    for _ in range(2):
        before = auditor.get("/fx/rates").json["data"]
    assert admin.post("/fx/rates", {"currency": "USD", "rate": "1.25"}).status_code == 201
    assert [rate["rate"] for rate in auditor.get("/fx/rates").json["data"] if rate["currency"] == "USD"] == ["1.25"]
    assert "1.25" not in [rate["rate"] for rate in before]


def test_warming_puts_in_those_that_moved_most(
    cast: dict[str, Person],
    fresh: str,
    own: Environ,
    caching: Flask,
    post: Callable[[], None],
    follow: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    busy = cast["bob"].open_account()["id"]
    for _ in range(30):
        cast["teller"].post("/transactions/credit", {"account_id": busy, "amount": "1.00", "currency": "USD"})
    post()
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(main, ["cache", "warm", "--count", "1"])
    assert (result.exit_code, result.output.splitlines()[-1]) == (0, "1 accounts are in the cache.")
    with caching.app_context():
        assert {name.decode() for name in redis().scan_iter("bank:cache:account:*")} == {f"bank:cache:account:{busy}"}
        redis().delete(f"bank:cache:account:{busy}")
        _warm(caching)
        assert redis().exists(f"bank:cache:account:{busy}")
    follow()
    assert outcome("account", lambda: cast["auditor"].get(f"/accounts/{busy}").json["balance"]) == ("hit", "30.00")
    assert outcome("balance", lambda: cast["auditor"].get(f"/balances/current?account_id={busy}").status_code) == ("hit", 200)


def test_without_redis_everything_is_read_from_the_database(
    own: Environ, servers_directory: Path, cast: dict[str, Person], account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bells, "breaker", Breaker("redis", 1, 0.1, bells.breaker._counts))
    server = embedded.Redis(servers_directory / "cached", durable=False)
    server.start()
    try:
        app = create_app(Config.from_env({**own, "REDIS_URL": server.url}))
        auditor = replace(cast["auditor"], client=app.test_client())
        server.process.send_signal(signal.SIGSTOP)
        for _ in range(3):
            assert outcome("account", lambda: auditor.get(f"/accounts/{account}").json["balance"]) == ("error", "10.00")
    finally:
        server.process.send_signal(signal.SIGCONT)
        server.stop()


def test_it_can_be_switched_off(own: Environ, cast: dict[str, Person], fresh: str) -> None:
    app = create_app(Config.from_env({**own, "BANK_CACHE": "false"}))
    auditor = replace(cast["auditor"], client=app.test_client())
    before = {result: asked("account", result) for result in ("hit", "miss", "passed", "error")}
    assert auditor.get(f"/accounts/{fresh}").status_code == 200
    assert {result: asked("account", result) for result in before} == before
    assert query(own, "SELECT count(*) FROM followers WHERE name = 'cache'") == [(1,)]
