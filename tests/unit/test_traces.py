"""What of traces needs no process: when they are asked for, spans of batches, names of attributes."""

import asyncio
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import cast

import pytest
from google.protobuf.descriptor import ServiceDescriptor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import DEFAULT_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes, rpc_attributes
from opentelemetry.semconv.attributes import db_attributes

from sessiond.v1.run_pb2 import Run
from sessiond.v1.session_pb2 import TokenUsage
from sessiond.v1.tool_call_pb2 import ToolCall, ToolData
from sessiond_server import spans
from sessiond_server.app.tracer import opened_tracer
from sessiond_server.domain.commands import Command, MessagesAppended, Result, Scope, TouchSession
from sessiond_server.domain.rows import Writes
from sessiond_server.rpc import genai
from sessiond_server.rpc.server import SERVICES
from sessiond_server.settings import SettingError, traces
from sessiond_server.spans import CURRENT, Span
from sessiond_server.store.batcher import Batcher
from sessiond_server.store.commits import Applied
from sessiond_server.store.contract import Store
from sessiond_server.tracing import OtelTracer, readable

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.mark.parametrize(
    ("environment", "protocol"),
    [
        ({}, None),
        ({ENDPOINT: ""}, None),
        ({ENDPOINT: "http://collector:4317"}, "grpc"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4317"}, "grpc"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "grpc"),
        ({ENDPOINT: "http://c", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({ENDPOINT: "http://c", "OTEL_SDK_DISABLED": "true"}, None),
        ({ENDPOINT: "http://c", "OTEL_SDK_DISABLED": "false"}, "grpc"),
        ({ENDPOINT: "http://c", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "http/protobuf"),
        (
            {
                ENDPOINT: "http://c",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
            },
            "grpc",
        ),
    ],
)
def test_standard_variables_say_whether_and_how_traces_are_exported(
    environment: dict[str, str], protocol: str | None
) -> None:
    assert traces(environment) == protocol


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "GRPC"),
    ],
)
def test_variable_with_a_value_that_is_not_supported_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingError, match=f"{name}: must be"):
        traces({ENDPOINT: "http://c", name: value})


async def test_service_works_without_the_libraries_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "sessiond_server.tracing")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with caplog.at_level(logging.WARNING):
        async with opened_tracer("grpc") as tracer:
            assert tracer is None
    assert "install sessiond[telemetry]" in caplog.text


@pytest.fixture
def exported() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    yield exporter
    exporter.shutdown()


@pytest.fixture
def tracer(exported: InMemorySpanExporter) -> OtelTracer:
    nothing, scope = Resource.get_empty(), InstrumentationScope("test")
    return OtelTracer(DEFAULT_ON, lambda span: exported.export([readable(span, nothing, scope)]))


