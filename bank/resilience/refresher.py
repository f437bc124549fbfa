"""The follower of the log that keeps up what is in the cache, and says that it does."""

from contextlib import suppress

from redis.exceptions import RedisError

from bank.db import READER, fetch
from bank.followers.runner import Outside
from bank.processing.queue import redis
from bank.resilience.cache import FRESH_KEY, TIMELINE, Cache

NAME = "cache"

# How many positions are taken in at once.
_PART = 5_000

# For how long it is believed that the cache is fresh, and how long an event may take to be settled meanwhile.
FRESH_SECONDS = 3.0
_UNSETTLED_SECONDS = 1.0

# Which accounts and users the events are about. That somebody is named who has not changed costs a look.
_CONCERNED = """
    WITH streams AS MATERIALIZED (
        SELECT DISTINCT stream_id FROM events WHERE position > %(after)s AND position <= %(reached)s
    )
    SELECT 'account', account_id::text FROM streams JOIN transactions t ON t.id = stream_id
     CROSS JOIN LATERAL unnest(ARRAY[t.from_account_id, t.to_account_id]) AS side (account_id) WHERE account_id IS NOT NULL
     UNION SELECT 'account', a.id::text FROM streams JOIN accounts a ON a.id = stream_id
     UNION SELECT 'user', u.id::text FROM streams JOIN users u ON u.id = stream_id
"""

# What happened before is in no value any more.
_FORGOTTEN_SECONDS = 120.0

_LONG_AGO = """
    SELECT COALESCE((SELECT recorded_at < clock_timestamp() - %(seconds)s * interval '1 second'
                       FROM events WHERE position >= %(reached)s ORDER BY position LIMIT 1), false)
"""

# The timeline, where the follower is at the end of the log and nothing there is unsettled. The position is read each time: after a
# failover or a restore, what was reached before may lie behind the end of the log.
_FRESH = f"""
    SELECT {TIMELINE} FROM followers
     WHERE name = %(name)s AND position = %(last)s AND NOT pg_is_in_recovery()
       AND NOT EXISTS (SELECT FROM events
                        WHERE position > %(last)s AND recorded_at < clock_timestamp() - %(seconds)s * interval '1 second')
"""


class Refresher:
    """Reads again what the log says has changed, where it is kept."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self.follower = Outside(NAME, self.take)

    def take(self, after: int, last: int) -> int:
        """Keep up with the events behind `after`, up to `last` at most; the position that was reached. Raises RedisError."""
        reached = min(after + _PART, last)
        if self._is_long_ago(reached):
            return reached
        concerned: dict[str, list[str]] = {"account": [], "user": []}
        for kind, key in fetch(_CONCERNED, {"after": after, "reached": reached}, READER):
            concerned[kind].append(key)
        for kind, keys in (("account", concerned["account"]), ("balance", concerned["account"]), ("user", concerned["user"])):
            if keys:
                self._cache.renew(kind, keys)
        return reached

    def _is_long_ago(self, reached: int) -> bool:
        """Whether nothing of that time is kept any more: a cache that was off for long, or never on, begins at the end of the log."""
        [(long_ago,)] = fetch(_LONG_AGO, {"reached": reached, "seconds": _FORGOTTEN_SECONDS}, READER)
        return bool(long_ago)

    def tell(self, last: int) -> None:
        """Say that all is in the cache that has happened up to now, where that is so. Raises Unavailable."""
        for (timeline,) in fetch(_FRESH, {"name": NAME, "last": last, "seconds": _UNSETTLED_SECONDS}, READER):
            # Where Redis does not take it, nobody believes what it holds; what else is made from the log goes on.
            with suppress(RedisError):
                redis().set(FRESH_KEY, timeline, px=int(FRESH_SECONDS * 1000))
