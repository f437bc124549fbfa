"""What can be done to a bank, drawn by hypothesis. Whom and what an act is about are numbers: of what is there when its turn comes."""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tests.properties.ledger import LARGEST_AMOUNT

CUSTOMERS = ("alice", "bob", "carol")


@dataclass(frozen=True)
class Rest:
    """All that there is to take, and this much more."""

    more: int


@dataclass(frozen=True)
class Ask:
    """A request that moves money, now or later. `caller` None: who may. `fields` are those of the operation. `waits`: until it is
    posted."""

    operation: str
    fields: dict[str, Any] = field(default_factory=dict)
    caller: str | None = None
    key: str | None = None
    dry: bool = False
    waits: bool = True


@dataclass(frozen=True)
class Again:
    """The last request that had a key comes once more."""


@dataclass(frozen=True)
class Open:
    """Open an account."""

    owner: str
    currency: int


@dataclass(frozen=True)
class Change:
    """Change an account's status or overdraft limit."""

    account: int
    to: dict[str, Any]
    caller: str = "teller"


@dataclass(frozen=True)
class Publish:
    """Publish a rate for one euro."""

    currency: int
    rate: str


@dataclass(frozen=True)
class AskQuote:
    """Have a rate promised for what an account has."""

    source: int
    amount: Any


@dataclass(frozen=True)
class SetLimit:
    """Limit an account, its owner, or everybody in its currency."""

    scope: str
    account: int
    kind: str
    most: int
    window: str


@dataclass(frozen=True)
class SetRule:
    """Deny, or only mark, what is more than this."""

    over: int
    denies: bool


@dataclass(frozen=True)
class Unset:
    """Remove a limit, or a rule."""

    which: int


@dataclass(frozen=True)
class Reschedule:
    """Pause a schedule, let it go on, or delete it."""

    schedule: int
    status: str
    caller: str | None = None


@dataclass(frozen=True)
class Post:
    """The workers do what waits."""


@dataclass(frozen=True)
class Pass:
    """Hours go by; then the ticks come that let holds go and run schedules, or they do not come."""

    hours: int
    expire: bool
    run: bool


# Below this a number stands for what fits, and else for anything.
FITS = 12

whiches = st.integers(0, 5)
mostly = st.integers(0, FITS + 1)


