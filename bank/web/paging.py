"""Pages that stay stable while rows arrive: an opaque, signed cursor and one row more than asked for."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from flask import Response, current_app, request
from itsdangerous import BadData, URLSafeSerializer
from marshmallow.validate import Range

from bank.errors import Unprocessable
from bank.web.body import json_response
from bank.web.fields import StrictSchema, Text, Whole

DEFAULT_LIMIT, MAX_LIMIT = 50, 200

# What views document.
LINK = {"Link": {"schema": {"type": "string"}, "description": 'The next page (RFC 8288, `rel="next"`), where there is one.'}}


class PageSchema(StrictSchema):
    """`?limit=` and `?cursor=`, the parent of the filters of every list."""

    limit = Whole(load_default=DEFAULT_LIMIT, validate=Range(1, MAX_LIMIT), metadata={"description": "How many, at most."})
    cursor = Text(most=500, metadata={"description": "The `next_cursor` of the page before, with the same filters."})


def _serializer(filters: dict[str, Any]) -> URLSafeSerializer:
    # The salt ties a cursor to its list and filters: on another query it does not verify.
    salt = request.path + "?" + urlencode(sorted((key, str(value)) for key, value in filters.items()))
    return URLSafeSerializer(current_app.config["BANK"].signing_keys, salt=salt)


def _filters(query: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in query.items() if key not in ("limit", "cursor")}


def after(query: dict[str, Any]) -> Any:
    """What the cursor of a loaded PageSchema says, or None for the first page.

    Raises Unprocessable when it was tampered with or belongs to another query.
    """
    if "cursor" not in query:
        return None
    try:
        return _serializer(_filters(query)).loads(query["cursor"])
    except BadData:
        raise Unprocessable.at("/cursor", "Not a cursor of this list.") from None


def next_cursor(query: dict[str, Any], keys: Sequence[Any]) -> str | None:
    """What leads to the page behind this one, whose rows have the `keys`: one more than the limit where there is such a page."""
    limit: int = query["limit"]
    return str(_serializer(_filters(query)).dumps(keys[limit - 1])) if len(keys) > limit else None


def page(query: dict[str, Any], rows: Sequence[dict[str, Any]], keys: Sequence[Any], members: Mapping[str, Any] | None = None) -> Response:
    """The response for `rows`, of which there is one more than the limit when more follow.

    `keys[i]` is what `after()` gives back to continue behind `rows[i]`. `members` are what else the answer tells.
    """
    cursor = next_cursor(query, keys)
    response = json_response({**(members or {}), "data": rows[: query["limit"]], "next_cursor": cursor, "has_more": cursor is not None})
    if cursor:
        args = {**request.args.to_dict(), "cursor": cursor}
        response.headers["Link"] = f'<{request.path}?{urlencode(args)}>; rel="next"'
    return response
