"""What a replay says of a moment is what the bank said then."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, Self
from urllib.parse import quote

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bank.db import unit_of_work
from bank.errors import Unavailable, Unprocessable
from bank.events import horizon, store, types
from bank.events.types import Happened, Origin, TransactionCompleted, TransactionSubmitted, UnknownEventError, UserRegistered
from bank.processing.expiry import expire_holds
from bank.replay import run
from bank.replay.run import Until, goal, replay
from bank.replay.service import present
from bank.replay.state import READ, Account, BrokenLogError, State
from bank.web.context import new_id
from tests.conftest import Person, open_transaction
from tests.replay.conftest import Books


def replayed(until: Until = None, **options: Any) -> State:
    return replay(goal(until), lambda position: None, **options)


def told(state: State) -> dict[str, Any]:
    """All that there is in a state."""
    return {**vars(state), "accounts": {account_id: asdict(account) for account_id, account in state.accounts.items()}}


def seen(books: Books, accounts: list[str]) -> dict[str, Any]:
    """What the bank itself says now."""
    shown = {}
    for account_id in accounts:
        account = books.admin.get(f"/accounts/{account_id}").json
        shown[account_id] = {
            name: account[name] for name in ("user_id", "currency", "name", "status", "balance", "held", "overdraft_limit", "version")
        }
    statuses: Counter[str] = Counter(dict(books.query("SELECT status, count(*) FROM transactions GROUP BY 1")))
    return {
        "accounts": shown,
        "users": books.query("SELECT count(*) FROM users")[0][0],
        "submitted": statuses.total(),
        "pending": statuses["pending"],
        "open_holds": statuses["held"],
        "voided": statuses["voided"],
        "failed": statuses["failed"],
        "completed": statuses["completed"] + statuses["rolled_back"],
    }


def shown(state: State, accounts: list[str]) -> dict[str, Any]:
    """The same of a state."""
    found = {each: present(each, state.accounts[each]) for each in accounts}
    for account in found.values():
        assert account.pop("kind") == "customer"
        account.pop("id")
    counts = {name: getattr(state, name) for name in ("users", "submitted", "pending", "open_holds", "voided", "failed", "completed")}
    return {"accounts": found, **counts}


@pytest.fixture(scope="module")
def alice(books: Books) -> Person:
    return books.person("alice")


amounts = st.integers(1, 3_000).map(lambda cents: f"{cents // 100}.{cents % 100:02}")
whiches = st.integers(0, 2)
acts = st.one_of(
    st.tuples(st.just("credit"), whiches, amounts, st.none() | st.integers(0, 400)),
    st.tuples(st.just("debit"), whiches, amounts, st.none() | st.integers(0, 400)),
    st.tuples(st.just("transfer"), whiches, whiches, amounts),
    st.tuples(st.just("transfer"), whiches, whiches, amounts, st.just(True)),
    st.tuples(st.sampled_from(["rollback", "capture"]), st.integers(0, 5), amounts),
    st.tuples(st.sampled_from(["void", "expire"]), st.integers(0, 5)),
    st.tuples(st.just("change"), whiches, st.sampled_from([{"name": "Rent"}, {"name": None}, {"status": "frozen"}, {"status": "active"},
                                                          {"overdraft_limit": "25.00"}])),
    st.tuples(st.just("register")),
    st.tuples(st.just("post")),
)  # fmt: skip


class History:
    """Does the acts, and writes down what the bank said after each."""

    numbers = iter(range(10**6))

    def __init__(self, books: Books, alice: Person) -> None:
        self.books, self.alice = books, alice
        self.accounts = [alice.open_account()["id"] for _ in range(3)]
        self.transactions: list[str] = []
        self.moments: dict[int, dict[str, Any]] = {}
        self.begun = books.end()

    def do(self, act: str, *rest: Any) -> None:
        getattr(self, act)(*rest)
        self.moments[self.books.end()] = seen(self.books, self.accounts)

    def _submit(self, path: str, body: dict[str, Any]) -> None:
        answer = self.books.admin.post(f"/transactions/{path}", body)
        assert answer.status_code in (202, 409, 422), answer.json
        if answer.status_code == 202:
            self.transactions.append(answer.json["id"])

    def _one_sided(self, kind: str, which: int, amount: str, days_ago: int | None) -> None:
        body = {"account_id": self.accounts[which], "amount": amount, "currency": "USD"}
        if days_ago is not None:
            body["effective_at"] = (datetime.now().astimezone() - timedelta(days=days_ago)).isoformat()
        self._submit(kind, body)

    def credit(self, *rest: Any) -> None:
        self._one_sided("credit", *rest)

    def debit(self, *rest: Any) -> None:
        self._one_sided("debit", *rest)

    def transfer(self, source: int, target: int, amount: str, hold: bool = False) -> None:
        sides = {"from_account_id": self.accounts[source], "to_account_id": self.accounts[target]}
        self._submit("transfer", {**sides, "amount": amount, "currency": "USD", "hold": hold})

    def rollback(self, which: int, amount: str) -> None:
        if which < len(self.transactions):
            self._submit(f"{self.transactions[which]}/rollback", {"amount": amount, "reason": "wrong"})

    def capture(self, which: int, amount: str) -> None:
        if which < len(self.transactions):
            self._submit(f"{self.transactions[which]}/capture", {"amount": amount})

    def void(self, which: int) -> None:
        if which < len(self.transactions):
            self._submit(f"{self.transactions[which]}/void", {})

    def expire(self, which: int) -> None:
        if which < len(self.transactions):
            self.books.query(
                "UPDATE transactions SET expires_at = now() WHERE id = %(id)s AND held_amount > 0", id=self.transactions[which]
            )
            with self.books.app.app_context():
                expire_holds()

    def change(self, which: int, changes: dict[str, Any]) -> None:
        answer = self.books.admin.patch(f"/accounts/{self.accounts[which]}", changes)
        assert answer.status_code in (200, 409), answer.json

    def register(self) -> None:
        with self.books.app.app_context(), unit_of_work() as session:
            name = f"somebody-{next(self.numbers)}"
            user_id = new_id()
            event = UserRegistered(username=name, email=f"{name}@example.com", role="customer", status="active", salt="")
            session.connection().exec_driver_sql(
                "INSERT INTO users (id, username, email, role, status, version) VALUES (%s, %s, %s, 'customer', 'active', 1)",
                (user_id, name, event.email),
            )
            store.append(session, user_id, 1, event, Origin())

    def post(self) -> None:
        self.books.post_all()


# Every example writes to a database: making a failing one smaller would take minutes.
examples = settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
                    phases=(Phase.explicit, Phase.reuse, Phase.generate))  # fmt: skip

# A little of everything, whatever is drawn.
_ALL = [
    ("credit", 0, "50.00", None), ("credit", 1, "20.00", 300), ("post",), ("transfer", 0, 1, "12.34"), ("debit", 2, "5.00", None),
    ("post",), ("rollback", 2, "2.00"), ("change", 1, {"status": "frozen"}), ("transfer", 0, 1, "1.00"), ("change", 0, {"name": "Rent"}),
    ("post",), ("debit", 0, "1.00", 10), ("change", 2, {"overdraft_limit": "25.00"}), ("debit", 2, "5.00", None), ("register",),
    ("change", 1, {"status": "active"}), ("transfer", 0, 1, "3.00", True), ("post",), ("capture", 8, "1.00"), ("post",), ("void", 8),
    ("transfer", 0, 1, "2.00", True), ("transfer", 0, 1, "1.00", True), ("post",), ("expire", 11), ("capture", 12, "1.00"),
]  # fmt: skip


@pytest.mark.usefixtures("within")
@examples
@given(script=st.lists(acts, max_size=14), draw=st.randoms(use_true_random=False))
def test_a_replay_up_to_a_moment_says_what_the_bank_said_then(books: Books, alice: Person, script: list[tuple], draw: Any) -> None:
    history = History(books, alice)
    for act in [*(_ALL if draw.random() < 0.3 else []), *script, ("post",)]:
        history.do(*act)
    for position, was in history.moments.items():
        assert shown(replayed(position), history.accounts) == was, position
    now = replayed()
    assert told(replayed(books.end())) == told(now)
    # Up to any time, seen on the other axis: what was known then of what counted then.
    times = [at for (at,) in books.query("SELECT recorded_at FROM events WHERE position > %(after)s", after=history.begun)]
    for at in {at - timedelta(microseconds=before) for at in draw.sample(times, min(6, len(times))) for before in (0, 1)}:
        state = replayed(at)
        for account_id in history.accounts:
            when = quote(at.isoformat())
            answer = books.admin.get(f"/balances/at-time?account_id={account_id}&at={when}&known_at={when}").json
            assert present(account_id, state.accounts[account_id])["balance"] == answer["amount"], at


def test_before_all_time_there_is_nothing(books: Books, within: None) -> None:
    for until in (0, datetime.fromisoformat("1999-12-31T23:59:59+00:00")):
        assert told(replayed(until)) == told(State())


def test_the_banks_own_accounts_have_no_limit_and_what_all_have_sums_to_zero(books: Books, alice: Person, within: None) -> None:
    account_id = alice.open_account("EUR")["id"]
    books.admin.post("/transactions/credit", {"account_id": account_id, "amount": "7.00", "currency": "EUR"})
    books.post_all()
    state = replayed()
    euros = [account for account in state.accounts.values() if account.currency == "EUR"]
    assert sum(account.balance for account in euros) == 0
    outside = [account for account in euros if account.kind != "customer"]
    assert {(account.user_id, account.overdraft_limit) for account in outside} == {(None, None)}
    assert [account.balance for account in outside if account.version] == [-700]


def test_a_position_past_the_end_says_where_the_log_ends(books: Books, within: None) -> None:
    end = books.end()
    assert goal(end).position == end
    with pytest.raises(Unprocessable, match=f"ends at position {end}"):
        goal(end + 1)


def append(session: Any, event: Happened, stream_id: str | None = None, version: int = 1) -> str:
    stream_id = stream_id or new_id()
    store.append(session, stream_id, version, event, Origin())
    return stream_id


SOMEBODY = UserRegistered(username="somebody", email="somebody@example.com", role="customer", status="active", salt="")


def test_an_event_that_commits_late_is_waited_for(books: Books, within: None, monkeypatch: pytest.MonkeyPatch) -> None:
    users = replayed().users
    with open_transaction() as late:
        append(late, SOMEBODY)
        with unit_of_work() as session:
            append(session, SOMEBODY)
        with monkeypatch.context() as impatient:
            impatient.setattr(run, "settled", lambda: horizon.settled(0.0))
            with pytest.raises(Unavailable):
                replayed()
        monkeypatch.setattr(horizon.time, "sleep", lambda _: late.commit())
        assert replayed().users == users + 2


def test_an_event_of_an_account_that_was_never_opened_is_named(books: Books, within: None) -> None:
    state, account_id = State(), new_id()
    for kind, data in (("AccountChanged", '{"name":null,"status":"active","overdraft_limit":0}'),
                       ("TransactionCompleted", f'{{"entries":[["{account_id}",1,5,5]]}}')):  # fmt: skip
        with pytest.raises(BrokenLogError, match=rf"Event 17 .*{account_id}"):
            state.apply([(17, kind, 1, account_id, data)])


@pytest.mark.parametrize("data", ["{}", '{"entries":[[1]]}', '{"entries":5}', "[]", "x", ""])
def test_an_event_that_has_lost_its_shape_is_named(data: str) -> None:
    with pytest.raises(BrokenLogError, match="Event 17 is a TransactionCompleted"):
        State().apply([(17, "TransactionCompleted", 1, new_id(), data)])


@pytest.mark.parametrize("entry", ["1, 5, 0.5", '1, 5, "5"', "1.0, 5, 5", "true, 5, 5", "1, 5, null"])
def test_an_entry_that_is_no_whole_number_is_named(entry: str) -> None:
    state, account_id = State(), new_id()
    state.accounts[account_id] = Account(None, "USD", "customer", None, "active", 0, 0, 0)
    with pytest.raises(BrokenLogError, match="Event 17"):
        state.apply([(17, "TransactionCompleted", 1, new_id(), f'{{"entries":[["{account_id}", {entry}]]}}')])


def test_an_account_in_no_currency_is_named() -> None:
    opened = '{"user_id":null,"currency":"XXQ","kind":"outside","name":null,"is_default":false}'
    with pytest.raises(BrokenLogError, match="Event 17"):
        State().apply([(17, "AccountOpened", 1, new_id(), opened)])


def test_an_older_posting_that_comes_last_changes_nothing() -> None:
    state, account_id = State(), new_id()
    state.accounts[account_id] = Account(None, "USD", "customer", None, "active", 0, 0, 0)
    state.apply(
        [(1, "TransactionCompleted", 1, new_id(), f'{{"entries":[["{account_id}",{version},5,{version * 5}]]}}') for version in (2, 1)]
    )
    assert (state.accounts[account_id].balance, state.accounts[account_id].version, state.completed) == (10, 2, 2)


@pytest.mark.parametrize("kind", ["TransactionSubmitted", "TransactionCompleted", "AccountOpened", "Waved"])
def test_an_event_that_this_version_cannot_read_stops_the_replay(kind: str) -> None:
    with pytest.raises(UnknownEventError, match=rf"Event 17 is a {kind} of version 3"):
        State().apply([(17, kind, 3, new_id(), "{}")])


@dataclass(frozen=True, slots=True)
class Posted(TransactionCompleted):
    """As it might be told one day."""

    SCHEMA: ClassVar[int] = 3

    @classmethod
    def stored(cls, data: Mapping[str, Any]) -> Self:
        return cls(entries=(tuple(data["one"]),))


def test_old_and_new_versions_of_an_event_are_read_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    account_id = new_id()
    monkeypatch.setitem(types.TYPES, "TransactionCompleted", Posted)
    state = State()
    state.accounts[account_id] = Account(None, "USD", "customer", None, "active", 0, 0, 0)
    for schema, data in enumerate(
        (
            f'{{"entries":[["{account_id}",1,5,5]]}}',
            f'{{"entries":[["{account_id}",2,1,6]],"checks":[]}}',
            f'{{"one":["{account_id}",3,1,7]}}',
        ),
        1,
    ):
        state.apply([(schema, "TransactionCompleted", schema, new_id(), data)])
    assert (state.accounts[account_id].balance, state.completed) == (7, 3)


def test_an_old_version_of_an_event_goes_through_its_upcasters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(types.UPCASTERS, ("TransactionFailed", 1), lambda data: {"failure_code": data["code"]})
    state = State()
    state.apply(
        [(1, "TransactionFailed", 1, new_id(), '{"code": "rule_denied"}'), (2, "TransactionFailed", 2, new_id(), '{"failure_code": "x"}')]
    )
    assert state.failed == 2


def test_submissions_of_all_versions_count_without_their_data(books: Books, within: None) -> None:
    state = State()
    state.apply((number, "TransactionSubmitted", number, new_id(), None) for number in range(1, TransactionSubmitted.SCHEMA + 1))
    assert state.submitted == state.pending == TransactionSubmitted.SCHEMA
    rows = books.query(READ, low=0, high=books.end(), until=None, submitted=TransactionSubmitted.SCHEMA)
    assert {(kind, data is None) for _, kind, _, _, data in rows} >= {("TransactionSubmitted", True), ("TransactionCompleted", False)}
    newer = books.query(READ, low=0, high=books.end(), until=None, submitted=TransactionSubmitted.SCHEMA - 1)
    assert {data is None for _, kind, _, _, data in newer if kind == "TransactionSubmitted"} == {False}


def test_a_state_comes_back_from_a_dump_as_it_was(books: Books, within: None) -> None:
    state = replayed()
    dumped = state.dump()
    assert told(State.restore(dumped)) == told(state)
    assert len(dumped) < len(orjson.dumps(told(state)))


def test_an_account_that_nothing_was_posted_to_is_there(books: Books, alice: Person, within: None) -> None:
    account_id = alice.open_account("JPY", name="ünï [bold]")["id"]
    account = replayed().accounts[account_id]
    assert account == Account(alice.id, "JPY", "customer", "ünï [bold]", "active", 0, 0, 0)


def test_memory_does_not_grow_with_transactions() -> None:
    """Whatever a state holds is of accounts."""
    state, account_id = State(), new_id()
    state.accounts[account_id] = Account(None, "USD", "customer", None, "active", 0, 0, 0)
    few = len(state.dump())
    state.apply(
        row
        for number in range(1, 1_001)
        for row in ((1, "TransactionSubmitted", 2, new_id(), None),
                    (1, "TransactionCompleted", 1, new_id(), f'{{"entries":[["{account_id}",{number},5,{number * 5}]]}}'))
    )  # fmt: skip
    assert len(state.dump()) < few + 20
