"""How much was posted lately: samples of the counters, which all web processes keep together in Redis while somebody looks."""

import json
import time
from collections.abc import Mapping
from decimal import Decimal
from itertools import pairwise
from typing import Any

from redis.exceptions import RedisError

from bank.processing.queue import redis

_SAMPLES, _TURN = "bank:console:samples", "bank:console:turn"

# Five minutes, and one every two seconds.
_SECONDS, _EACH_SECONDS = 300, 2


def per_second(numbers: Mapping[str, Any]) -> list[Decimal]:
    """Transactions posted per second between the samples, to a tenth, the oldest first; none while Redis is away.

    `numbers` are those of `bank.observability.stats.gather`, and may become a sample.
    """
    sample = json.dumps([round(time.time() * 1000), sum(numbers["posted"].values())])
    try:
        if redis().set(_TURN, "1", nx=True, px=_EACH_SECONDS * 1000 - 200):
            with redis().pipeline() as pipeline:
                pipeline.rpush(_SAMPLES, sample)
                pipeline.ltrim(_SAMPLES, -_SECONDS // _EACH_SECONDS, -1)
                pipeline.expire(_SAMPLES, _SECONDS)
                pipeline.execute()
        samples = [json.loads(each) for each in redis().lrange(_SAMPLES, 0, -1)]
        samples = [(at, posted) for at, posted in samples if at > (time.time() - _SECONDS) * 1000]
    except RedisError:
        return []
    # A process that ended takes its numbers along.
    return [round(Decimal(max(0, b - a) * 1000) / max(1, later - at), 1) for (at, a), (later, b) in pairwise(samples)]
