"""The decision: each refusal, their order, and, against a plain model, that no money is made or lost."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bank.ledger.decide import AccountState, Command, FailureCode, OriginalState, Posting, Refusal, decide, decide_together
from bank.money import MAX_BALANCE

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def account(name, amount=0, *, currency="USD", status="active", overdraft=0, held=0, version=0):
    return AccountState(name, currency, status, overdraft, amount, held, version)


def command(source="alice", target="bob", amount=100, currency="USD", reverses=None, name="t1"):
    return Command(name, source, target, amount, currency, NOW, reverses)


def decide_one(the_command, *accounts, originals=()):
    (outcome,) = decide(
        [the_command],
        {state.account_id: state for state in accounts},
        {state.transaction_id: state for state in originals},
    )
    return outcome


def test_a_posting_has_two_sides_with_the_balance_and_version_after_it():
    alice, bob = account("alice", 500, version=7), account("bob", 20, version=1)
    outcome = decide_one(command(amount=120), alice, bob)
    assert isinstance(outcome, Posting)
    assert [(entry.account_id, entry.amount, entry.balance, entry.version) for entry in outcome.entries] == [
        ("alice", -120, 380, 8),
        ("bob", 120, 140, 2),
    ]
    assert (alice.amount, alice.version, bob.amount, bob.version) == (380, 8, 140, 2)


def test_each_command_sees_the_effects_of_those_before_it():
    states = {"alice": account("alice", 100), "bob": account("bob"), "carol": account("carol")}
    first, second, third = decide([command("alice", "bob", 100), command("alice", "carol", 1), command("bob", "carol", 100)], states, {})
    assert isinstance(first, Posting)
    assert isinstance(second, Refusal)
    assert second.code is FailureCode.INSUFFICIENT_FUNDS
    assert isinstance(third, Posting)
    assert states["carol"].amount == 100


# Each line makes one thing wrong, in the documented order: what the request says comes before what
# the accounts are, and that before what they hold. The last column is the refusal it causes.
WRONGS = [
    ("same account", FailureCode.SAME_ACCOUNT),
    ("currency", FailureCode.CURRENCY_MISMATCH),
    ("closed", FailureCode.ACCOUNT_CLOSED),
    ("frozen", FailureCode.ACCOUNT_FROZEN),
    ("nothing left", FailureCode.ALREADY_ROLLED_BACK),
    ("more than left", FailureCode.AMOUNT_EXCEEDS_ORIGINAL),
    ("too poor", FailureCode.INSUFFICIENT_FUNDS),
    ("too rich", FailureCode.AMOUNT_OUT_OF_RANGE),
]


def with_wrongs(wrongs):
    """A command with all of these things wrong with it at once."""
    source, target = account("alice", 1000), account("bob", 1000)
    original = OriginalState("t0", 1000, 0, 2)
    the_command = command(amount=100, reverses="t0")
    if "currency" in wrongs:
        target = replace(target, currency="EUR")
    if "closed" in wrongs:
        source = replace(source, status="closed")
    if "frozen" in wrongs:
        target = replace(target, status="frozen")
    if "more than left" in wrongs:
        original = replace(original, rolled_back_amount=950)
    if "nothing left" in wrongs:
        original = replace(original, rolled_back_amount=1000)
    if "too poor" in wrongs:
        source = replace(source, amount=99)
    if "too rich" in wrongs:
        target = replace(target, amount=MAX_BALANCE - 99)
    if "same account" in wrongs:
        the_command = replace(the_command, to_account_id="alice")
        target = source
        if "currency" in wrongs:
            source.currency = "EUR"
    return the_command, (source, target), (original,)


@pytest.mark.parametrize(("wrong", "code"), WRONGS)
def test_each_reason_refuses_by_its_code_and_changes_nothing(wrong, code):
    the_command, accounts, originals = with_wrongs({wrong})
    before = [replace(state) for state in (*accounts, *originals)]
    outcome = decide_one(the_command, *accounts, originals=originals)
    assert outcome == Refusal(the_command, code)
    assert [*accounts, *originals] == before


@pytest.mark.parametrize("first", range(len(WRONGS)))
def test_the_first_reason_in_the_documented_order_is_the_one_told(first):
    wrongs = {name for name, _ in WRONGS[first:]}
    the_command, accounts, originals = with_wrongs(wrongs)
    assert decide_one(the_command, *accounts, originals=originals) == Refusal(the_command, WRONGS[first][1])


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize(("status", "code"), [("frozen", FailureCode.ACCOUNT_FROZEN), ("closed", FailureCode.ACCOUNT_CLOSED)])
def test_a_frozen_or_closed_account_neither_gives_nor_takes(side, status, code):
    states = {"source": account("alice", 100), "target": account("bob", 100)}
    states[side].status = status
    assert decide_one(command(), *states.values()) == Refusal(command(), code)


@pytest.mark.parametrize("side", ["source", "target"])
def test_either_account_in_another_currency_refuses(side):
    states = {"source": account("alice", 100), "target": account("bob", 100)}
    states[side].currency = "EUR"
    assert decide_one(command(), *states.values()) == Refusal(command(), FailureCode.CURRENCY_MISMATCH)


@pytest.mark.parametrize(
    ("balance", "held", "overdraft", "most"),
    [(100, 0, 0, 100), (100, 30, 0, 70), (0, 0, 50, 50), (-20, 0, 50, 30), (100, 100, 0, 0), (10, 20, 15, 5)],
)
def test_an_account_can_spend_its_balance_less_holds_with_its_overdraft_and_not_one_more(balance, held, overdraft, most):
    rich = account("bob")
    if most:
        outcome = decide_one(command(amount=most), account("alice", balance, held=held, overdraft=overdraft), rich)
        assert isinstance(outcome, Posting)
    outcome = decide_one(command(amount=most + 1), account("alice", balance, held=held, overdraft=overdraft), rich)
    assert outcome == Refusal(command(amount=most + 1), FailureCode.INSUFFICIENT_FUNDS)


def test_the_outside_has_no_limit_but_the_range_of_the_ledger():
    outside = account("outside", -(MAX_BALANCE - 100), overdraft=None)
    assert isinstance(decide_one(command("outside", "bob", 100), outside, account("bob")), Posting)
    outcome = decide_one(command("outside", "bob", 1), outside, account("bob"))
    assert isinstance(outcome, Refusal)
    assert outcome.code is FailureCode.AMOUNT_OUT_OF_RANGE


def test_a_balance_may_reach_the_largest_the_ledger_holds():
    assert isinstance(decide_one(command(amount=100), account("alice", 100), account("bob", MAX_BALANCE - 100)), Posting)


def test_a_rollback_marks_its_original_with_the_sum_so_far():
    original = OriginalState("t0", 100, 30, 3)
    outcome = decide_one(command(amount=70, reverses="t0"), account("alice", 100), account("bob"), originals=[original])
    assert isinstance(outcome, Posting)
    assert outcome.reversal is not None
    assert (outcome.reversal.rolled_back_amount, outcome.reversal.version) == (100, 4)
    assert (original.rolled_back_amount, original.version) == (100, 4)


@pytest.mark.parametrize(("amount", "passes"), [(70, True), (71, False)])
def test_a_rollback_may_take_all_that_is_left_and_not_one_more(amount, passes):
    original = OriginalState("t0", 100, 30, 3)
    outcome = decide_one(command(amount=amount, reverses="t0"), account("alice", 100), account("bob"), originals=[original])
    assert isinstance(outcome, Posting) is passes


def test_a_missing_account_is_a_bug_and_not_a_refusal():
    with pytest.raises(KeyError):
        decide_one(command(), account("alice"))


NAMES = ["alice", "bob", "carol", "euro", "outside"]

accounts = st.fixed_dictionaries(
    {
        "alice": st.builds(account, st.just("alice"), st.integers(0, 300)),
        "bob": st.builds(account, st.just("bob"), st.integers(-50, 300), overdraft=st.just(50)),
        "carol": st.builds(
            account,
            st.just("carol"),
            st.integers(100, 300),
            held=st.integers(0, 100),
            status=st.sampled_from(["active", "active", "active", "frozen"]),
        ),
        "euro": st.builds(account, st.just("euro"), st.integers(0, 300), currency=st.just("EUR")),
        "outside": st.builds(account, st.just("outside"), overdraft=st.none()),
    }
)
moves = st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES), st.integers(1, 200), st.none() | st.sampled_from(["o1", "o2"]))


@given(accounts, st.lists(moves, max_size=40))
def test_decisions_agree_with_a_plain_model_of_a_ledger(states, script):
    model = {name: [state.amount] for name, state in states.items()}
    opening = {name: state.amount for name, state in states.items()}
    rules = {name: (state.status, state.currency, state.overdraft_limit, state.held) for name, state in states.items()}
    originals = {"o1": OriginalState("o1", 150, 0, 2), "o2": OriginalState("o2", 60, 0, 2)}
    left = {"o1": 150, "o2": 60}
    commands = [command(source, target, amount, "USD", reverses, f"t{i}") for i, (source, target, amount, reverses) in enumerate(script)]

    outcomes = decide(commands, states, originals)

    for the_command, outcome in zip(commands, outcomes, strict=True):
        source, target, amount = the_command.from_account_id, the_command.to_account_id, the_command.amount
        limit, held = rules[source][2:]
        allowed = (
            source != target
            and all(rules[name][:2] == ("active", "USD") for name in (source, target))
            and (the_command.reverses_id is None or amount <= left[the_command.reverses_id])
            and (limit is None or model[source][-1] - held - amount >= -limit)
        )
        assert isinstance(outcome, Posting) == allowed, (the_command, outcome)
        if isinstance(outcome, Posting):
            model[source].append(model[source][-1] - amount)
            model[target].append(model[target][-1] + amount)
            assert sum(entry.amount for entry in outcome.entries) == 0
            for entry in outcome.entries:
                assert entry.version == len(model[entry.account_id]) - 1
                assert entry.balance == model[entry.account_id][-1]
            if the_command.reverses_id is not None:
                left[the_command.reverses_id] -= amount

    for name, state in states.items():
        assert state.amount == model[name][-1]
        assert state.version == len(model[name]) - 1
        assert state.overdraft_limit is None or state.amount - state.held >= -state.overdraft_limit
    assert sum(state.amount for state in states.values()) == sum(opening.values())
    for name, original in originals.items():
        assert 0 <= original.rolled_back_amount == original.amount - left[name] <= original.amount


def test_together_all_are_posted_as_they_would_be_one_after_the_other():
    commands = [command(name="1"), command("bob", "alice", 150, name="2")]
    states = {each: account(each, 100) for each in ("alice", "bob")}
    assert decide_together(commands, states, {}) == decide(commands, {name: replace(state) for name, state in states.items()}, {})
    assert states == {each: account(each, 100) for each in ("alice", "bob")}


def test_together_the_first_refusal_takes_the_others_with_it_and_moves_nothing():
    originals = {"t0": OriginalState("t0", 50, 0, 2)}
    commands = [
        command(amount=60, name="1"),
        command("bob", "alice", 50, reverses="t0", name="2"),
        command(amount=100, name="3"),
        command("alice", "alice", name="4"),
    ]
    states = {"alice": account("alice", 100), "bob": account("bob")}
    outcomes = decide_together(commands, states, originals)
    refused = FailureCode.BATCH_REFUSED
    assert outcomes == [
        Refusal(each, code) for each, code in zip(commands, [refused, refused, FailureCode.INSUFFICIENT_FUNDS, refused], strict=True)
    ]
    assert states == {"alice": account("alice", 100), "bob": account("bob")}
    assert originals == {"t0": OriginalState("t0", 50, 0, 2)}
