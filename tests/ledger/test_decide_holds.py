"""Holds in the decision: each refusal, and, against a plain model, that no more is taken than was held and no limit is broken."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bank.ledger.decide import (
    AccountState,
    Command,
    FailureCode,
    HoldDraft,
    OriginalState,
    Posting,
    Refusal,
    Release,
    Reservation,
    decide,
    let_go,
)
from bank.money import MAX_BALANCE

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)

ALICE = AccountState("alice", "USD", "active", 0, 1000, 400, 7)
BOB = AccountState("bob", "USD", "active", 0, 1000, 0, 1)
HOLD = OriginalState("h", 400, 0, 3, held_amount=300, captured_amount=100)


def command(amount=100, **kinds):
    return Command("t", "alice", "bob", amount, "USD", NOW, **kinds)


def decide_one(the_command, alice=ALICE, bob=BOB, hold=HOLD):
    """The outcome, and the three states after it."""
    states = {"alice": replace(alice), "bob": replace(bob)}
    after = replace(hold)
    (outcome,) = decide([the_command], states, {"h": after})
    return outcome, states["alice"], states["bob"], after


def test_a_hold_reserves():
    outcome, alice, bob, _ = decide_one(command(600, holds=True))
    assert outcome == Reservation(command(600, holds=True))
    assert (alice, bob) == (replace(ALICE, held=1000), BOB)


def test_a_capture_moves_what_it_frees():
    outcome, alice, bob, hold = decide_one(command(120, captures_id="h"))
    assert isinstance(outcome, Posting)
    assert outcome.reversal is None
    assert outcome.hold == HoldDraft("h", "alice", 120, 220, 180, 4)
    assert [(entry.account_id, entry.amount, entry.balance, entry.version) for entry in outcome.entries] == [
        ("alice", -120, 880, 8),
        ("bob", 120, 1120, 2),
    ]
    assert (alice.amount, alice.held, bob.amount) == (880, 280, 1120)
    assert (hold.held_amount, hold.captured_amount, hold.version) == (180, 220, 4)


def test_a_void_frees_all_that_is_left_whatever_it_says():
    outcome, alice, bob, hold = decide_one(command(1, voids_id="h"))
    assert outcome == Release(command(1, voids_id="h"), HoldDraft("h", "alice", 300, 100, 0, 4))
    assert (alice, bob) == (replace(ALICE, held=100), BOB)
    assert (hold.held_amount, hold.captured_amount) == (0, 100)


OVER, EXPIRED = replace(HOLD, held_amount=0), replace(HOLD, expired=True)
FROZEN, CLOSED = replace(BOB, status="frozen"), replace(BOB, status="closed")


@pytest.mark.parametrize(
    ("the_command", "states", "code"),
    [
        (command(601, holds=True), {}, FailureCode.INSUFFICIENT_FUNDS),
        (command(1, holds=True), {"bob": FROZEN}, FailureCode.ACCOUNT_FROZEN),
        (command(1, holds=True), {"bob": CLOSED}, FailureCode.ACCOUNT_CLOSED),
        (command(1, holds=True), {"bob": replace(BOB, currency="EUR")}, FailureCode.CURRENCY_MISMATCH),
        (replace(command(1, holds=True), to_account_id="alice"), {}, FailureCode.SAME_ACCOUNT),
        (command(100, holds=True), {"bob": replace(BOB, amount=MAX_BALANCE - 99)}, FailureCode.AMOUNT_OUT_OF_RANGE),
        (command(301, captures_id="h"), {}, FailureCode.AMOUNT_EXCEEDS_ORIGINAL),
        (command(1, captures_id="h"), {"hold": OVER}, FailureCode.HOLD_CLOSED),
        (command(1, captures_id="h"), {"hold": EXPIRED}, FailureCode.HOLD_EXPIRED),
        (command(999, captures_id="h"), {"hold": EXPIRED}, FailureCode.HOLD_EXPIRED),
        (command(1, captures_id="h"), {"hold": replace(OVER, expired=True)}, FailureCode.HOLD_EXPIRED),
        (command(1, captures_id="h"), {"bob": FROZEN}, FailureCode.ACCOUNT_FROZEN),
        (command(1, captures_id="h"), {"alice": replace(ALICE, status="frozen"), "hold": EXPIRED}, FailureCode.ACCOUNT_FROZEN),
        (command(1, captures_id="h"), {"bob": CLOSED}, FailureCode.ACCOUNT_CLOSED),
        (command(100, captures_id="h"), {"bob": replace(BOB, amount=MAX_BALANCE - 99)}, FailureCode.AMOUNT_OUT_OF_RANGE),
        (command(1, voids_id="h"), {"hold": OVER}, FailureCode.HOLD_CLOSED),
        (command(1, voids_id="h"), {"hold": EXPIRED}, FailureCode.HOLD_EXPIRED),
    ],
)
def test_each_reason_refuses_by_its_code_and_changes_nothing(the_command, states, code):
    outcome, *after = decide_one(the_command, **states)
    assert outcome == Refusal(the_command, code)
    assert after == [states.get("alice", ALICE), states.get("bob", BOB), states.get("hold", HOLD)]


@pytest.mark.parametrize("states", [{"bob": FROZEN}, {"bob": CLOSED}, {"alice": replace(ALICE, status="frozen")}])
def test_a_void_does_not_ask_what_became_of_the_accounts(states):
    assert isinstance(decide_one(command(1, voids_id="h"), **states)[0], Release)


def test_a_capture_takes_what_was_kept_though_nothing_else_is_left():
    poor = replace(ALICE, amount=250, overdraft_limit=50, held=300)
    assert isinstance(decide_one(command(300, captures_id="h"), alice=poor)[0], Posting)
    assert decide_one(command(1, holds=True), alice=poor)[0] == Refusal(command(1, holds=True), FailureCode.INSUFFICIENT_FUNDS)


amounts = st.integers(1, 120)
names = st.sampled_from(["alice", "bob", "carol"])
whiches = st.integers(0, 6)


class Holds(RuleBasedStateMachine):
    """The decision beside a model that knows, of every hold, what is left of it and what was taken, and of accounts what they have."""

    def __init__(self):
        super().__init__()
        self.limits = {"alice": 0, "bob": 50, "carol": 0}
        self.states = {name: AccountState(name, "USD", "active", limit, 200, 0, 0) for name, limit in self.limits.items()}
        self.originals = {}
        self.has = dict.fromkeys(self.limits, 200)
        # Of each hold: who pays, who is paid, for how much, what is left, what was taken, and whether it is over for good.
        self.holds = []

    def _decide(self, source, target, amount, **kinds):
        the_command = Command("t", source, target, amount, "USD", NOW, **kinds)
        return decide([the_command], self.states, self.originals)[0]

    def _spendable(self, name):
        return self.has[name] + self.limits[name] - sum(hold["left"] for hold in self.holds if hold["source"] == name)

    def _is_active(self, *who):
        return all(self.states[name].status == "active" for name in who)

    @rule(source=names, payee=names, amount=amounts)
    def transfer(self, source, payee, amount):
        outcome = self._decide(source, payee, amount)
        assert isinstance(outcome, Posting) == (source != payee and self._is_active(source, payee) and amount <= self._spendable(source))
        if isinstance(outcome, Posting):
            self.has[source] -= amount
            self.has[payee] += amount

    @rule(source=names, payee=names, amount=amounts)
    def hold(self, source, payee, amount):
        outcome = self._decide(source, payee, amount, holds=True)
        allowed = source != payee and self._is_active(source, payee) and amount <= self._spendable(source)
        assert isinstance(outcome, Reservation) == allowed
        if allowed:
            name = f"h{len(self.holds)}"
            self.originals[name] = OriginalState(name, amount, 0, 2, held_amount=amount)
            self.holds.append({"source": source, "target": payee, "amount": amount, "left": amount, "taken": 0, "expired": False})

    @rule(which=whiches, amount=amounts)
    def capture(self, which, amount):
        if which < len(self.holds):
            hold = self.holds[which]
            outcome = self._decide(hold["source"], hold["target"], amount, captures_id=f"h{which}")
            allowed = self._is_active(hold["source"], hold["target"]) and amount <= hold["left"] and not hold["expired"]
            assert isinstance(outcome, Posting) == allowed
            if allowed:
                hold["left"] -= amount
                hold["taken"] += amount
                self.has[hold["source"]] -= amount
                self.has[hold["target"]] += amount

    @rule(which=whiches)
    def void(self, which):
        if which < len(self.holds):
            hold = self.holds[which]
            outcome = self._decide(hold["source"], hold["target"], hold["amount"], voids_id=f"h{which}")
            assert isinstance(outcome, Release) == (hold["left"] > 0 and not hold["expired"])
            if isinstance(outcome, Release):
                hold["left"] = 0

    @rule(which=whiches, ticked=st.booleans())
    def expire(self, which, ticked):
        """Its time is over; whoever writes that down may come later."""
        if which < len(self.holds) and self.holds[which]["left"]:
            hold, original = self.holds[which], self.originals[f"h{which}"]
            hold["expired"] = original.expired = True
            if ticked:
                assert let_go(original, self.states[hold["source"]]).amount == hold["left"]
                hold["left"] = 0

    @rule(name=names, status=st.sampled_from(["active", "active", "frozen"]))
    def change(self, name, status):
        self.states[name].status = status

    @invariant()
    def all_is_as_the_model_has_it(self):
        for number, hold in enumerate(self.holds):
            original = self.originals[f"h{number}"]
            assert (original.held_amount, original.captured_amount) == (hold["left"], hold["taken"])
            assert 0 <= original.captured_amount <= original.amount - original.held_amount <= original.amount
        for name, state in self.states.items():
            assert state.amount == self.has[name]
            assert state.held == sum(hold["left"] for hold in self.holds if hold["source"] == name)
            assert state.amount - state.held >= -self.limits[name]
        assert sum(state.amount for state in self.states.values()) == 600


TestHolds = Holds.TestCase
TestHolds.settings = settings(max_examples=200, stateful_step_count=40)
