"""What a rule may say, and that it is asked as CEL has it."""

from typing import Any

import pytest

from bank.limits import cel

VALUES: dict[str, dict[str, Any]] = {
    "transaction": {
        "type": "transfer",
        "amount": 150_000,
        "currency": "USD",
        "hold": False,
        "from_account_id": "a",
        "to_account_id": "b",
        "to_user_id": "u",
        "description": "Rent || for (May)",
        "reference": "",
        "metadata": {"order": "x-1", "size": "L"},
        "hour": 23,
        "weekday": 7,
    },
    "account": {"id": "a", "currency": "USD", "balance": 200_000, "held": 0, "available": 200_000, "overdraft_limit": 0},
    "user": {"id": "v", "username": "alice", "role": "customer", "age_days": 3},
}

FLAT = {(variable, name): value for variable, fields in VALUES.items() for name, value in fields.items()}


def values() -> cel.Values:
    """The values above, each set."""
    told = cel.Values()
    for field, value in FLAT.items():
        told.set(field, value)
    return told


@pytest.mark.parametrize(
    ("expression", "true"),
    [
        ("transaction.amount > 100000", True),
        ("transaction.amount >= 0x30d40 || account.balance - transaction.amount == 50000", True),
        ('transaction.type == "debit" && user.role in ["customer", "teller"]', False),
        ('transaction.type in ["debit", "transfer"] && !(user.age_days < 3)', True),
        ('"order" in transaction.metadata && transaction.metadata["order"].startsWith("x-")', True),
        ("has(transaction.metadata.gift) && transaction.metadata.gift == 'yes'", False),
        ("transaction.description.contains(\"|| for (\") && transaction.description.endsWith(')')", True),
        ("size(transaction.description) == 17 && transaction.reference.size() == 0 && size(transaction.metadata) == 2", True),
        ("transaction.hour < 6 || transaction.hour >= 22 // at night", True),
        ("transaction.weekday == 6 ? true : transaction.weekday == 7", True),
        ("transaction.amount % 1000 == 0 && transaction.amount / 7 * 7 != transaction.amount && -1 < 0", True),
        ("1 + 2 * 3 == 7 && (1 + 2) * 3 == 9 && 10 - 3 - 2 == 5", True),
        ("(  transaction . amount>1 ? transaction.weekday : user.age_days ) == 7 && transaction.metadata.size == 'L'", True),
        ('"transaction.amount" == "transaction.amount" && !has(transaction.metadata.transaction)', True),
        ("true || transaction.amount / 0 == 1", True),
        ("transaction.hold", False),
        ("transaction.hold == false", True),
        ("user.id in []", False),
        (" && ".join(["true"] * 120), True),
        ("!(" * 19 + "true" + ")" * 19, False),
    ],
)
def test_a_sound_expression_is_asked(expression: str, true: bool) -> None:
    assert cel.parse(expression).holds(values()) is true


def test_what_is_set_again_is_asked_as_it_is_then() -> None:
    expression, told = cel.parse('transaction.type == "debit" || "order" in transaction.metadata'), cel.Values()
    answers = []
    for kind, metadata in (("debit", {}), ("transfer", {}), ("transfer", {"order": "1"}), ("transfer", {}), ("debit", {})):
        told.set(("transaction", "type"), kind)
        told.set(("transaction", "metadata"), metadata)
        answers.append(expression.holds(told))
    assert answers == [True, False, True, False, True]


def test_every_field_that_is_declared_can_be_asked_for_and_is_told() -> None:
    for variable, fields in cel.DECLARED.items():
        for name, kind in fields.items():
            same = {"string": '== "x"', "int": "== 1", "bool": "== true", "map": '["order"] == "x-1"'}[kind]
            expression = cel.parse(f"{variable}.{name} {same}")
            assert expression.fields == {(variable, name)}
            assert isinstance(expression.holds(values()), bool)


@pytest.mark.parametrize(
    ("expression", "place", "why"),
    [
        ("", 1, "missing"),
        ("transaction.amount", None, "true or false"),
        ("transaction.total > 1", 13, "has no `total`"),
        ("amount > 1", 1, "no `amount`"),
        ('transaction.amount > "1"', 22, "compared"),
        ("transaction.amount > 1.5", 22, "minor units"),
        ("transaction.amount > 1e3", 22, "minor units"),
        ("transaction.amount > 9223372036854775808", 22, "range"),
        ("transaction.amount >", 21, "missing"),
        ("transaction.amount > 1 2", 24, "cannot stand"),
        ("(transaction.hold", 18, "is missing"),
        ("transaction.hold)", 17, "cannot stand"),
        ('transaction.type == "debit', 21, "cannot stand"),
        ("transaction.type + 'a' == 'b'", 1, "must be int"),
        ("!transaction.amount", 2, "must be bool"),
        ("transaction.hold && 1", 21, "must be bool"),
        ("transaction.hold < true", 20, "compared"),
        ("transaction == transaction", 16, "compared"),
        ("transaction.metadata == transaction.metadata", 25, "compared"),
        ("transaction.hold ? 1 : 2", None, "true or false"),
        ("transaction.hold ? true : 2", 27, "must be bool"),
        ("transaction.amount in [1, 'a']", 27, "must be int"),
        ("transaction.amount in ['a']", 23, "no int"),
        ("[1].all(x, x > 0)", 5, "macro"),
        ("[1].map(x, x) == [1]", 5, "macro"),
        ("transaction.type.matches('a+')", 18, "no function"),
        ("timestamp('x') < timestamp('y')", 1, "no function"),
        ("transaction.metadata[1] == 'a'", 22, "must be string"),
        ("transaction.amount['a'] == 'a'", 19, "must be map"),
        ("transaction.amount.size() == 1", 20, "no size"),
        ("has(transaction)", 5, "key"),
        ("has(transaction.amount)", 5, "key"),
        ("null == null", 1, "no `null`"),
        ("{'a': 1}.a == 1", 1, "cannot stand"),
        ("1u > 0", 1, "cannot stand"),
        ("--1 < 0", 2, "parentheses"),
        ("(" * 21 + "true" + ")" * 21, None, "deeper"),
        ("true ? " * 25 + "true" + " : true" * 25, None, "missing"),
        ("x" * 1_001, None, "Longer"),
        ("'\\q' == 'a'", None, "Not an expression"),
    ],
)
def test_what_no_rule_may_say_is_refused_with_its_place(expression: str, place: int | None, why: str) -> None:
    with pytest.raises(cel.InvalidExpression, match=why) as refused:
        cel.parse(expression)
    assert place is None or f"At character {place}:" in str(refused.value)


@pytest.mark.parametrize(
    "expression",
    [
        "transaction.metadata.gift == 'yes'",
        "transaction.metadata['gift'] == 'yes'",
        "transaction.amount / (transaction.weekday - 7) == 1",
        "transaction.amount % 0 == 1",
        "transaction.amount * 9223372036854775807 > 0",
        "(0 - 9223372036854775807 - 1) / (0 - 1) == 1",
    ],
)
def test_what_comes_to_no_answer_is_an_error_of_its_own(expression: str) -> None:
    with pytest.raises(cel.NotEvaluated):
        cel.parse(expression).holds(values())
