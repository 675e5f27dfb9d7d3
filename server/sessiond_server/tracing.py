"""Traces, exported over OTLP by the OpenTelemetry SDK, which the standard environment variables OTEL_* configure.

The SDK's queue is bounded (OTEL_BSP_MAX_QUEUE_SIZE, 2 048 spans): while the collector is away, the oldest spans are
dropped. Spans are serialised and sent in a thread of the SDK.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from threading import Thread
from typing import Final, cast

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace import Span as SdkSpan
from opentelemetry.trace import Tracer as SdkTracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from sessiond_server.spans import Attributes, Span, Tracer

_log = logging.getLogger("sessiond.tracing")

FLUSH_SECONDS: Final = 2.0
"""Longest time that a stop waits for the collector to take the last spans."""
ABORT_SECONDS: Final = 0.5
"""Longest time that it then waits for an export to be given up."""

_EMPTY: Final = Context()
_CARRIED: Final = ("traceparent", "tracestate")
_PROPAGATOR: Final = TraceContextTextMapPropagator()


class OtelSpan:
    """Implements `spans.Span`."""

    __slots__ = ("_context", "_ended", "_span", "_tracer")

    def __init__(self, tracer: SdkTracer, span: SdkSpan) -> None:
        self._tracer = tracer
        self._span = span
        self._ended = False
        self._context: Context | None = None

    @property
    def trace_id(self) -> str:
        return "" if self._ended else f"{self._span.get_span_context().trace_id:032x}"

    @property
    def recording(self) -> bool:
        return not self._ended and self._span.is_recording()

    def child(self, name: str, attributes: Attributes, *, client: bool = False, links: Sequence[Span] = ()) -> Span:
        if self._context is None:
            self._context = set_span_in_context(self._span, _EMPTY)
        span = self._tracer.start_span(
            name,
            self._context,
            SpanKind.CLIENT if client else SpanKind.INTERNAL,
            attributes,
            [Link(cast(OtelSpan, other)._span.get_span_context()) for other in links],
        )
        return OtelSpan(self._tracer, span)

    def set(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def link(self, other: Span) -> None:
        self._span.add_link(cast(OtelSpan, other)._span.get_span_context())

    def end(self, error: str = "") -> None:
        if self._ended:
            return
        if error:
            self._span.set_attribute("error.type", error)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()
        self._ended = True


class OtelTracer:
    """Implements `spans.Tracer`."""

    def __init__(self, tracer: SdkTracer) -> None:
        self._tracer = tracer

    def serve(self, name: str, metadata: Iterable[tuple[str, str | bytes]], attributes: Attributes) -> Span:
        carrier = {key: value for key, value in metadata if key in _CARRIED}
        context = _PROPAGATOR.extract(carrier, _EMPTY) if carrier else _EMPTY
        return OtelSpan(self._tracer, self._tracer.start_span(name, context, SpanKind.SERVER, attributes))


@asynccontextmanager
async def exporting(protocol: str, version: str) -> AsyncIterator[Tracer]:
    """Exports spans while the context is open, by "grpc" or "http/protobuf". Leaving it takes at most FLUSH_SECONDS
    and ABORT_SECONDS.

    Raises ValueError, and what else the SDK raises, for an environment variable with an invalid value.
    """
    exporter = _exporter(protocol)
    processor = BatchSpanProcessor(exporter)
    # At the end of the process the SDK would wait 30 s for a collector that is away.
    provider = TracerProvider(resource=_resource(version), shutdown_on_exit=False)
    provider.add_span_processor(processor)
    try:
        yield OtelTracer(provider.get_tracer("sessiond", version))
    finally:
        await _end(processor, exporter)


def _exporter(protocol: str) -> SpanExporter:
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpanExporter

    return HttpSpanExporter()


def _resource(version: str) -> Resource:
    """What the environment says of the service, and its name where that says nothing."""
    found = Resource.create({"service.version": version})
    if str(found.attributes["service.name"]).startswith("unknown_service"):
        return found.merge(Resource({"service.name": "sessiond"}))
    return found


async def _end(processor: BatchSpanProcessor, exporter: SpanExporter) -> None:
    """Sends what is queued. The SDK's own end has no limit but 30 s, so it gets a thread, and is then cut short."""
    if await _within(processor.shutdown, FLUSH_SECONDS):
        return
    _log.warning("the collector has not taken the last spans within %g s", FLUSH_SECONDS)
    # This ends the export in progress, for which the first thread waits.
    await _within(exporter.shutdown, ABORT_SECONDS)


async def _within(work: Callable[[], None], seconds: float) -> bool:
    """Runs `work` in a thread that does not keep the process alive; returns whether it ended in time."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        try:
            work()
        except Exception as error:
            _log.warning("cannot end the export of spans: %s", type(error).__name__)
        if not loop.is_closed():
            loop.call_soon_threadsafe(ended.set)

    Thread(target=run, name="spans-end", daemon=True).start()
    try:
        async with asyncio.timeout(seconds):
            await ended.wait()
    except TimeoutError:
        return False
    return True
