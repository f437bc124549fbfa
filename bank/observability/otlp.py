"""What sends traces: OpenTelemetry's SDK, by OTLP over HTTP. Loaded where something is traced, and after the fork: it has a thread."""

import atexit
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Self

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, TraceFlags, Tracer

from bank.config import Config

# A collector that is away costs traces, and the stop of a process no more than this: what is at work may take eight of its ten seconds.
_EXPORT_SECONDS = 2.0
_FLUSH_SECONDS = 1.0

# A span of the whole of an atomic batch is linked once; of the others, and of single transactions, there are as many as a drain takes.
_MOST_LINKS = 5_000

_SCOPE = InstrumentationScope("bank")

_wanted_id: ContextVar[int] = ContextVar("wanted_span_id", default=0)


class _Resource(Resource):
    """The only one of this process. The SDK's hash writes all its attributes as JSON, for each span that is sent."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


class _Ids(RandomIdGenerator):
    """Random ids, but for the span whose id is known before."""

    def generate_span_id(self) -> int:
        return _wanted_id.get() or super().generate_span_id()


_IDS = _Ids()


@dataclass(frozen=True, slots=True)
class Tracers:
    """What traces requests, of which a share is kept, and what traces everything else, of which it is known that it is kept."""

    requests: Tracer
    kept: Tracer
    _processor: BatchSpanProcessor
    _resource: Resource

    @classmethod
    def sending(cls, config: Config) -> Self:
        """Those that send to the collector of `config` until the process ends."""
        exporter = OTLPSpanExporter(endpoint=f"{config.traces_url}/v1/traces", timeout=_EXPORT_SECONDS)
        processor = BatchSpanProcessor(exporter)
        resource = _Resource(Resource.create({"service.name": "bank", "deployment.environment.name": config.env}).attributes)

        def tracer(sampler: Sampler) -> Tracer:
            limits = SpanLimits(max_links=_MOST_LINKS)
            provider = TracerProvider(sampler, resource, shutdown_on_exit=False, id_generator=_IDS, span_limits=limits)
            provider.add_span_processor(processor)
            return provider.get_tracer(_SCOPE.name)

        atexit.register(_flush, processor)
        return cls(tracer(ParentBased(TraceIdRatioBased(config.traces_percent / 100))), tracer(ALWAYS_ON), processor, resource)

    def statement(self, verb: str, attributes: Mapping[str, str], parent: SpanContext, times: tuple[int, int], status: Status) -> None:
        """Send a statement that is over, of a span that is kept: `times` are its start and end, in nanoseconds since 1970.

        Most spans are statements. A span that can still change costs several times as much: locks, copies, a sampler.
        """
        own = SpanContext(parent.trace_id, _IDS.generate_span_id(), is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
        started, ended = times
        self._processor.on_end(
            ReadableSpan(
                verb,
                own,
                parent,
                self._resource,
                attributes,
                kind=SpanKind.CLIENT,
                status=status,
                start_time=started,
                end_time=ended,
                instrumentation_scope=_SCOPE,
            )
        )

    @staticmethod
    @contextmanager
    def next_span_is(span_id: int) -> Iterator[None]:
        """Give the span that is started in this block the id `span_id`."""
        token = _wanted_id.set(span_id)
        try:
            yield
        finally:
            _wanted_id.reset(token)


def _flush(processor: BatchSpanProcessor) -> None:
    # The processor's own shutdown() waits for half a minute.
    processor._batch_processor.shutdown(int(_FLUSH_SECONDS * 1000))
