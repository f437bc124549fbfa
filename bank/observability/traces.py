"""Traces by OpenTelemetry, sent by OTLP over HTTP: from a request through the queue to each SQL statement of the drain.

A transfer is one trace: the request, the bell that it rings, and in the worker what the drain made of it. A drain posts many at once, so
its batch, with the statements, is a trace of its own, and the two are linked.

Nothing but the row itself goes from the request to the worker, and it has the id of the trace but no place for a span and its flags.
Both are in the id of what was submitted, which nobody else gives a meaning to: its last 64 bits are the id of the span that rang the
bell, and its last bit says whether the trace is kept. So a lost bell costs no trace, and no event has a field for what is gone in a week.

Where no address is set, nothing here is installed. Own hooks in the place of OpenTelemetry's instrumentations: those look at each request
and statement before they know whether it is kept, and see neither what passes SQLAlchemy by nor the statements that find out which
transactions a drain is about to post.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPMethod
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, g, request
from opentelemetry import context, trace
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from psycopg2 import Error
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, connection, cursor
from sqlalchemy import Engine, event

from bank.config import Config
from bank.ledger.decide import Outcome, Refusal
from bank.ledger.store import Pending

_LONGEST_STATEMENT = 4_000


if TYPE_CHECKING:
    from bank.observability.otlp import Tracers

# Of this process; None where nothing is traced.
_tracing: "Tracers | None" = None


def init_app(app: Flask, config: Config) -> None:
    """Trace requests, statements and drains of this process, where the configuration says where to. Comes after `bank.web.context`.

    Called after the fork, as gunicorn loads the application in its workers: the exporter has a thread.
    """
    if not config.traces_url:
        return
    _start(config)
    app.before_request(_begin)
    app.after_request(_answered)
    app.teardown_request(_end)


def _start(config: Config) -> None:
    global _tracing
    if _tracing is None:
        # Not above: it is a tenth of a second at the start of a process, and most trace nothing.
        from bank.observability.otlp import Tracers

        _tracing = Tracers.sending(config)
        event.listen(Engine, "do_connect", _watch)


# ---- Requests ----


def _begin() -> None:
    assert _tracing is not None
    given = g.traceparent
    parent = NonRecordingSpan(_context_of(given[1], int(given[2], 16), TraceFlags(int(given[3], 16)))) if given else trace.INVALID_SPAN
    route = request.url_rule.rule if request.url_rule else None
    # The route and not the path: that holds ids, and whatever a client put there, as the method may.
    method = request.method if request.method in HTTPMethod.__members__ else "_OTHER"
    span = _tracing.requests.start_span(
        f"{method} {route}" if route else method,
        trace.set_span_in_context(parent, context.Context()),
        SpanKind.SERVER,
        {"http.request.method": method, "http.route": route or "", "bank.request_id": g.request_id},
    )
    g.trace_id = trace.format_trace_id(span.get_span_context().trace_id)
    g.span, g.span_token = span, context.attach(trace.set_span_in_context(span))


def _answered(response: Response) -> Response:
    span: Span = g.span
    if span.is_recording():
        span.set_attribute("http.response.status_code", response.status_code)
        if "principal" in g:
            span.set_attribute("user.id", g.principal.id)
        if response.status_code >= 500:
            span.set_status(Status(StatusCode.ERROR))
    return response


def _end(error: BaseException | None) -> None:
    # A request that something else refused before us has none.
    if "span" in g:
        context.detach(g.pop("span_token"))
        g.pop("span").end()


def _context_of(trace_id: str, span_id: int, flags: TraceFlags) -> SpanContext:
    return SpanContext(int(trace_id, 16), span_id, is_remote=True, trace_flags=flags)


# ---- The queue ----


def marked(new_id: str) -> str:
    """A new id for what the request at hand submits, whose last bit says whether the trace is kept. It was random: a UUID stays one."""
    if _tracing is None:
        return new_id
    return new_id[:-1] + f"{int(new_id[-1], 16) & ~1 | trace.get_current_span().get_span_context().trace_flags.sampled:x}"


@contextmanager
def _enqueue(tracing: "Tracers", submitted_id: str) -> Iterator[None]:
    with tracing.next_span_is(_span_id(submitted_id)):
        span = tracing.kept.start_span("enqueue", kind=SpanKind.PRODUCER, attributes={"bank.submitted_id": submitted_id})
    with trace.use_span(span, end_on_exit=True, record_exception=False):
        yield


def enqueue(submitted_id: str) -> AbstractContextManager[None]:
    """The span in which the bell is rung for a transaction, or a batch, that was committed: the parent of what drains make of it."""
    if _tracing is None or not trace.get_current_span().is_recording():
        return nullcontext()
    return _enqueue(_tracing, submitted_id)


class Tick:
    """The trace of one look at what is due: `trace_id` is what its rows carry, None where nothing is traced."""

    def __init__(self, span: Span | None = None) -> None:
        self._span = span
        self._held: list[_Statement] = []
        self.trace_id = trace.format_trace_id(span.get_span_context().trace_id) if span else None

    @contextmanager
    def submitted(self, submitted_ids: Sequence[str]) -> Iterator[None]:
        """It found something and committed it: its statements are sent, and a span for each of these while their bells are rung."""
        if self._span is None or not self._span.is_recording():
            yield
            return
        assert _tracing is not None
        _held.set(None)
        for statement in self._held:
            statement.record()
        spans = []
        for submitted_id in submitted_ids:
            with _tracing.next_span_is(_span_id(submitted_id)):
                spans.append(_tracing.kept.start_span("enqueue", kind=SpanKind.PRODUCER, attributes={"bank.submitted_id": submitted_id}))
        try:
            yield
        finally:
            for span in (*spans, self._span):
                span.end()


@contextmanager
def tick(name: str) -> Iterator[Tick]:
    """What runs by the clock and has no request, as a trace of its own; nothing is sent of one that submits nothing: it comes again
    every other second."""
    if _tracing is None:
        yield Tick()
        return
    span = _tracing.requests.start_span(name, context.Context(), SpanKind.INTERNAL)
    made = Tick(span)
    token = _held.set(made._held) if span.is_recording() else None
    try:
        # A span that is not ended is not sent.
        with trace.use_span(span, end_on_exit=False, record_exception=False, set_status_on_exception=False):
            yield made
    finally:
        if token is not None:
            _held.reset(token)


def _span_id(submitted_id: str) -> int:
    return int(submitted_id.replace("-", "")[16:], 16)


# ---- Drains ----


class Drain:
    """The spans of one batch of a drain; a context manager around its database transaction."""

    def __init__(self, lane: int) -> None:
        self._lane = lane
        self._started = time.time_ns()
        self._batch: Span | None = None
        self._spans: list[tuple[Span, list[Pending]]] = []
        self._token: Any = None

    def __enter__(self) -> "Drain":
        # What comes before the claim is known is kept until it is.
        self._held: list[_Statement] = []
        self._holding = _held.set(self._held)
        return self

    def claimed(self, pending: Sequence[Pending]) -> None:
        """These will be posted. Where nobody wants to see any of them, nothing is recorded."""
        _held.set(None)
        assert _tracing is not None
        together = defaultdict(list)
        for row in pending:
            submitted_id = row.batch_id or row.command.transaction_id
            if row.trace_id and int(submitted_id[-1], 16) & 1:
                together[row.trace_id, submitted_id].append(row)
        if not together:
            return
        kind, started = SpanKind.CONSUMER, self._started
        attributes = {"bank.lane": self._lane, "messaging.batch.message_count": len(pending)}
        self._batch = _tracing.kept.start_span("drain batch", context.Context(), kind, attributes, start_time=started)
        link = Link(self._batch.get_span_context())
        for (trace_id, submitted_id), rows in together.items():
            parent = NonRecordingSpan(_context_of(trace_id, _span_id(submitted_id), TraceFlags(TraceFlags.SAMPLED)))
            span = _tracing.kept.start_span("drain", trace.set_span_in_context(parent, context.Context()), kind, None, [link], started)
            self._batch.add_link(span.get_span_context())
            self._spans.append((span, rows))
        self._token = context.attach(trace.set_span_in_context(self._batch, context.Context()))
        for statement in self._held:
            statement.record()

    def written(self, outcomes: Sequence[Outcome]) -> None:
        """This is what became of them."""
        refused = {outcome.command.transaction_id: outcome.code.value for outcome in outcomes if isinstance(outcome, Refusal)}
        for span, rows in self._spans:
            first = rows[0]
            if first.batch_id:
                failed = sum(row.command.transaction_id in refused for row in rows)
                span.set_attributes({"bank.batch_id": first.batch_id, "messaging.batch.message_count": len(rows), "bank.failed": failed})
                continue
            span.set_attribute("bank.transaction_id", first.command.transaction_id)
            if first.request_id:
                span.set_attribute("bank.request_id", first.request_id)
            if code := refused.get(first.command.transaction_id):
                span.set_attribute("bank.failure_code", code)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        _held.reset(self._holding)
        if self._batch is None:
            return
        context.detach(self._token)
        for span in (*(span for span, _ in self._spans), self._batch):
            if kind is not None:
                # Its text may hold anything; the log has it, without what must not be seen.
                span.set_status(Status(StatusCode.ERROR))
                span.set_attribute("error.type", kind.__name__)
            span.end()


class _Untraced(Drain):
    def __init__(self) -> None:
        pass

    def __enter__(self) -> Drain:
        return self

    def claimed(self, pending: Sequence[Pending]) -> None:
        pass

    def written(self, outcomes: Sequence[Outcome]) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


_UNTRACED = _Untraced()


def drain(lane: int) -> Drain:
    """What traces one batch of `lane`."""
    return _UNTRACED if _tracing is None else Drain(lane)


# ---- Statements ----


@dataclass(slots=True)
class _Statement:
    """A statement that was sent, with its placeholders and without what stood in for these."""

    text: str | bytes
    started: int
    ended: int = 0
    error: str | None = None

    def record(self) -> None:
        assert _tracing is not None
        # What psycopg2 composes has its parameters in it already.
        attributes = _told(self.text if isinstance(self.text, str) else "(composed)")
        status = Status(StatusCode.UNSET)
        if self.error is not None:
            attributes = {**attributes, "db.response.status_code": self.error}
            status = Status(StatusCode.ERROR)
        parent = trace.get_current_span().get_span_context()
        _tracing.statement(attributes["db.operation.name"], attributes, parent, (self.started, self.ended), status)


@lru_cache(maxsize=256)
def _told(statement: str) -> dict[str, str]:
    text = " ".join(statement.split())
    verb = text.split(" ", 1)[0].upper()
    return {"db.system.name": "postgresql", "db.query.text": text[:_LONGEST_STATEMENT], "db.operation.name": verb}


_held: ContextVar[list[_Statement] | None] = ContextVar("held_statements", default=None)


@contextmanager
def _sent(text: Any) -> Iterator[None]:
    """Record a statement, or keep it until it is known whether anybody wants to see it."""
    statement = _Statement(text, time.time_ns())
    try:
        yield
    except Error as error:
        statement.error = error.pgcode or "unknown"
        raise
    finally:
        statement.ended = time.time_ns()
        if (held := _held.get()) is None:
            statement.record()
        else:
            held.append(statement)


def _is_seen() -> bool:
    return _held.get() is not None or trace.get_current_span().is_recording()


class _Cursor(cursor):
    """psycopg2's, that tells of what it executes. SQLAlchemy's own events do not see what passes it by (`bank.db.fetch`)."""

    def execute(self, query: Any, vars: Any = None) -> None:
        if not _is_seen():
            super().execute(query, vars)
            return
        with _sent(query):
            super().execute(query, vars)


class _Connection(connection):
    """psycopg2's, that tells of its commits too: no cursor executes these."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cursor_factory = _Cursor

    def commit(self) -> None:
        # Of what never began nothing crosses the wire.
        if not _is_seen() or self.info.transaction_status == TRANSACTION_STATUS_IDLE:
            super().commit()
            return
        with _sent("COMMIT"):
            super().commit()


def _watch(dialect: Any, entry: Any, arguments: Any, options: dict[str, Any]) -> None:
    options["connection_factory"] = _Connection
