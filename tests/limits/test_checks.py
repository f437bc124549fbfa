"""The checks against a plain model: whatever comes, they count what the model counts."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bank.ledger.decide import AccountState, Command, OriginalState, Posting, Refusal, Reservation, decide, decide_together
from bank.limits import cel
from bank.limits.checks import Effect, Limit, LimitKind, Payer, Payment, Policy, Rule, Scope, Used

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
ACCOUNTS = ("a", "b")
OTHER = "shop"
PAYER = Payer("alice", "alice", "customer", NOW)

amounts = st.integers(1, 60)
limits = st.builds(
    lambda kind, scope, most, window: Limit(
        id=f"{scope}-{kind}-{most}-{window}",
        version=1,
        scope=scope,
        kind=kind,
        amount=most,
        count=most // 20,
        window=window if kind in (LimitKind.SUM, LimitKind.COUNT) else None,
    ),
    st.sampled_from([LimitKind.SINGLE, LimitKind.SUM, LimitKind.COUNT, LimitKind.MINIMUM_BALANCE]),
    st.sampled_from([Scope.USER, Scope.ACCOUNT]),
    st.integers(0, 150),
    st.sampled_from(["day", "month"]),
)
# What a payer does: from which account, how much, and which of the things that can be done; the last names an earlier hold.
acts = st.lists(
    st.tuples(st.sampled_from(ACCOUNTS), amounts, st.sampled_from(["pay", "hold", "capture", "void"]), st.integers(0, 9)), max_size=25
)


@dataclass
class Model:
    """What was paid and is held, told apart by nothing but lists."""

    paid: list[tuple[str, int]]
    held: dict[str, tuple[str, int]]
    balance: dict[str, int]

    def used(self, limit: Limit, account: str) -> tuple[int, int]:
        mine = [each for each in [*self.paid, *self.held.values()] if limit.scope is Scope.USER or each[0] == account]
        return sum(amount for _, amount in mine), len(mine)

    def left(self, account: str) -> int:
        return self.balance[account] - sum(amount for holder, amount in self.held.values() if holder == account)

    def told(self, limit: Limit, account: str) -> int | None:
        used, count = self.used(limit, account)
        known = {LimitKind.SUM: used, LimitKind.COUNT: count, LimitKind.MINIMUM_BALANCE: self.left(account)}
        return known.get(limit.kind)

    def allows(self, limit: Limit, account: str, amount: int) -> bool:
        used, count = self.used(limit, account)
        return {
            LimitKind.SINGLE: amount <= (limit.amount or 0),
            LimitKind.SUM: used + amount <= (limit.amount or 0),
            LimitKind.COUNT: count < (limit.count or 0),
            LimitKind.MINIMUM_BALANCE: self.left(account) - amount >= (limit.amount or 0),
        }[limit.kind]


def states() -> dict[str, AccountState]:
    return {name: AccountState(name, "USD", "active", 0, 1_000, 0, 0) for name in (*ACCOUNTS, OTHER)}


def policy(own: list[Limit], commands: list[Command], rules: list[Rule] | None = None) -> Policy:
    return Policy(
        now=NOW,
        payments={each.transaction_id: Payment("transfer", PAYER, "bob") for each in commands if each.original_id is None},
        limits=dict.fromkeys(ACCOUNTS, own),
        together=dict.fromkeys(ACCOUNTS, ACCOUNTS),
        rules=rules or [],
        values=cel.Values(),
        unanswered=cel.NotEvaluated,
        used={account: {window: Used() for window in ("day", "month")} for account in ACCOUNTS},
    )


def commands_of(done: list[tuple[str, int, str, int]]) -> tuple[list[Command], dict[str, OriginalState]]:
    """The commands, and the holds that some are about, which nothing but these commands make."""
    commands: list[Command] = []
    holds: list[Command] = []
    for number, (account, amount, act, which) in enumerate(done):
        common: dict[str, Any] = {"transaction_id": str(number), "to_account_id": OTHER, "currency": "USD", "effective_at": NOW}
        if act in ("capture", "void") and holds:
            hold = holds[which % len(holds)]
            about = {"captures_id": hold.transaction_id} if act == "capture" else {"voids_id": hold.transaction_id}
            commands.append(Command(from_account_id=hold.from_account_id, amount=min(amount, hold.amount), **common, **about))
        else:
            commands.append(Command(from_account_id=account, amount=amount, **common, holds=act == "hold"))
            holds += commands[-1:] if act == "hold" else []
    return commands, {each.transaction_id: OriginalState(each.transaction_id, each.amount, 0, 2) for each in holds}


@settings(max_examples=300)
@given(st.lists(limits, min_size=1, max_size=4), acts)
def test_each_payment_is_let_or_refused_as_a_plain_model_says(own: list[Limit], done: list[tuple[str, int, str, int]]) -> None:
    commands, originals = commands_of(done)
    accounts, asked = states(), policy(own, commands)
    model = Model([], {}, dict.fromkeys(ACCOUNTS, 1_000))
    for command in commands:
        [outcome] = decide([command], accounts, originals, asked)
        account, amount = command.from_account_id, command.amount
        if command.captures_id is not None and isinstance(outcome, Posting):
            holder, left = model.held.pop(command.captures_id)
            model.paid.append((holder, amount))
            model.held |= {command.captures_id: (holder, left - amount)} if left > amount else {}
            model.balance[holder] -= amount
        elif command.voids_id is not None:
            if not isinstance(outcome, Refusal):
                del model.held[command.voids_id]
        elif command.captures_id is None:
            allowed = [model.allows(limit, account, amount) for limit in own]
            if not (isinstance(outcome, Refusal) and outcome.code == "insufficient_funds"):
                expected = [
                    (limit.id, 1, "passed" if good else "denied", model.told(limit, account))
                    for limit, good in zip(own, allowed, strict=True)
                ]
                assert list(outcome.checks) == expected
                assert isinstance(outcome, Refusal) is (not all(allowed))
            if isinstance(outcome, Reservation):
                model.held[command.transaction_id] = (account, amount)
                originals[command.transaction_id].held_amount = amount
            elif isinstance(outcome, Posting):
                model.paid.append((account, amount))
                model.balance[account] -= amount
    assert {name: accounts[name].amount for name in ACCOUNTS} == model.balance


@given(st.lists(limits, max_size=3), acts)
def test_decided_together_or_one_by_one_they_are_the_same(own: list[Limit], done: list[tuple[str, int, str, int]]) -> None:
    commands, _ = commands_of([(account, amount, act if act == "hold" else "pay", 0) for account, amount, act, _ in done])
    at_once, one_by_one = states(), states()
    outcomes = decide(commands, at_once, {}, policy(own, commands))
    single = policy(own, commands)
    assert [each for command in commands for each in decide([command], one_by_one, {}, single)] == outcomes
    assert at_once == one_by_one
    together = decide_together(commands, states(), {}, policy(own, commands))
    refused = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, Refusal)]
    if refused:
        assert all(isinstance(outcome, Refusal) for outcome in together)
        assert together[refused[0]] == outcomes[refused[0]]
    else:
        assert together == outcomes


def test_what_must_be_reviewed_is_reserved_and_refused_among_others_that_cannot_wait() -> None:
    commands, _ = commands_of([("a", 10, "pay", 0), ("a", 20, "pay", 0)])
    rules = [Rule("r", 3, Effect.REVIEW, cel.parse("transaction.amount > 15"))]
    accounts = states()
    paid, held = decide(commands, accounts, {}, policy([], commands, rules))
    assert isinstance(paid, Posting) and paid.checks == (("r", 3, "passed", None),)
    assert held == Reservation(commands[1], review=True) and held.checks == (("r", 3, "review", None),)
    assert (accounts["a"].amount, accounts["a"].held) == (990, 20)
    together = decide_together(commands, states(), {}, policy([], commands, rules))
    assert [outcome.code for outcome in together if isinstance(outcome, Refusal)] == ["batch_refused", "rule_denied"]