def weighted(*strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """One of these, and what is here twice, twice as often: `one_of` would take it once."""
    return st.sampled_from(strategies).flatmap(lambda strategy: strategy)


amounts = weighted(
    *[st.integers(1, 4_000)] * 5,
    *[st.builds(Rest, st.sampled_from([-1, 0, 0, 1]))] * 2,
    st.sampled_from([1, 1, 1, 1, 0, LARGEST_AMOUNT, LARGEST_AMOUNT + 1]),
)
callers = st.sampled_from([None] * 24 + [*CUSTOMERS, "teller", "admin"])
keys = st.sampled_from([None] * 8 + ["k1", "k2", "k3"])
references = st.sampled_from([None] * 4 + ["r1", "r2"])
# None: that of the account.
currencies = st.sampled_from([None] * 30 + [0, 1])


def _some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """These fields, without those that are None."""
    return st.fixed_dictionaries(fields).map(lambda drawn: {name: value for name, value in drawn.items() if value is not None})


_of_all = {"amount": amounts, "currency": currencies, "reference": references}
_receiver = {"user": st.sampled_from([None] * 7 + [*CUSTOMERS]), "account": mostly}
one_sided = _some(**_of_all, **_receiver, late=st.none() | st.integers(1, 900))
transfers = _some(**_of_all, **_receiver, source=st.none() | whiches)
by_quote = _some(quote=whiches, source=whiches, **_receiver)
exchanges = _some(**_of_all, **_receiver, source=whiches, exchanges=st.just(True))
holds = _some(**_of_all, **_receiver, source=whiches, hold=st.just(True), hours=st.sampled_from([None, 1.5, 30.5, 700.5]))
items = st.one_of(
    *(fields.map(lambda drawn, kind=kind: {"type": kind, **drawn}) for kind, fields in (
        ("credit", one_sided), ("debit", one_sided), ("transfer", transfers), ("transfer", exchanges), ("transfer", holds)))
)  # fmt: skip
floods = st.builds(lambda account: [{"type": "credit", "account": account, "amount": LARGEST_AMOUNT}] * 10, whiches)
lists = st.lists(items, min_size=1, max_size=6)
batches = st.fixed_dictionaries({"atomic": st.booleans(), "items": weighted(*[lists] * 9, floods)})
points = st.fixed_dictionaries({"of": mostly}, optional={"amount": amounts})
schedules = _some(
    **_of_all, **_receiver, source=whiches, skips=st.booleans(), attempts=st.sampled_from([1, 1, 2, 3]),
    first=st.sampled_from([1, 2, 24]), every=st.sampled_from([1, 24, 48]), count=st.sampled_from([1, 2, 3, 12]),
)  # fmt: skip


def _asks(operation: str, fields: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[Ask]:
    return st.builds(Ask, st.just(operation), fields, callers, keys, st.sampled_from([False] * 5 + [True]), st.booleans())


asks = {
    "credit": _asks("credit", one_sided),
    "debit": _asks("debit", one_sided),
    "transfer": _asks("transfer", transfers),
    "hold": _asks("transfer", holds),
    "exchange": _asks("transfer", exchanges),
    "by quote": _asks("transfer", by_quote),
    "capture": _asks("capture", points),
    "void": _asks("void", st.fixed_dictionaries({"of": mostly})),
    "rollback": _asks("rollback", points),
    "batch": _asks("batch", batches),
    "schedule": _asks("schedule", schedules),
}
others = {
    "limit": st.builds(
        SetLimit,
        st.sampled_from(["account", "account", "user", "user", "role"]),
        whiches,
        st.sampled_from(["single", "sum", "sum", "sum", "count", "count", "minimum_balance"]),
        st.sampled_from([1, 2, 500, 2_000, 4_000]),
        st.sampled_from(["hour", "day", "week"]),
    ),
    "rule": st.builds(SetRule, st.sampled_from([500, 2_000]), st.booleans()),
    "unset": st.builds(Unset, whiches),
    "quote": st.builds(AskQuote, whiches, amounts),
    "publish": st.builds(Publish, st.integers(0, 1), st.sampled_from(["1", "0.8", "1.1172", "24.31", "144.35", "0.00031", "16250.5"])),
    "again": st.just(Again()),
    "open": st.builds(Open, st.sampled_from(CUSTOMERS), st.integers(0, 1)),
    "change": st.builds(
        Change,
        whiches,
        st.sampled_from(
            [{"status": "active"}] * 3 + [{"status": "frozen"}, {"status": "closed"}, {"limit": 5000}, {"limit": 0}, {"limit": 1}]
        ),
        st.sampled_from(["teller"] * 6 + ["alice"]),
    ),
    "reschedule": st.builds(Reschedule, whiches, st.sampled_from(["paused", "active", "deleted"]), callers),
    "post": st.just(Post()),
    "pass": st.builds(Pass, st.sampled_from([0, 1, 2, 24, 200]), st.booleans(), st.booleans()),
}


def scripts(*names: str) -> st.SearchStrategy[list[Any]]:
    """Up to three dozens of acts of these names; a name that comes twice comes twice as often."""
    # The first is what others shrink to.
    act = weighted(others["post"], *((asks | others)[name] for name in names))
    # Lists of hypothesis are short unless they must be long; put together they can still become short.
    return st.tuples(*[st.lists(act, min_size=2, max_size=12)] * 3).map(lambda parts: [act for part in parts for act in part])


explore = settings(
    max_examples=334,
    # Other runs each time at a developer's, where the blob makes what they find come again; in CI, where hypothesis does so by itself,
    # always the same, so that a change answers for itself and not for its luck.
    print_blob=True,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
"""Of each of the six mixes so many runs: two thousand in all."""
