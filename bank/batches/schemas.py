"""The bodies, queries and answers of `/transactions/batch`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from marshmallow import Schema, ValidationError, fields

from bank.batches.models import BatchMode
from bank.batches.upload import MOST_ERRORS, Record
from bank.transactions.models import TransactionStatus, TransactionType
from bank.transactions.schemas import CreditOrDebit, DryRun, TransactionAnswer, Transfer
from bank.web.fields import Choice, StrictSchema
from bank.web.paging import PageSchema

MOST_ITEMS = 10_000

_MODES = [mode.value for mode in BatchMode]
_TYPES = [kind.value for kind in (TransactionType.CREDIT, TransactionType.DEBIT, TransactionType.TRANSFER)]
_TIME = {"format": "date-time", "example": "2026-01-31T12:00:00.000000Z"}


@dataclass(frozen=True, slots=True)
class Item:
    """One transaction of a batch as it was asked for, loaded by the schema of its own route. `line` is where it stands in a CSV upload."""

    type: TransactionType
    body: dict[str, Any]
    line: int | None

    def told(self, message: str) -> str:
        """What is wrong with it, and with a CSV upload where."""
        return _told(self.line, message)


def _told(line: int | None, message: str) -> str:
    return message if line is None else f"Line {line}: {message}"


class BatchItem(CreditOrDebit, Transfer):
    """A transaction of a batch: its type, and the fields that the route of that type takes. Exchanges are at the rate of today: a
    quote is gone before a batch is put together."""

    class Meta(Transfer.Meta):
        exclude = ("quote_id",)

    type = Choice(_TYPES, required=True)


_SCHEMAS = {"credit": CreditOrDebit(), "debit": CreditOrDebit(), "transfer": Transfer(exclude=("quote_id",))}


class Items(fields.List):
    """The transactions of a batch. All that are bad are named, up to a hundred."""

    def __init__(self) -> None:
        super().__init__(
            fields.Nested(BatchItem), required=True, metadata={"minItems": 1, "maxItems": MOST_ITEMS, "description": "In order."}
        )

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> list[Item]:  # type: ignore[override]
        if not isinstance(value, list) or not 1 <= len(value) <= MOST_ITEMS:
            raise ValidationError(f"Must be a list of 1 to {MOST_ITEMS:,} transactions.")
        items: list[Item] = []
        errors: dict[int, Any] = {}
        references: dict[str, int] = {}
        for index, raw in enumerate(value):
            try:
                item = _item(raw)
                reference = item.body.get("reference")
                if reference is not None and references.setdefault(reference, index) != index:
                    raise ValidationError(f"Transaction {references[reference]} has it too.", "reference")
                items.append(item)
            except ValidationError as error:
                errors[index] = _located(raw, error.normalized_messages())
                if len(errors) == MOST_ERRORS:
                    break
        if errors:
            raise ValidationError(errors)
        return items


def _item(raw: Any) -> Item:
    if not isinstance(raw, dict):
        raise ValidationError("Not an object.")
    kind = raw.get("type")
    if not isinstance(kind, str) or kind not in _SCHEMAS:
        raise ValidationError(f"Must be one of: {', '.join(_TYPES)}.", "type")
    body = _SCHEMAS[kind].load({name: value for name, value in raw.items() if name != "type"})
    return Item(TransactionType(kind), body, raw.line if isinstance(raw, Record) else None)


def _located(raw: Any, messages: Any) -> Any:
    if not isinstance(raw, Record):
        return messages
    if isinstance(messages, dict):
        return {name: _located(raw, message) for name, message in messages.items()}
    if isinstance(messages, list):
        return [_located(raw, message) for message in messages]
    return _told(raw.line, messages)


class SubmitBatch(StrictSchema):
    """Up to 10,000 transactions."""

    mode = Choice(_MODES, required=True, metadata={"description": "Atomic: all of them or none. Independent: each by itself."})
    transactions = Items()


class SubmitQuery(DryRun):
    """Whether to pretend only, and what a CSV upload cannot say itself."""

    mode = Choice(_MODES, metadata={"description": "Of a CSV upload, and needed there: what `mode` is in a JSON body."})


class BatchQuery(PageSchema):
    """Which transactions of a batch."""

    status = Choice([status.value for status in TransactionStatus])


class FailureAnswer(Schema):
    """Why nothing of an atomic batch was posted: its first transaction that was refused."""

    index = fields.Integer(metadata={"example": 17})
    code = fields.String(metadata={"example": "insufficient_funds"})
    transaction_id = fields.UUID(allow_none=True)


class BatchAnswer(Schema):
    """A batch and how far it is."""

    id = fields.UUID()
    mode = fields.String(metadata={"enum": _MODES})
    status = fields.String(
        metadata={"enum": ["pending", "completed", "failed"], "description": "Failed: atomic, and refused. Completed: nothing is pending."}
    )
    counts = fields.Dict(
        keys=fields.String(),
        values=fields.Integer(),
        metadata={"description": "How many of its transactions have each status.", "example": {"pending": 9_500, "completed": 500}},
    )
    failure = fields.Nested(FailureAnswer, allow_none=True)
    created_at = fields.String(metadata=_TIME)
    completed_at = fields.String(allow_none=True, metadata=_TIME)


class BatchItemAnswer(TransactionAnswer):
    """A transaction of a batch."""

    index = fields.Integer(metadata={"description": "Its place in the batch, from 0 on."})


class BatchPage(BatchAnswer):
    """A batch, how far it is, and a page of its transactions in their order."""

    data = fields.List(fields.Nested(BatchItemAnswer))
    next_cursor = fields.String(allow_none=True)
    has_more = fields.Boolean()


class PreviewedItem(BatchItemAnswer):
    """A transaction of a batch as it would be."""

    id = fields.UUID(allow_none=True, metadata={"description": "Null: there is none."})
    batch_id = fields.UUID(allow_none=True)


class BatchPreview(BatchAnswer):
    """A batch as it would be, with all of its transactions."""

    id = fields.UUID(allow_none=True, metadata={"description": "Null: there is none."})
    dry_run = fields.Boolean(metadata={"example": True})
    data = fields.List(fields.Nested(PreviewedItem))
