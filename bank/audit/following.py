"""The log of events as a stream: all that match, in order, none skipped; and on, as the log grows."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Row

from bank.db import reader
from bank.events import store
from bank.events.horizon import Horizon, settled
from bank.web import streaming
from bank.web.serving import serving

# A follower looks for new events this often, and has a thread of the server for so long at most.
_POLL_SECONDS = 0.5
_FOLLOW_SECONDS = 600.0

# After so long without an event it says that it is there: only by sending is a client noticed that is not.
_SILENCE_SECONDS = 2.0


def until_now(filters: Mapping[str, Any], after: int) -> Iterator[Sequence[Row[Any]]]:
    """The events behind position `after` that there are, in pages. `filters` as for `bank.events.store.read`.

    Raises Unavailable when an older transaction runs for so long that what it may add cannot be waited for.
    """
    yield from _pages(filters, after, settled())


def follow(filters: Mapping[str, Any], after: int) -> Iterator[Sequence[Row[Any]]]:
    """The events behind position `after`, and those that come, in pages; an empty one where there is nothing to tell.

    Ends after ten minutes, and when the process is asked to stop.
    """
    horizon = Horizon()
    end, speak_at = time.monotonic() + _FOLLOW_SECONDS, 0.0
    while time.monotonic() < end and serving():
        last = _advance(horizon)
        for rows in _pages(filters, after, last):
            yield rows
            speak_at = time.monotonic() + _SILENCE_SECONDS
            if time.monotonic() > end:
                return
        after = max(after, last)
        if time.monotonic() >= speak_at:
            yield ()
            speak_at = time.monotonic() + _SILENCE_SECONDS
        time.sleep(_POLL_SECONDS)


def _advance(horizon: Horizon) -> int:
    with reader() as session:
        return horizon.advance(session)


def _pages(filters: Mapping[str, Any], after: int, last: int) -> Iterator[Sequence[Row[Any]]]:
    while after < last:
        with reader() as session:
            rows = store.read(session, {**filters, "last": last}, after, streaming.PAGE)
        if rows:
            yield rows
        if len(rows) <= streaming.PAGE:
            return
        after = rows[-1].position
