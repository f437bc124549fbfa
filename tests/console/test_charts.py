"""Lines and what they are drawn from."""

import time
from decimal import Decimal

from bank.console import throughput
from bank.console.charts import HEIGHT, WIDTH, Line, line
from bank.processing.queue import redis


def test_a_line_lies_between_its_lowest_and_its_highest_value_and_tells_where_zero_is():
    assert line([Decimal(0), Decimal(5), Decimal(10)]) == Line(f"M0 {HEIGHT}L300 80L{WIDTH} 0", Decimal(0), Decimal(10), HEIGHT)
    assert line([Decimal(-10), Decimal(10)], steps=True) == Line(f"M0 {HEIGHT}H{WIDTH}V0", Decimal(-10), Decimal(10), HEIGHT // 2)
    assert line([Decimal(0)]) == Line(f"M0 0H{WIDTH}", Decimal(0), Decimal(0), 0)
    assert line([]) is None


def test_what_was_posted_between_two_looks_is_shown_per_second(context, monkeypatch):
    redis().delete(throughput._SAMPLES, throughput._TURN)
    start, now = time.time(), [0.0]
    monkeypatch.setattr(throughput.time, "time", lambda: start + now[0])
    for after, posted in ((0, 100), (2, 110), (6, 90)):
        now[0] = after
        redis().delete(throughput._TURN)
        rates = throughput.per_second({"posted": {"transfer": posted - 50, "credit": 50}})
    # Five a second, and then a process ended and took its numbers along.
    assert rates == [Decimal(5), Decimal(0)]
    # Who looks right after another adds none.
    assert throughput.per_second({"posted": {"transfer": 1_000}}) == rates
    assert redis().ttl(throughput._SAMPLES) > 0
