"""The examples of the OpenAPI document: who stands in them, and how an answer's example is made of what its schema's fields say.

Every example is a scene with the same cast: Alice, who banks here, and Bob, whom she pays. A client who tries one puts ids of its own
in the place of theirs, as the test that sends them all does, and the collections of `bank collection` have a variable for each.
"""

import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from marshmallow import Schema, fields

from bank.errors import BankError
from bank.web.problems import CODES

ALICE = "019b2f6e-8a00-7000-8000-000000000001"
BOB = "019b2f6e-8a00-7000-8000-000000000002"
ALICES_ACCOUNT = "019b2f6e-8a00-7000-8000-000000000011"
BOBS_ACCOUNT = "019b2f6e-8a00-7000-8000-000000000012"
TRANSACTION = "019b2f6e-8a00-7000-8000-000000000021"
OTHER_TRANSACTION = "019b2f6e-8a00-7000-8000-000000000022"
BATCH = "019b2f6e-8a00-7000-8000-000000000031"
SCHEDULE = "019b2f6e-8a00-7000-8000-000000000041"
LIMIT = "019b2f6e-8a00-7000-8000-000000000051"
RULE = "019b2f6e-8a00-7000-8000-000000000061"
REPLAY = "019b2f6e-8a00-7000-8000-000000000071"
LOGIN = "019b2f6e-8a00-7000-8000-000000000081"
# Of the test vectors of RFC 6238, appendix B.
CODE = "287082"

CAST = {
    "user_id": ALICE,
    "other_user_id": BOB,
    "account_id": ALICES_ACCOUNT,
    "other_account_id": BOBS_ACCOUNT,
    "transaction_id": TRANSACTION,
    "other_transaction_id": OTHER_TRANSACTION,
    "batch_id": BATCH,
    "schedule_id": SCHEDULE,
    "limit_id": LIMIT,
    "rule_id": RULE,
    "replay_id": REPLAY,
    "login_id": LOGIN,
    "code": CODE,
}
"""Every id that an example may hold, and the code of an authenticator, by a name of its own; a path's parameter has the id of its name."""

_CODE = re.compile(r"`([a-z_]+)`")


def path_parameter(name: str) -> dict[str, Any]:
    """How a parameter of a path is documented: by the id of that name in the cast, or else by any id."""
    return {"in": "path", "name": name, "required": True, "example": CAST.get(name, TRANSACTION)}


def example_of(schema: Schema | type[Schema], differs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """An answer of this schema: of each field its `example`, or what follows from its kind; `differs` says what is else here.

    Raises ValueError for a field that says too little.
    """
    schema = schema() if isinstance(schema, type) else schema
    made = {field.data_key or name: _value(field, f"{type(schema).__name__}.{name}") for name, field in schema.dump_fields.items()}
    return {**made, **(differs or {})}


def example_of_problem(schema: Schema | type[Schema], status: int, description: str) -> dict[str, Any]:
    """A problem of this status: with the first code that the description names, or else the one that the status has by itself."""
    known = [error for error in _errors(BankError) if error.status == status]
    named = [error for code in _CODE.findall(description) for error in known if error.code == code]
    error = next(iter(named or known), None)
    code, title = (error.code, error.title) if error else (CODES[status], HTTPStatus(status).phrase)
    told = {"type": f"/problems/{code.replace('_', '-')}", "title": title, "status": status, "detail": title, "code": code}
    # Only what is not valid has places; only a refusal of the ledger has a transaction, and its code is the ledger's.
    left_out = {"transaction"} | (set() if status == 422 else {"errors"})
    return {name: value for name, value in example_of(schema, told).items() if name not in left_out}


def _errors(error: type[BankError]) -> Iterator[type[BankError]]:
    yield error
    for each in error.__subclasses__():
        yield from _errors(each)


def _value(field: fields.Field[Any], name: str) -> Any:
    if "example" in field.metadata:
        return field.metadata["example"]
    if field.allow_none:
        return None
    if isinstance(field, fields.List):
        return [_value(field.inner, name)]
    if isinstance(field, fields.Nested):
        return example_of(field.schema)
    if "enum" in field.metadata:
        return field.metadata["enum"][0]
    last = name.rpartition(".")[2]
    if isinstance(field, fields.UUID):
        return CAST.get(last, ALICES_ACCOUNT)
    if isinstance(field, fields.Boolean):
        return False
    if isinstance(field, fields.Number):
        return 1
    if isinstance(field, fields.Mapping):
        return {}
    if last == "currency":
        return "USD"
    raise ValueError(f"{name} needs an example.")
