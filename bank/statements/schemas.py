"""The query of a statement."""

from typing import Any

from marshmallow import ValidationError, validates_schema

from bank.web.fields import Choice, Day, StrictSchema

FORMATS = ["csv", "pdf", "camt053"]

CAMT053 = "urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"
"""The namespace of the XML."""


class StatementQuery(StrictSchema):
    """Which days, and in which format."""

    since = Day(data_key="from", required=True, metadata={"description": "The first day, in UTC.", "example": "2026-01-01"})
    until = Day(data_key="to", required=True, metadata={"description": "The day after the last, in UTC.", "example": "2026-02-01"})
    format = Choice(FORMATS, metadata={"description": "Instead of `Accept`."})

    @validates_schema(skip_on_field_errors=True)
    def _forward(self, data: dict[str, Any], **kwargs: Any) -> None:
        if data["since"] >= data["until"]:
            raise ValidationError("Must lie before `to`.", "from")
