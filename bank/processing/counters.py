"""What this process has done since it started: plain numbers behind one RLock.

Each process counts for itself and publishes its numbers to Redis, where any of them can add them
up for `GET /admin/stats`; Prometheus gets the same numbers from `bank.observability.metrics`.
"""

import os
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import RLock
from typing import Any

PROCESS_NAME = f"{socket.gethostname()}:{os.getpid()}"


@dataclass(frozen=True, slots=True)
class BatchDone:
    """One committed batch of a lane: how many were posted and refused, volumes in minor units by
    currency, failures by type and code, how old the oldest row was (seconds) and how long the batch took."""

    lane: int
    posted: Counter[str] = field(default_factory=Counter)
    failed: Counter[tuple[str, str]] = field(default_factory=Counter)
    volume: Counter[str] = field(default_factory=Counter)
    size: int = 0
    oldest_seconds: float = 0.0
    took_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Accepted:
    """So many transactions of a type that a client was told 202 for, by one answer."""

    type: str
    count: int


@dataclass(frozen=True, slots=True)
class QueueSeen:
    """What the sweeper saw waiting: by lane how many, and how many seconds the oldest."""

    lanes: dict[int, tuple[int, float]]


@dataclass(frozen=True, slots=True)
class FollowersSeen:
    """What the sweeper saw of the followers of the log: by name for how many seconds the first event waits for it."""

    seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class BankSeen:
    """What the sweeper saw of what nothing else counts: the last event that is sealed and when it was recorded (0 and None while
    nothing is), how many transactions wait for a review and for how long the oldest of them does (0 while none does), and the day
    of the newest provider's rates. Moments are seconds since 1970."""

    sealed_position: int
    sealed_at: float | None
    open_reviews: int
    oldest_review_seconds: float
    rates_of: float | None


@dataclass(frozen=True, slots=True)
class InvariantsChecked:
    """What the sample of the books showed: by the name of each check how many violate it."""

    violations: dict[str, int]


@dataclass(frozen=True, slots=True)
class Shed:
    """A transaction was not taken, since too much waits in its lane."""

    lane: int


@dataclass(frozen=True, slots=True)
class StoodBy:
    """So many transactions were decided by a process that could not ring for them."""

    count: int


@dataclass(frozen=True, slots=True)
class ReplicaSeen:
    """By how many seconds the replica is behind at most."""

    seconds: float


@dataclass(frozen=True, slots=True)
class CacheAsked:
    """A value of a kind was asked of the cache: `hit`, `miss`, `passed` (it was not to be used), or `error`."""

    kind: str
    result: str


Seen = BankSeen | CacheAsked | QueueSeen | FollowersSeen | InvariantsChecked | Shed | StoodBy | ReplicaSeen
Happening = BatchDone | Accepted | Seen


class Counters:
    """Numbers that several threads add to. The lock is reentrant, so a listener may read them."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._started = time.time()
        self._accepted: Counter[str] = Counter()
        self._posted: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._volume: Counter[str] = Counter()
        self._batches = 0
        self._batched = 0
        self._largest_batch = 0
        self._listeners: dict[str, Callable[[Happening], None]] = {}

    def listen(self, name: str, listener: Callable[[Happening], None]) -> None:
        """Call `listener` with what happens: what was accepted, each BatchDone, and what was seen or checked.

        It is called with the lock held, so it must be quick. A second one of a name takes the place
        of the first: a process may build several applications and still counts once.
        """
        with self._lock:
            self._listeners[name] = listener

    def accepted(self, transaction_type: str, count: int = 1) -> None:
        """Count transactions of a type that a client was told 202 for."""
        with self._lock:
            self._accepted[transaction_type] += count
            for listener in self._listeners.values():
                listener(Accepted(transaction_type, count))

    def batch_done(self, batch: BatchDone) -> None:
        """Count a batch that was committed."""
        with self._lock:
            self._posted.update(batch.posted)
            for (_, code), count in batch.failed.items():
                self._failed[code] += count
            self._volume.update(batch.volume)
            self._batches += 1
            self._batched += batch.size
            self._largest_batch = max(self._largest_batch, batch.size)
            for listener in self._listeners.values():
                listener(batch)

    def seen(self, seen: Seen) -> None:
        """Tell how things stand now, or what is of interest to the listeners alone."""
        with self._lock:
            for listener in self._listeners.values():
                listener(seen)

    def snapshot(self) -> dict[str, Any]:
        """All numbers at one moment, as plain data. Volumes are minor units by currency."""
        with self._lock:
            return {
                "started_at": self._started,
                "accepted": dict(self._accepted),
                "posted": dict(self._posted),
                "failed": dict(self._failed),
                "volume": dict(self._volume),
                "batches": self._batches,
                "batched": self._batched,
                "largest_batch": self._largest_batch,
            }


def add_up(snapshots: list[dict[str, Any]]) -> dict[str, Any]:
    """The sum of several processes' snapshots; `largest_batch` is the largest of all."""
    total: dict[str, Any] = {}
    for name in ("accepted", "posted", "failed", "volume"):
        summed: Counter[str] = Counter()
        for snapshot in snapshots:
            summed.update(snapshot[name])
        total[name] = dict(sorted(summed.items()))
    total["batches"] = sum(snapshot["batches"] for snapshot in snapshots)
    batched = sum(snapshot["batched"] for snapshot in snapshots)
    total["mean_batch"] = round(batched / total["batches"], 1) if total["batches"] else 0
    total["largest_batch"] = max((snapshot["largest_batch"] for snapshot in snapshots), default=0)
    return total


counters = Counters()
