"""What sends traces: OpenTelemetry's SDK, by OTLP over HTTP. Loaded where something is traced, and after the fork: it has a thread."""

import atexit
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Self

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import Tracer

from bank.config import Config

# A collector that is away costs traces, and the stop of a process no more than this: what is at work may take eight of its ten seconds.
_EXPORT_SECONDS = 2.0
_FLUSH_SECONDS = 1.0

# A span of the whole of an atomic batch is linked once; of the others, and of single transactions, there are as many as a drain takes.
_MOST_LINKS = 5_000

_wanted_id: ContextVar[int] = ContextVar("wanted_span_id", default=0)


class _Ids(RandomIdGenerator):
    """Random ids, but for the span whose id is known before."""

    def generate_span_id(self) -> int:
        return _wanted_id.get() or super().generate_span_id()


@dataclass(frozen=True, slots=True)
class Tracers:
    """What traces requests, of which a share is kept, and what traces everything else, of which it is known that it is kept."""

    requests: Tracer
    kept: Tracer

    @classmethod
    def sending(cls, config: Config) -> Self:
        """Those that send to the collector of `config` until the process ends."""
        exporter = OTLPSpanExporter(endpoint=f"{config.traces_url}/v1/traces", timeout=_EXPORT_SECONDS)
        processor = BatchSpanProcessor(exporter)
        resource = Resource.create({"service.name": "bank", "deployment.environment.name": config.env})

        def tracer(sampler: Sampler) -> Tracer:
            limits = SpanLimits(max_links=_MOST_LINKS)
            provider = TracerProvider(sampler, resource, shutdown_on_exit=False, id_generator=_Ids(), span_limits=limits)
            provider.add_span_processor(processor)
            return provider.get_tracer("bank")

        atexit.register(_flush, processor)
        return cls(tracer(ParentBased(TraceIdRatioBased(config.traces_percent / 100))), tracer(ALWAYS_ON))

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
