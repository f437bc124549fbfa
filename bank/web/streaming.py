"""Answers that go on: all rows of a query as NDJSON or CSV, by content negotiation, in pieces of bounded size.

A stream is made of pages that are read one by one, each by a short statement of its own: no transaction and no
connection is kept while the client reads, however slowly.
"""

import csv
import io
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import chain, count
from threading import BoundedSemaphore
from typing import Any

import orjson
from flask import Flask, Response, current_app, request
from werkzeug.datastructures import MIMEAccept

from bank.config import Config
from bank.db import route, take
from bank.errors import NotAcceptable, Unauthenticated, Unavailable

JSON, NDJSON, CSV = "application/json", "application/x-ndjson", "text/csv"

# How many rows a stream reads at once.
PAGE = 1_000

# What a spreadsheet takes for the start of a formula, in its full-width forms as well (OWASP, CSV injection).
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")

Pages = Iterable[Sequence[dict[str, Any]]]


def init_app(app: Flask, config: Config) -> None:
    """Bound the streams of a process: each occupies a thread, and the others must go on answering."""
    app.extensions["streams"] = BoundedSemaphore(max(1, config.web_threads // 4))


def negotiate(*offered: str, otherwise: str = JSON) -> str:
    """Which media type the request wants: `otherwise`, which who says nothing gets (every list gives JSON), or one of `offered`.

    Parameters (`; charset=utf-8`) are not looked at. Raises NotAcceptable when it takes none of them.
    """
    if not request.accept_mimetypes:
        return otherwise
    # To werkzeug "text/csv; charset=utf-8" is another type than "text/csv".
    wanted = MIMEAccept([(item.partition(";")[0].strip(), quality) for item, quality in request.accept_mimetypes])
    found: str | None = wanted.best_match([otherwise, *offered])
    if found is None:
        raise NotAcceptable(f"There is {', '.join([otherwise, *offered])}.")
    return found


def stream(pieces: Iterator[bytes], mimetype: str, may_go_on: Callable[[], bool]) -> Response:
    """A response that sends `pieces` as they come, and breaks off where `may_go_on` says no before one of them.

    The first is made right here: what it raises is still answered as a problem. After that there is no way to tell
    of an error but to break off, which a client sees by the last chunk that is missing. Raises Unavailable when
    this process sends as many streams as it may.
    """
    app: Flask = current_app._get_current_object()
    places: BoundedSemaphore = app.extensions["streams"]
    reads_by = route()

    def held() -> Generator[bytes, None, None]:
        if not places.acquire(blocking=False):
            raise Unavailable("As many streams are being read as this process may send.", retry_after=10)
        try:
            for sent in count():
                # A context for each piece and not for all: between two, the thread may be doing something else.
                with app.app_context():
                    take(reads_by)
                    if sent and not may_go_on():
                        raise Unauthenticated("This login has ended.")
                    piece = next(pieces, None)
                if piece is None:
                    return
                yield piece
        finally:
            places.release()

    sending = held()
    first = next(sending, b"")
    response = Response(chain([first], sending), mimetype=mimetype)
    # When the client is gone, and when nothing of the body was asked for, as by HEAD.
    response.call_on_close(sending.close)
    return varied(response)


def varied(response: Response) -> Response:
    """The response, marked as one of several that the same URL has."""
    response.vary.add("Accept")
    return response


def ndjson(pages: Pages) -> Iterator[bytes]:
    """A line of JSON for each row; an empty page is a blank line, which tells that the stream lives."""
    for page in pages:
        yield b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in page) or b"\n"


def csv_lines(columns: Sequence[str], pages: Pages) -> Iterator[bytes]:
    """RFC 4180: a header, and a record for each row. No text is a formula to a spreadsheet; a negative number (an int or
    a Decimal) is none."""
    head = _records([columns])
    for page in pages:
        yield head + _records([_cell(row[column]) for column in columns] for row in page)
        head = b""
    if head:
        yield head


def _records(rows: Iterable[Sequence[str]]) -> bytes:
    written = io.StringIO()
    csv.writer(written).writerows(rows)
    return written.getvalue().encode()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (int, Decimal)):
        return str(value)
    shown = value if isinstance(value, str) else orjson.dumps(value).decode()
    # An apostrophe in front makes a spreadsheet take the cell for text.
    return f"'{shown}" if shown.startswith(_FORMULA) else shown
