"""What our spans become in OTLP, as OpenTelemetry's generated messages read it."""

import math
from types import SimpleNamespace
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, DEFAULT_ON, TraceIdRatioBased

from sessiond_server import otlp
from sessiond_server.spans import Span as Ours
from sessiond_server.tracing import OtelTracer
from tests.support.rows import table

TRACE, CALLER, OTHER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "1111111111111111"


def read(spans: list[Any]) -> ExportTraceServiceRequest:
    encoded = otlp.request(otlp.attributes({"service.name": "s", "odd": ("a", 1)}), otlp.scope("us", "1.2"), spans)
    return ExportTraceServiceRequest.FromString(encoded)


def spans_of(request: ExportTraceServiceRequest) -> list[Span]:
    return list(request.resource_spans[0].scope_spans[0].spans)


def test_a_span_has_all_that_the_generated_messages_have() -> None:
    span = otlp.FinishedSpan((b"t" * 16, b"s" * 8), b"p" * 8, "a name \u4e2d", otlp.CLIENT, 2**60, {"x": 1})
    span.end_time, span.failed, span.remote, span.state = 2**60 + 5, True, True, "vendor=1"
    span.links += [(b"u" * 16, b"v" * 8), (b"w" * 16, b"x" * 8)]
    request = read([span])
    resource, scoped = request.resource_spans[0].resource, request.resource_spans[0].scope_spans[0]
    assert {each.key: each.value.string_value for each in resource.attributes} == {
        "service.name": "s",
        "odd": "('a', 1)",
    }
    assert (scoped.scope.name, scoped.scope.version) == ("us", "1.2")
    expected = Span(
        trace_id=b"t" * 16, span_id=b"s" * 8, trace_state="vendor=1", parent_span_id=b"p" * 8, name="a name \u4e2d",
        kind=Span.SPAN_KIND_CLIENT, start_time_unix_nano=2**60, end_time_unix_nano=2**60 + 5,
        attributes=[KeyValue(key="x", value=AnyValue(int_value=1))],
        links=[Span.Link(trace_id=a * 16, span_id=b * 8, flags=0x101) for a, b in ((b"u", b"v"), (b"w", b"x"))],
        status=Status(code=Status.STATUS_CODE_ERROR), flags=0x301,
    )  # fmt: skip
    assert spans_of(request) == [expected]


def test_values_of_attributes_are_read_as_they_were() -> None:
    values: list[str | bool | int | float] = [
        "",
        "a",
        "\u05e9\U0001f600" * 100,
        "x" * 70_000,
        "\x00",
        True,
        False,
        0,
        1,
        127,
        128,
        2**40,
        -1,
        -(2**63),
    ]
    values += [2**63 - 1, 0.0, 1.5, -0.25, math.inf]
    span = otlp.FinishedSpan((b"t" * 16, b"s" * 8), b"", "n", otlp.INTERNAL, 1, {})
    span.attributes.update({f"key {number}": value for number, value in enumerate(values)})
    (found,) = spans_of(read([span]))
    with table() as rows:
        for number, (value, attribute) in enumerate(zip(values, found.attributes, strict=True)):
            with rows.row(number, value if number != 3 else "long"):
                kind = {str: "string_value", bool: "bool_value", int: "int_value", float: "double_value"}[type(value)]
                assert attribute.key == f"key {number}"
                assert attribute.value.WhichOneof("value") == kind
                assert getattr(attribute.value, kind) == value
    span.attributes = {"lone": "\ud800"}
    assert spans_of(read([span]))[0].attributes[0].value.string_value == "?"


def test_spans_of_a_call_are_in_the_trace_that_its_metadata_name() -> None:
    parent = f"00-{TRACE}-{CALLER}-01"
    off = parent[:-1] + "0"
    with table() as rows:
        for metadata, expected in (
            ((), ("", "", "", True)),
            ((("traceparent", parent),), (TRACE, CALLER, "", True)),
            ((("traceparent", off),), (TRACE, "", "", False)),
            ((("traceparent", parent), ("tracestate", "a=1,b=2")), (TRACE, CALLER, "a=1,b=2", True)),
            ((("traceparent", f"cc{parent[2:]}-more"),), (TRACE, CALLER, "", True)),
            ((("traceparent", f"00-{'0' * 32}-{CALLER}-01"),), ("", "", "", True)),
            ((("traceparent", f"00-{TRACE}-{'0' * 16}-01"),), ("", "", "", True)),
            ((("traceparent", f"ff{parent[2:]}"),), ("", "", "", True)),
            ((("traceparent", "garbage"), ("tracestate", "a=1")), ("", "", "", True)),
            ((("traceparent", parent.upper()),), ("", "", "", True)),
        ):
            with rows.row(metadata):
                ended: list[Any] = []
                span = OtelTracer(DEFAULT_ON, ended.append).serve("call", metadata, {})
                trace, caller, state, sampled = expected
                assert (span.recording, len(span.trace_id)) == (sampled, 32)
                assert not trace or span.trace_id == trace
                child(span)
                span.end("INTERNAL")
                span.end()
                assert (span.recording, span.trace_id, len(ended)) == (False, "", 2 if sampled else 0)
                if sampled:
                    inner, outer = spans_of(read(ended))
                    assert outer.parent_span_id.hex() == caller
                    assert inner.parent_span_id == outer.span_id
                    assert {inner.trace_state, outer.trace_state} == {state}
                    assert inner.trace_id == outer.trace_id
                    assert (inner.flags, outer.flags) == (0x101, 0x301 if caller else 0x101)
                    assert [each.key for each in outer.attributes] == ["error.type"]


def child(span: Ours) -> None:
    if span.recording:
        inner = span.child("inner", {}, links=[span])
        span.link(inner)
        inner.end()


def test_sampler_of_the_environment_decides_which_traces_are_kept() -> None:
    ended: list[Any] = []
    half = OtelTracer(TraceIdRatioBased(0.5), ended.append)
    for _ in range(400):
        half.serve("call", (), {"a": 1}).end()
    assert 120 < len(ended) < 280
    assert {span.attributes["a"] for span in ended} == {1}
    span = OtelTracer(ALWAYS_OFF, ended.append).serve("call", (("traceparent", f"00-{TRACE}-{CALLER}-01"),), {})
    assert (span.recording, span.trace_id) == (False, TRACE)


def test_what_the_queue_asks_of_a_span_says_that_it_is_sampled() -> None:
    span = OtelTracer(DEFAULT_ON, lambda _: None).serve("call", (), {})
    assert isinstance(span.context, SimpleNamespace)  # type: ignore[attr-defined]
    assert span.context.trace_flags.sampled  # type: ignore[attr-defined]
