"""Where the traces of a test go: a server on this machine that takes them by OTLP over HTTP."""

import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.processes import HOST


@dataclass(frozen=True, slots=True)
class Spanned:
    """A span that arrived; ids are hexadecimal, `links` are pairs of a trace and a span."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    links: tuple[tuple[str, str], ...]
    attributes: dict[str, Any]
    failed: bool
    start: int
    end: int


class Sink:
    """A context manager: takes traces while it is open. `raw` are the bodies as they came; they are read when somebody asks."""

    def __init__(self) -> None:
        self.raw: list[bytes] = []
        self._spans: list[Spanned] = []
        self._read = 0
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/v1/traces":
                    sink.raw.append(body)
                self.send_response(200 if self.path == "/v1/traces" else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self.url = f"http://{HOST}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def spans(self) -> list[Spanned]:
        """All that arrived so far."""
        while self._read < len(self.raw):
            for resource in ExportTraceServiceRequest.FromString(self.raw[self._read]).resource_spans:
                for scope in resource.scope_spans:
                    self._spans += map(_spanned, scope.spans)
            self._read += 1
        return self._spans

    def of(self, trace_id: str) -> dict[str, list[Spanned]]:
        """The spans of a trace, by their names."""
        found: dict[str, list[Spanned]] = {}
        for span in [span for span in self.spans if span.trace_id == trace_id]:
            found.setdefault(span.name, []).append(span)
        return found


def _spanned(span: trace_pb2.Span) -> Spanned:
    return Spanned(
        span.name,
        trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        {each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value") for each in span.attributes},
        span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
    )
