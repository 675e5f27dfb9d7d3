"""Traces, exported over OTLP by the OpenTelemetry SDK, which the standard environment variables OTEL_* configure.

The SDK's queue is bounded (OTEL_BSP_MAX_QUEUE_SIZE, 2 048 spans): while the collector is away, the oldest spans are
dropped. Spans are serialised and sent in a thread of the SDK.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from random import getrandbits
from threading import Thread
from time import time_ns
from types import SimpleNamespace
from typing import Any, Final, cast

from opentelemetry.context import Context
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Decision, Sampler
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.trace.span import TraceState

from sessiond_server import otlp
from sessiond_server.spans import Attributes, Span, Tracer

_log = logging.getLogger("sessiond.tracing")

FLUSH_SECONDS: Final = 2.0
"""Longest time that a stop waits for the collector to take the last spans."""
ABORT_SECONDS: Final = 0.5
"""Longest time that it then waits for an export to be given up."""

_EMPTY: Final = Context()
_CARRIED: Final = ("traceparent", "tracestate")
_PROPAGATOR: Final = TraceContextTextMapPropagator()
_PLAIN: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})").fullmatch
"""The `traceparent` of today's version. Any other is left to the SDK."""

Parent = tuple[bytes, bytes, bool, str]
"""Where a trace comes from: its id, the id of the caller's span, whether it is sampled, and its `tracestate`."""


class OtelSpan(otlp.FinishedSpan):
    """Implements `spans.Span`: a span of a trace that is sampled."""

    __slots__ = ("_finish",)

    context: Final = SimpleNamespace(trace_flags=TraceFlags(TraceFlags.SAMPLED))
    """What the SDK's queue asks of a span."""

    def __init__(
        self,
        finish: Callable[[Any], object],
        place: otlp.Place,
        parent: bytes,
        name: str,
        kind: int,
        attributes: Attributes,
    ) -> None:
        super().__init__(place, parent, name, kind, time_ns(), attributes)
        self._finish = finish

    @property
    def trace_id(self) -> str:
        return "" if self.end_time else self.place[0].hex()

    @property
    def recording(self) -> bool:
        return not self.end_time

    def child(self, name: str, attributes: Attributes, *, client: bool = False, links: Sequence[Span] = ()) -> Span:
        trace, own = self.place
        kind = otlp.CLIENT if client else otlp.INTERNAL
        span = OtelSpan(self._finish, (trace, _new_id()), own, name, kind, attributes)
        span.state = self.state
        for other in links:
            span.link(other)
        return span

    def set(self, attributes: Attributes) -> None:
        self.attributes.update(attributes)

    def link(self, other: Span) -> None:
        self.links.append(cast(OtelSpan, other).place)

    def end(self, error: str = "") -> None:
        if self.end_time:
            return
        if error:
            self.attributes["error.type"] = error
            self.failed = True
        self.end_time = time_ns()
        self._finish(self)


class UnsampledSpan:
    """Implements `spans.Span`: only its trace is known. It has no children."""

    __slots__ = ("_trace",)

    def __init__(self, trace: bytes) -> None:
        self._trace = trace

    @property
    def trace_id(self) -> str:
        return self._trace.hex()

    @property
    def recording(self) -> bool:
        return False

    def child(self, name: str, attributes: Attributes, *, client: bool = False, links: Sequence[Span] = ()) -> Span:
        return self

    def set(self, attributes: Attributes) -> None:
        """Does nothing."""

    def link(self, other: Span) -> None:
        """Does nothing."""

    def end(self, error: str = "") -> None:
        self._trace = b""


