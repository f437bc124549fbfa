"""Passwords: argon2id (RFC 9106) to keep them, length and lists of common ones to judge them.

Rules follow NIST SP 800-63B, 5.1.1.2: long ones are taken whole, every character counts as one, nothing
must be composed of anything, common ones are refused. Before it is hashed a password is normalised
to NFKC, as the same section advises, so that it is the same from a phone and from a keyboard.
"""

import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from threading import BoundedSemaphore, Lock

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.profiles import RFC_9106_LOW_MEMORY
from zxcvbn import zxcvbn
from zxcvbn.frequency_lists import FREQUENCY_LISTS

from bank.errors import Unavailable, Unprocessable

MAX_LENGTH = 256

# 64 MiB, three passes, four lanes: the second choice of RFC 9106, 4, made for servers. Tests, which
# log in by the hundred, put a cheaper one here.
hasher = PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)

# Each hash takes 64 MiB and four threads: without a bound, a flood of logins is a flood of memory, and
# more at once than the cores can work on only makes each slower.
_HASHES_AT_ONCE = 2
_PATIENCE_SECONDS = 5.0
_slots = BoundedSemaphore(_HASHES_AT_ONCE)

# zxcvbn keeps the personal words in a module-wide dictionary: two threads would mix theirs up.
_judging = Lock()
# Its time grows steeply with the length (5 s for 72 well-chosen characters), so it sees no more than this.
_JUDGED_LENGTH = 24
# zxcvbn's scores 0 and 1: fewer than a million guesses.
_GUESSABLE = 1


def hash(password: str) -> str:
    """The password's hash in PHC form, with its parameters and salt. Slow by intent: never with a transaction open.

    Raises Unavailable when too many are being hashed already.
    """
    with _slot():
        return hasher.hash(_normalised(password))


def verify(hashed: str | None, password: str) -> bool:
    """Whether `password` is the one that `hashed` was made of.

    None (no such user, or one who has no password) costs the same time and is never true, so that
    time does not tell who exists. Raises Unavailable when too many are being hashed already.
    """
    normalised = _normalised(password)
    with _slot():
        # Made for whoever comes first, so that not even the first unknown name takes longer.
        dummy = _dummy(hasher)
        try:
            hasher.verify(hashed or dummy, normalised)
        except (VerificationError, InvalidHashError):
            return False
    return bool(hashed)


def needs_rehash(hashed: str) -> bool:
    """Whether the hash was made with other parameters than today's."""
    return hasher.check_needs_rehash(hashed)


def check_acceptable(password: str, *, min_length: int, personal: list[str], pointer: str = "/password") -> None:
    """Refuse a new password that is too short, too long, or among the first that anybody would guess.

    `personal` are words that the user is known by: their name and email. Raises Unprocessable that
    points at `pointer` and never repeats the password.
    """
    if len(password) < min_length:
        raise Unprocessable.at(pointer, f"Must be at least {min_length} characters long.")
    if len(password) > MAX_LENGTH:
        raise Unprocessable.at(pointer, f"Must be at most {MAX_LENGTH} characters long.")
    normalised = _normalised(password)
    if normalised.casefold() in _common() or _guessable(normalised, personal):
        raise Unprocessable.at(pointer, "Is too easy to guess. A few unrelated words make a good one.")


@contextmanager
def _slot() -> Iterator[None]:
    if not _slots.acquire(timeout=_PATIENCE_SECONDS):
        raise Unavailable("Too many logins at once.")
    try:
        yield
    finally:
        _slots.release()


def _normalised(password: str) -> str:
    return unicodedata.normalize("NFKC", password)


@lru_cache(maxsize=1)
def _dummy(by: PasswordHasher) -> str:
    return by.hash("the password of nobody")


@lru_cache(maxsize=1)
def _common() -> frozenset[str]:
    return frozenset(word.casefold() for word in FREQUENCY_LISTS["passwords"])


def _guessable(password: str, personal: list[str]) -> bool:
    # What is repeated to the end is as good as once. Of what is still long both ends are judged, and
    # one good end is enough: what is easy as a whole (a name, a word, a row of keys) is easy at both.
    once = password[: _period(password)]
    ends = {once[:_JUDGED_LENGTH], once[-_JUDGED_LENGTH:]}
    words = [part for word in personal for part in {word, *word.split("@")}]
    with _judging:
        return all(zxcvbn(end, words)["score"] <= _GUESSABLE for end in ends)


def _period(text: str) -> int:
    """The least p by which the text repeats itself, such as 3 for abcabcab; its length when it does not."""
    repeats = (p for p in range(1, len(text) // 2 + 1) if text[p:] == text[:-p])
    return next(repeats, len(text))
