"""Breakers: a part that fails again and again is left alone for a while, and then one caller tries it."""

import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import RLock
from typing import Any

import structlog
from pybreaker import STATE_CLOSED, STATE_OPEN, CircuitBreaker, CircuitBreakerError, CircuitBreakerListener

from bank.errors import Unavailable

log = structlog.get_logger(__name__)

# Those who were refused must not all come back in the same second.
_SPREAD_SECONDS = 2


class Breaker:
    """The breaker of one part, for one process.

    Closed, it lets everybody through; after `most_failures` in a row it opens, and refuses everybody for `rest_seconds`. Then it lets
    one caller through at a time, until one of them succeeds.

    pybreaker keeps the state. It would hold its lock for as long as a call takes, so that all would stand in one line: here it is told
    of what happened, after it happened.
    """

    def __init__(self, name: str, most_failures: int, rest_seconds: float, counts: Callable[[BaseException], bool]) -> None:
        """`counts` tells of an error whether it speaks against the part."""
        self.name = name
        self._rest_seconds = rest_seconds
        self._counts = counts
        # A wall clock that is put back must not keep it open, so the rest is measured here.
        self._opened_at = -math.inf
        self._circuit = CircuitBreaker(fail_max=most_failures, name=name, throw_new_error_on_trip=False)
        self._circuit.add_listener(_Listener(self._changed))
        # Reentrant: what is used within a trial belongs to it.
        self._trying = RLock()
        self._listeners: dict[str, Callable[[str, str], None]] = {}

    @property
    def closed(self) -> bool:
        """Whether the part is believed to work."""
        return bool(self._circuit.current_state == STATE_CLOSED)

    @property
    def state(self) -> str:
        """`closed`, `open` or `half-open`: somebody is trying it."""
        return str(self._circuit.current_state)

    def listen(self, name: str, listener: Callable[[str, str], None]) -> None:
        """Tell `listener` the part's name and the new state whenever it changes; a second one of a `name` takes the place of the first."""
        self._listeners[name] = listener

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Use the part within the block. Raises Unavailable at once while the breaker is open."""
        if self.closed:
            with self._told(is_trial=False):
                yield
            return
        if self.resting > 0 or not self._trying.acquire(blocking=False):
            raise Unavailable(f"{self.name.capitalize()} is out of reach.", retry_after=self.retry_after, part=self.name)
        try:
            # Another may have tried it with success before we had the lock.
            is_trial = not self.closed
            if is_trial:
                self._circuit.half_open()
            with self._told(is_trial=is_trial):
                yield
        finally:
            self._trying.release()

    @property
    def resting(self) -> float:
        """For how many seconds from now nobody may try it; not above 0 when somebody may."""
        return 0.0 if self.closed else self._opened_at + self._rest_seconds - time.monotonic()

    @property
    def retry_after(self) -> int:
        """In how many seconds a caller may come again: others are told others."""
        return max(1, math.ceil(self.resting)) + random.randrange(_SPREAD_SECONDS + 1)  # noqa: S311 - no secret

    @contextmanager
    def _told(self, *, is_trial: bool) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._record(self._counts(error), is_trial)
            raise
        self._record(False, is_trial)

    def _record(self, failed: bool, is_trial: bool) -> None:
        # What began before it opened tells nothing that the trial will not.
        if is_trial or self.closed:
            # Another may open it between our look and our word: then ours is not needed.
            with suppress(_Failed, CircuitBreakerError):
                if failed:
                    self._circuit.call(_fail)
                elif is_trial or self._circuit.fail_counter:
                    self._circuit.call(_succeed)

    def _changed(self, before: str, state: str) -> None:
        if state == STATE_OPEN:
            self._opened_at = time.monotonic()
        # Of trials that fail, one after the other, a log needs not tell.
        if STATE_CLOSED in (before, state):
            log.warning("breaker_changed", part=self.name, state=state)
        for listener in self._listeners.values():
            listener(self.name, state)


class _Failed(Exception):
    pass


def _fail() -> None:
    raise _Failed


def _succeed() -> None:
    pass


class _Listener(CircuitBreakerListener):
    def __init__(self, changed: Callable[[str, str], None]) -> None:
        self._tell = changed

    def state_change(self, cb: CircuitBreaker, old_state: Any, new_state: Any) -> None:
        self._tell(old_state.name if old_state else "", new_state.name)
