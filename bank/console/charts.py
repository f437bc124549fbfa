"""Lines as SVG paths, made by the server: nothing has to be loaded or run to see them."""

from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

WIDTH, HEIGHT = 600, 160


class Line(NamedTuple):
    """`path` is for an SVG of WIDTH by HEIGHT, `low` and `high` are the values at its bottom and top, and `zero` is how far down 0 lies."""

    path: str
    low: Decimal
    high: Decimal
    zero: int


def line(values: Sequence[Decimal], *, steps: bool = False) -> Line | None:
    """The values from left to right, evenly spread, over a scale that holds 0. `steps`: each holds until the next. None for no values."""
    if not values:
        return None
    low, high = min(*values, Decimal(0)), max(*values, Decimal(0))
    span = high - low or Decimal(1)

    def down(value: Decimal) -> int:
        return int((high - value) * HEIGHT / span)

    last = max(len(values) - 1, 1)
    path = f"M0 {down(values[0])}"
    for place, value in enumerate(values[1:], 1):
        x = place * WIDTH // last
        path += f"H{x}V{down(value)}" if steps else f"L{x} {down(value)}"
    return Line(path if len(values) > 1 else f"{path}H{WIDTH}", low, high, down(Decimal(0)))
