"""The bank's own accounts: the other side of money that comes from or goes to the outside, or becomes money of another currency.

There is one of each kind for each currency and lane, so that lanes do not meet on one row. Their ids are
computed, so nobody has to look them up.
"""

from functools import cache
from uuid import UUID, uuid5

BATCH_LANE = 1000
"""The lane of everything that came in a batch, past any that `BANK_LANES` may name: what is in it is decided in its order."""

_NAMESPACE = UUID("6f0f8b5e-7a54-4c7c-9d0e-2b1f2a8c9e10")


@cache
def outside_account_id(currency: str, lane: int) -> str:
    """The id of the account that stands for the outside in `currency` on `lane` (UUIDv5, RFC 9562)."""
    return str(uuid5(_NAMESPACE, f"outside/{currency}/{lane}"))


@cache
def position_account_id(currency: str, lane: int) -> str:
    """The id of the account that holds what exchanges on `lane` have brought the bank in `currency`, or owes what they took."""
    return str(uuid5(_NAMESPACE, f"position/{currency}/{lane}"))


def lane_of(account_id: str, lanes: int) -> int:
    """The lane, from 0 to `lanes` - 1, that orders what the account spends.

    The low bits of a UUIDv7 are random, so they spread accounts evenly.
    """
    return int(account_id[-8:], 16) % lanes


def every_lane(lanes: int) -> list[int]:
    """The lanes of a bank with `lanes` of them for what comes by itself: these, and that of the batches."""
    return [*range(lanes), BATCH_LANE]
