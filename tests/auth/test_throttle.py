"""Guessing gets slow; the one whose password it is gets in."""

import secrets
import threading
from collections.abc import Callable, Iterator
from itertools import count

import pytest
from flask import Flask
from sqlalchemy import text
from werkzeug.test import TestResponse

from bank.auth import passwords, throttle
from bank.db import reader, unit_of_work
from bank.errors import TooManyAttempts
from bank.web.addresses import place
from tests.auth.conftest import LogIn
from tests.conftest import PASSWORD, Person

Later = Callable[[int], None]

HOME = "198.51.100.7"


@pytest.fixture
def addresses() -> Iterator[str]:
    """Addresses that nobody else uses."""
    network = f"2001:db8:{secrets.token_hex(2)}"
    return (f"{network}:{n:x}::1" for n in count())


@pytest.fixture
def later(app: Flask) -> Later:
    """Let so many seconds pass for all counts; less than none holds them back, so that a slow machine is in time."""

    def move(seconds: int) -> None:
        statement = "UPDATE login_failures SET {0} = {0} - :by, {1} = {1} - :by".format("counted_since", "last_failed_at")
        with app.app_context(), unit_of_work() as session:
            session.execute(text(statement.replace(":by", f"interval '{seconds} seconds'")))

    return move


def throttled(response: TestResponse) -> int:
    assert response.status_code == 429, response.json
    assert response.content_type == "application/problem+json"
    assert response.json["code"] == "too_many_requests"
    return int(response.headers["Retry-After"])


def test_guesses_at_one_account_from_anywhere_have_to_wait(log_in: LogIn, alice: Person, addresses: Iterator[str], later: Later) -> None:
    for _ in range(throttle.FREE_FOR_ACCOUNT):
        assert log_in(alice, "wrong", next(addresses)).status_code == 401
    later(-30)
    throttled(log_in(alice, "wrong", next(addresses)))
    # The right one is not read either, or the wait would tell it apart.
    throttled(log_in(alice, PASSWORD, next(addresses)))
    throttled(log_in(f"{alice.username}@example.com", PASSWORD, next(addresses)))


def test_an_unknown_name_is_throttled_alike(log_in: LogIn, addresses: Iterator[str], later: Later) -> None:
    name = f"nobody-{secrets.token_hex(5)}"
    for _ in range(throttle.FREE_FOR_ACCOUNT):
        assert log_in(name, "wrong", next(addresses)).status_code == 401
    later(-30)
    throttled(log_in(name.upper(), "wrong", next(addresses)))


