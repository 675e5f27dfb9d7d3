"""A collector of traces: OpenTelemetry's TraceService over gRPC, which answers, waits or refuses."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.waiting import until


@dataclass(frozen=True, slots=True)
class Seen:
    """A span that has arrived."""

    name: str
    trace: str
    id: str
    parent: str
    kind: str
    links: frozenset[str]
    """Ids of spans."""
    failed: bool
    attributes: dict[str, object]
    service: str


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans. Set `refusal` to refuse them, and clear `answering` to leave calls without an answer."""

    def __init__(self) -> None:
        self.spans: list[Seen] = []
        self.port = 0
        self.calls = 0
        self.refusal: grpc.StatusCode | None = None
        self.answering = asyncio.Event()
        self.answering.set()
        self.raw = b""
        """All that has arrived."""

    @property
    def environment(self) -> dict[str, str]:
        """For a server that exports to it, soon after each span."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "OTEL_EXPORTER_OTLP_INSECURE": "true",
            "OTEL_BSP_SCHEDULE_DELAY": "20",
        }

    async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        self.calls += 1
        await self.answering.wait()
        if self.refusal is not None:
            await context.abort(self.refusal, "refused")
        self.raw += request.SerializeToString()
        for resource in request.resource_spans:
            service = {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"]
            for scope in resource.scope_spans:
                self.spans += [_seen(span, service) for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    async def span(self, name: str, condition: Callable[[Seen], object] = lambda _: True) -> Seen:
        """The first span with the name, once it has arrived."""
        await until(lambda: any(span.name == name and condition(span) for span in self.spans))
        return next(span for span in self.spans if span.name == name and condition(span))


def _seen(span: Any, service: str) -> Seen:
    return Seen(
        name=span.name,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        links=frozenset(link.span_id.hex() for link in span.links),
        failed=span.status.code == 2,
        attributes={each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes},
        service=service,
    )


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """A collector on a free port."""
    collector = Collector()
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    collector.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield collector
    finally:
        collector.answering.set()
        await server.stop(None)
