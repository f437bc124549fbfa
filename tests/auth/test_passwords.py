"""Which passwords are taken, and how they are kept."""

import threading
import time
from typing import Any

import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.low_level import Type

from bank.auth import passwords
from bank.errors import Unavailable, Unprocessable
from tests.conftest import PASSWORD


def check(password: str, personal: list[str] | None = None) -> str | None:
    """What is wrong with it, or None."""
    try:
        passwords.check_acceptable(password, min_length=12, personal=personal or ["alice", "alice.smith@example.com"])
    except Unprocessable as error:
        assert error.errors is not None
        assert [wrong["pointer"] for wrong in error.errors] == ["/password"]
        assert password not in str(error.errors)
        return error.errors[0]["message"]
    return None


@pytest.mark.parametrize(
    "password",
    [
        PASSWORD,
        "gravel otter lunch",
        "kqzvwxjtrmpd",
        "928461730582",
        " leading and trailing ",
        "tab\tand\x7fcontrol",
        "пароль из нескольких слов",
        "馬馬虎虎的密碼很長很長很長",
        "🦦🪨🍱🦜🛶🧭🪁🧵🥁🪐🧊🪴",
        "j4Xq" * 8 + "lM0w",
        "x7!kQ9#wL2$" + "a" * 245,
        "a" * 245 + "x7!kQ9#wL2$",
    ],
)
def test_a_good_password_needs_no_composition(password: str) -> None:
    assert check(password) is None


def test_length_counts_characters_and_not_bytes() -> None:
    assert check("gravel otte") == "Must be at least 12 characters long."
    assert check("gravel otter") is None
    assert check("ぬりかべとゆきおんなとか") is None
    assert check("ぬりかべとゆきおんなと") == "Must be at least 12 characters long."
    long = "gravel otter lunch " * 20
    assert check(long[:256]) is None
    assert check(long[:257]) == "Must be at most 256 characters long."


@pytest.mark.parametrize(
    "password",
    [
        "123456789012",
        "qwertyuiop12",
        "aaaaaaaaaaaa",
        "abcdefghijkl",
        "passwordpassword",
        "PasswordPassword",
        "p4ssw0rdp4ssw0rd",
        "".join(chr(ord(letter) + 0xFEE0) for letter in "passwordpassword"),  # full-width
        "a" * 256,
        "qwertyuiop" * 25,
        # Of the lists themselves, in any case.
        "ZxCaSdQwE123",
        "LeAvEmEaLoNe",
        "alice.smith@example.com",
        "ALICE.SMITH@EXAMPLE.COM",
        "alicealicealice",
        "example.comexample.com",
    ],
)
def test_what_anybody_would_guess_is_refused(password: str) -> None:
    assert check(password) is not None


def test_the_personal_words_are_those_of_the_one_who_asks() -> None:
    assert check("threepwood12", ["guybrush", "guybrush@example.com"]) is None
    assert check("threepwood12", ["threepwood", "guybrush@example.com"]) is not None


def test_the_words_of_two_who_ask_at_once_are_not_mixed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    # zxcvbn puts the personal words into a dictionary of the whole process, so one at a time.
    running = threading.Semaphore(1)
    original = passwords.zxcvbn

    def alone(password: str, words: list[str]) -> Any:
        assert running.acquire(blocking=False)
        time.sleep(0.01)
        running.release()
        return original(password, words)

    monkeypatch.setattr(passwords, "zxcvbn", alone)
    answers: list[str | None] = []

    def judge(name: str) -> None:
        answers.extend(check(f"{name}12", [name, f"{name}@example.com"]) for _ in range(5))

    threads = [threading.Thread(target=judge, args=(name,)) for name in ("threepwood", "guybrushed", "marleyelai")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 15
    assert None not in answers


def test_no_password_takes_long_to_judge() -> None:
    hard = "4@8({[<369!1|7$5+0%2z" * 12
    began = time.thread_time()
    check(hard)
    assert time.thread_time() - began < 2


def test_nothing_is_cut_off() -> None:
    base = "gravel otter lunch " * 13
    assert len(base) == 247
    hashed = passwords.hash(base + "a")
    assert passwords.verify(hashed, base + "a")
    assert not passwords.verify(hashed, base + "b")
    assert not passwords.verify(hashed, base)


def test_the_same_password_has_another_hash_each_time() -> None:
    assert passwords.hash(PASSWORD) != passwords.hash(PASSWORD)


def test_what_is_repeated_is_as_good_as_once() -> None:
    assert check("alice.smith" * 23) is not None
    assert check(("gravel otter lunch " * 20)[:250]) is None


def test_a_hash_that_is_none_matches_nothing() -> None:
    for hashed in (None, "", "$argon2id$nonsense", "plain text"):
        assert not passwords.verify(hashed, PASSWORD)
        assert not passwords.verify(hashed, "the password of nobody")


def test_the_parameters_are_those_of_rfc_9106(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    parameters = extract_parameters(passwords.hash(PASSWORD))
    assert parameters.type is Type.ID
    assert (parameters.memory_cost, parameters.time_cost, parameters.parallelism) == (65_536, 3, 4)
    assert (parameters.salt_len, parameters.hash_len) == (16, 32)


def test_only_so_many_are_hashed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    running, most, lock = 0, 0, threading.Lock()

    class Slow(PasswordHasher):
        def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.05)
            with lock:
                running -= 1
            return "hash"

    monkeypatch.setattr(passwords, "hasher", Slow())
    threads = [threading.Thread(target=passwords.hash, args=(PASSWORD,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == passwords._HASHES_AT_ONCE == 2
    monkeypatch.setattr(passwords, "_PATIENCE_SECONDS", 0.01)
    outcomes: list[type] = []

    def attempt() -> None:
        try:
            passwords.hash(PASSWORD)
            outcomes.append(str)
        except Unavailable as error:
            assert error.headers["Retry-After"]
            outcomes.append(Unavailable)

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(str) == 2
    assert outcomes.count(Unavailable) == 6