class OtelTracer:
    """Implements `spans.Tracer`."""

    def __init__(self, sampler: Sampler, finish: Callable[[Any], object]) -> None:
        """`finish` takes each span that has ended."""
        self._sampler = None if sampler == DEFAULT_ON else sampler
        self._finish = finish

    def serve(self, name: str, metadata: Iterable[tuple[str, str | bytes]], attributes: Attributes) -> Span:
        carrier = {key: value for key, value in metadata if key in _CARRIED}
        parent = _parent(carrier) if carrier else None
        trace, caller, sampled, state = parent or (getrandbits(128).to_bytes(16), b"", True, "")
        if self._sampler is not None:
            context = _PROPAGATOR.extract(carrier, _EMPTY) if carrier else _EMPTY
            found = self._sampler.should_sample(context, int.from_bytes(trace), name, SpanKind.SERVER, dict(attributes))
            sampled = found.decision is Decision.RECORD_AND_SAMPLE
            state = found.trace_state.to_header() if found.trace_state else state
            attributes = {**attributes, **cast(Attributes, found.attributes or {})}
        if not sampled:
            return UnsampledSpan(trace)
        span = OtelSpan(self._finish, (trace, _new_id()), caller, name, otlp.SERVER, attributes)
        span.remote, span.state = bool(caller), state
        return span


def _new_id() -> bytes:
    return (getrandbits(64) or 1).to_bytes(8)


def _parent(carrier: dict[str, Any]) -> Parent | None:
    """None if the metadata name no valid trace."""
    given = carrier.get("traceparent")
    if isinstance(given, str) and len(carrier) == 1 and (found := _PLAIN(given)):
        trace, caller, flags = map(bytes.fromhex, found.groups())
        return trace, caller, bool(flags[0] & 1), ""
    context = get_current_span(_PROPAGATOR.extract(carrier, _EMPTY)).get_span_context()
    if not context.is_valid:
        return None
    ids = context.trace_id.to_bytes(16), context.span_id.to_bytes(8)
    return *ids, bool(context.trace_flags & TraceFlags.SAMPLED), context.trace_state.to_header()


@asynccontextmanager
async def exporting(protocol: str, version: str) -> AsyncIterator[Tracer]:
    """Exports spans while the context is open, by "grpc" or "http/protobuf". Leaving it takes at most FLUSH_SECONDS
    and ABORT_SECONDS.

    Raises ValueError, and what else the SDK raises, for an environment variable with an invalid value.
    """
    # It takes resource and sampler from the environment. At the end of the process it would wait 30 s for a collector
    # that is away.
    provider = TracerProvider(resource=_resource(version), shutdown_on_exit=False)
    exporter = _exporter(protocol, provider.resource, version)
    processor = BatchSpanProcessor(exporter)
    try:
        yield OtelTracer(provider.sampler, processor.on_end)
    finally:
        await _end(processor, exporter)


def _exporter(protocol: str, resource: Resource, version: str) -> SpanExporter:
    """The SDK's exporter, which knows OTEL_EXPORTER_OTLP_*, for spans of ours."""
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        encoded = otlp.attributes(resource.attributes), otlp.scope("sessiond", version)

        class GrpcExporter(OTLPSpanExporter):
            def _translate_data(self, data: Sequence[Any]) -> ExportTraceServiceRequest:
                return ExportTraceServiceRequest.FromString(otlp.request(*encoded, data))

        return GrpcExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpanExporter

    scope = InstrumentationScope("sessiond", version)

    class HttpExporter(HttpSpanExporter):
        def export(self, spans: Sequence[Any]) -> SpanExportResult:
            return super().export([readable(span, resource, scope) for span in spans])

    return HttpExporter()


_KINDS: Final = {otlp.INTERNAL: SpanKind.INTERNAL, otlp.SERVER: SpanKind.SERVER, otlp.CLIENT: SpanKind.CLIENT}


def readable(span: OtelSpan, resource: Resource, scope: InstrumentationScope) -> ReadableSpan:
    """As the SDK has it."""
    state = TraceState.from_header([span.state]) if span.state else None

    def place(trace: bytes, own: bytes, *, remote: bool = False) -> SpanContext:
        flags = TraceFlags(TraceFlags.SAMPLED)
        return SpanContext(int.from_bytes(trace), int.from_bytes(own), remote, flags, state)

    return ReadableSpan(
        span.name,
        place(*span.place),
        place(span.place[0], span.parent, remote=span.remote) if span.parent else None,
        resource,
        span.attributes,
        (),
        [Link(place(*other)) for other in span.links],
        _KINDS[span.kind],
        status=Status(StatusCode.ERROR) if span.failed else Status(),
        start_time=span.begin,
        end_time=span.end_time,
        instrumentation_scope=scope,
    )


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