def test_a_try_during_the_wait_costs_no_hash(
    log_in: LogIn, alice: Person, addresses: Iterator[str], later: Later, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(throttle.FREE_FOR_ACCOUNT):
        log_in(alice, "wrong", next(addresses))
    later(-30)

    def never(hashed: str | None, password: str) -> bool:
        raise AssertionError

    monkeypatch.setattr(passwords, "verify", never)
    throttled(log_in(alice, PASSWORD, next(addresses)))


def test_the_wait_doubles_up_to_a_minute_and_the_tries_within_do_not_prolong_it(
    log_in: LogIn, alice: Person, addresses: Iterator[str], later: Later
) -> None:
    for _ in range(throttle.FREE_FOR_ACCOUNT):
        log_in(alice, "wrong", next(addresses))
    waits = []
    for _ in range(8):
        later(-100)
        told = [throttled(log_in(alice, "wrong", next(addresses))) for _ in range(3)]
        assert told == sorted(told, reverse=True)
        waits.append(told[0] - 100)
        later(100 + told[0] - 100)
        assert log_in(alice, "wrong", next(addresses)).status_code == 401
    for wait, expected in zip(waits, [1, 2, 4, 8, 16, 32, 60, 60], strict=True):
        assert expected - 3 <= wait <= expected


def test_after_the_wait_the_right_password_opens_and_all_is_forgotten(
    log_in: LogIn, alice: Person, addresses: Iterator[str], later: Later
) -> None:
    for _ in range(throttle.FREE_FOR_ACCOUNT):
        log_in(alice, "wrong", next(addresses))
    later(60)
    assert log_in(alice, PASSWORD, next(addresses)).status_code == 200
    for _ in range(throttle.FREE_FOR_ACCOUNT):
        assert log_in(alice, "wrong", next(addresses)).status_code == 401


def test_who_logged_in_from_home_before_gets_in_from_home_during_an_attack(
    log_in: LogIn, alice: Person, addresses: Iterator[str], later: Later
) -> None:
    assert log_in(alice, PASSWORD, HOME).status_code == 200
    for _ in range(throttle.FREE_FOR_ACCOUNT):
        log_in(alice, "wrong", next(addresses))
    later(-30)
    throttled(log_in(alice, PASSWORD, next(addresses)))
    assert log_in(alice, PASSWORD, HOME).status_code == 200
    # That it worked at home helps no stranger.
    throttled(log_in(alice, PASSWORD, next(addresses)))


def test_guesses_from_a_known_address_wait_too_and_make_nobody_else_wait(
    log_in: LogIn, alice: Person, bob: Person, addresses: Iterator[str], later: Later
) -> None:
    assert log_in(alice, PASSWORD, HOME).status_code == 200
    for _ in range(throttle.FREE_FOR_ACCOUNT):
        assert log_in(alice, "wrong", HOME).status_code == 401
    later(-30)
    throttled(log_in(alice, PASSWORD, HOME))
    assert log_in(alice, PASSWORD, next(addresses)).status_code == 200
    assert log_in(bob, PASSWORD, HOME).status_code == 200


def test_an_address_that_tries_many_names_has_to_wait_for_any(
    log_in: LogIn, alice: Person, bob: Person, carol: Person, addresses: Iterator[str], later: Later
) -> None:
    address = next(addresses)
    assert log_in(bob, PASSWORD, address).status_code == 200
    neighbour = address.removesuffix("1") + "ffff"
    for number in range(throttle.FREE_FOR_ADDRESS):
        if number == throttle.FREE_FOR_ADDRESS // 2:
            # Whoever guesses at many may have an account of their own; that clears nothing.
            assert log_in(carol, PASSWORD, address).status_code == 200
        assert log_in(f"nobody-{secrets.token_hex(5)}", "wrong", neighbour if number % 2 else address).status_code == 401
    later(-30)
    throttled(log_in(alice, PASSWORD, address))
    throttled(log_in(alice, PASSWORD, neighbour))
    assert log_in(alice, PASSWORD, next(addresses)).status_code == 200
    # Bob, who logged in from there before, is let in, and that does not clear the address.
    assert log_in(bob, PASSWORD, address).status_code == 200
    later(-30)
    throttled(log_in(f"nobody-{secrets.token_hex(5)}", "wrong", address))


def test_successes_never_count(log_in: LogIn, person: Callable[..., Person], addresses: Iterator[str]) -> None:
    address, people = next(addresses), [person() for _ in range(6)]
    for _ in range(throttle.FREE_FOR_ADDRESS // 5):
        for who in people:
            assert log_in(who, PASSWORD, address).status_code == 200


def test_a_quarter_of_an_hour_starts_the_counting_anew(log_in: LogIn, alice: Person, addresses: Iterator[str], later: Later) -> None:
    for _ in range(throttle.FREE_FOR_ACCOUNT):
        log_in(alice, "wrong", next(addresses))
    later(throttle.WINDOW_SECONDS)
    for _ in range(throttle.FREE_FOR_ACCOUNT):
        assert log_in(alice, "wrong", next(addresses)).status_code == 401
    later(-30)
    throttled(log_in(alice, "wrong", next(addresses)))


def test_old_counts_are_swept_out(app: Flask, log_in: LogIn, addresses: Iterator[str], later: Later) -> None:
    for _ in range(12):
        log_in(f"nobody-{secrets.token_hex(5)}", "wrong", next(addresses))
    later(throttle.WINDOW_SECONDS)

    def rows() -> int:
        with app.app_context(), reader() as session:
            return int(session.execute(text("SELECT count(*) FROM login_failures")).scalar_one())

    before = rows()
    log_in(f"nobody-{secrets.token_hex(5)}", "wrong", next(addresses))
    assert rows() == before + 2 - 10


def test_many_tries_at_once_get_no_more_answers_than_one_after_the_other(app: Flask, later: Later) -> None:
    counted = throttle.subjects(secrets.token_hex(8), "192.0.2.99", known=True)
    barrier, answered = threading.Barrier(20), []

    def guess() -> None:
        with app.app_context():
            # Each has passed the check before any of them is counted.
            with reader() as session:
                throttle.check(session, counted)
            barrier.wait()
            try:
                with unit_of_work() as session:
                    throttle.settle(session, counted, good=False)
                answered.append(True)
            except TooManyAttempts:
                answered.append(False)

    threads = [threading.Thread(target=guess) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # One more where the machine is so slow that the first wait, of a second, is over.
    assert answered.count(True) in (throttle.FREE_FOR_ACCOUNT, throttle.FREE_FOR_ACCOUNT + 1)
    later(-30)
    with app.app_context(), pytest.raises(TooManyAttempts), unit_of_work() as session:
        throttle.settle(session, counted, good=True)


def test_addresses_are_counted_by_what_one_customer_has() -> None:
    def key(address: str | None) -> str:
        return throttle.subjects("x", address, known=False)[1].key

    assert key("2001:db8:1:2::3") == key("2001:db8:1:2:ffff::") != key("2001:db8:1:3::3")
    assert key("192.0.2.1") != key("192.0.2.2")
    assert key(None) == key("no address")


def test_a_place_is_what_one_customer_of_a_provider_has() -> None:
    assert place("192.0.2.1") == place("::ffff:192.0.2.1") == "192.0.2.1"
    assert place("::ffff:192.0.2.2") != place("::ffff:192.0.2.1")
    assert place("2001:db8:1:2::1") == place("2001:db8:1:2:ffff::9") != place("2001:db8:1:3::1")
    assert place(None) == place("a socket") == "unknown"