class Held:
    """Commits that wait until they are let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.current: list[str] = []
        self.failure: Exception | None = None

    async def apply(self, commands: Sequence[Command]) -> Applied:
        self.current.append(spans.trace_id())
        await self.go.wait()
        if self.failure is not None:
            raise self.failure
        results: list[Result] = [MessagesAppended(1, 1, (), 0) for _ in commands]
        return Applied(results, Writes())


def named(exported: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exported.get_finished_spans() if span.name == name]


def linked(span: ReadableSpan) -> set[int]:
    return {link.context.span_id for link in span.links}


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


async def test_batch_is_linked_to_its_calls_and_they_to_it(tracer: OtelTracer, exported: InMemorySpanExporter) -> None:
    store = Held()
    async with Batcher(cast(Store, store), traced=True) as batcher:

        async def call(name: str, flags: str) -> Span | None:
            span = tracer.serve(name, [("traceparent", f"00-{name[-1] * 32}-{'1' * 16}-{flags}")], {})
            CURRENT.set(span)
            await batcher.write(Command(Scope("t"), "s", TouchSession(0), "local", name))
            span.end()
            return span

        calls = [asyncio.create_task(call("call 1", "01"))]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        calls += [asyncio.create_task(call(f"call {n}", flags)) for n, flags in ((2, "00"), (3, "01"), (4, "01"))]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        store.go.set()
        await asyncio.gather(*calls)
        assert store.current == ["1" * 32, "3" * 32], "records of the batch's logs carry the trace of its first call"
    first, second = sorted(named(exported, "sessiond.batch"), key=lambda span: cast(int, span.start_time))
    one, three, four = (named(exported, f"call {n}")[0] for n in (1, 3, 4))
    assert not named(exported, "call 2"), "it is not sampled"
    assert first.attributes == {"sessiond.batch.commands": 1}
    assert second.attributes == {"sessiond.batch.commands": 3}
    assert linked(first) == {id_of(one)}
    assert linked(second) == {id_of(three), id_of(four)}
    assert second.parent is not None
    assert second.parent.span_id == id_of(three)
    assert (linked(three), linked(four)) == (set(), {id_of(second)})
    waits = named(exported, "sessiond.queue")
    assert {wait.parent.span_id for wait in waits if wait.parent} == {id_of(one), id_of(three), id_of(four)}


async def test_batch_without_a_traced_call_has_no_span(tracer: OtelTracer, exported: InMemorySpanExporter) -> None:
    store = Held()
    store.go.set()
    async with Batcher(cast(Store, store), traced=True) as batcher:
        span = tracer.serve("call", [], {})
        CURRENT.set(span)
        await batcher.write(Command(Scope("t"), "s", TouchSession(0), "local", "a"))
        span.end()
        # The batcher's task was begun by that call.
        await batcher.write(Command(Scope("t"), "s", TouchSession(0), "local", "b"))
    assert store.current[1] == ""
    assert len(named(exported, "sessiond.batch")) == 1


async def test_failed_batch_is_an_error_by_class(tracer: OtelTracer, exported: InMemorySpanExporter) -> None:
    store = Held()
    store.failure = ValueError("a secret")
    store.go.set()
    async with Batcher(cast(Store, store), traced=True) as batcher:
        CURRENT.set(tracer.serve("call", [], {}))
        with pytest.raises(ValueError, match="a secret"):
            await batcher.write(Command(Scope("t"), "s", TouchSession(0), "local", "a"))
    (batch,) = named(exported, "sessiond.batch")
    assert batch.attributes == {"sessiond.batch.commands": 1, "error.type": "ValueError"}
    assert "secret" not in batch.to_json()


def test_answers_with_a_run_or_a_tool_call_have_attributes() -> None:
    def answers(service: ServiceDescriptor) -> Iterator[tuple[str, str]]:
        for method in service.methods:
            yield f"/{service.full_name}/{method.name}", method.output_type.full_name

    outputs = dict(pair for service in SERVICES for pair in answers(service))
    wanted = {"sessiond.v1.Run": genai.of_run, "sessiond.v1.ToolCall": genai.of_tool_call}
    assert {path: wanted[output] for path, output in outputs.items() if output in wanted} == genai.OF_ANSWERS


def test_attributes_of_runs_and_tool_calls_are_the_conventions_and_have_no_contents() -> None:
    usage = TokenUsage(input_tokens=3, output_tokens=4)
    run = Run(session_id="s", run_id="r", agent_id="a", model="m", usage=usage)
    run.metadata["secret"] = "secret"
    run.error.message = "secret"
    call = ToolCall(session_id="s", tool_call_id="c", name="search", run_id="r", arguments=ToolData(text="secret"))
    of_run, of_call = genai.of_run(run.SerializeToString()), genai.of_tool_call(call.SerializeToString())
    assert [of_run[f"gen_ai.usage.{kind}_tokens"] for kind in ("input", "output")] == [3, 4]
    assert "gen_ai.usage.input_tokens" not in genai.of_run(Run(session_id="s").SerializeToString())
    assert "secret" not in repr((of_run, of_call))
    known = {
        value
        for module in (gen_ai_attributes, rpc_attributes, db_attributes)
        for value in vars(module).values()
        if isinstance(value, str)
    }
    ours = {
        *of_run,
        *of_call,
        "rpc.system.name",
        "rpc.method",
        "rpc.response.status_code",
        "db.system.name",
        "db.operation.name",
        "db.operation.batch.size",
    }
    assert {name for name in ours if not name.startswith("sessiond.")} <= known
