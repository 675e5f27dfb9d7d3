"""Traces of a running `sessiond serve`, as a real collector gets them."""

import asyncio
import json
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

import sessiond
from sessiond.v1 import message_service_pb2, session_service_pb2
from sessiond.v1.message_pb2 import Message, Part, Role
from sessiond.v1.message_service_pb2_grpc import MessageServiceStub
from sessiond.v1.session_service_pb2_grpc import SessionServiceStub
from tests.support.collector import Collector, collecting
from tests.support.ports import free_port
from tests.support.serve_process import Serving, command, serving
from tests.support.valkey import Valkey
from tests.support.waiting import PATIENCE, until

APPEND = "sessiond.v1.MessageService/AppendMessages"
GET = "sessiond.v1.SessionService/GetSession"
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = (("traceparent", f"00-{TRACE}-{CALLER}-01"),)
UNSAMPLED = (("traceparent", f"00-{TRACE}-{CALLER}-00"),)


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with collecting() as made:
        yield made


def stub(kind: Callable[[Any], Any], channel: grpc.aio.Channel) -> Any:
    """Stubs are typed for the synchronous channel."""
    return kind(channel)


def said(text: str) -> message_service_pb2.AppendMessagesRequest:
    message = Message(role=Role.ROLE_USER, parts=[Part(text=text)])
    return message_service_pb2.AppendMessagesRequest(session_id="s", messages=[message])


async def test_write_and_read_are_spans_of_their_callers_trace(
    collector: Collector, postgres_dsn: str, valkey: Valkey
) -> None:
    dsn = ("--postgres-dsn", postgres_dsn, "--redis-url", valkey.url)
    logged = ("--log-format", "json", "--access-log", "all")
    async with serving(*dsn, *logged, **collector.environment) as server:
        async with sessiond.Client(server.target) as client:
            await client.create_session(session_id="s", active=True)
        # A client in any language: generated stubs, and the header of W3C.
        async with grpc.aio.insecure_channel(server.target) as channel:
            await stub(MessageServiceStub, channel).AppendMessages(said("a secret"), metadata=SAMPLED)
            asked = session_service_pb2.GetSessionRequest(session_id="s")
            await stub(SessionServiceStub, channel).GetSession(asked, metadata=SAMPLED)
        ours = [await collector.span(name, lambda span: span.trace == TRACE) for name in (APPEND, GET)]
        await collector.span("cache get", lambda span: span.trace == TRACE)
        # Whatever belongs to the write has ended before its call.
        append, get = ours
        assert await server.stop() == 0
        records = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    by_name = {span.name: span for span in collector.spans if span.trace == TRACE}
    assert append.parent == get.parent == CALLER
    assert (append.kind, append.service, append.failed) == ("SERVER", "sessiond", False)
    attributes = dict(append.attributes)
    call_id = attributes.pop("sessiond.request_id")
    assert attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": APPEND,
        "rpc.response.status_code": "OK",
        "sessiond.tenant": "default",
    }
    queue, batch, commit, put = (by_name[name] for name in ("sessiond.queue", "sessiond.batch", "commit", "cache put"))
    assert (queue.parent, batch.parent, batch.links) == (append.id, append.id, frozenset({append.id}))
    assert batch.attributes == {"sessiond.batch.commands": 1}
    assert (commit.parent, commit.kind, put.parent, put.kind) == (batch.id, "CLIENT", batch.id, "CLIENT")
    assert commit.attributes == {
        "db.system.name": "postgresql",
        "db.operation.name": "commit",
        "db.operation.batch.size": 1,
    }
    cached = by_name["cache get"]
    assert (cached.parent, cached.attributes["db.system.name"]) == (get.id, "redis")
    assert "sessiond.cache.hit" in cached.attributes
    (record,) = [each for each in records if each.get("method") == f"/{APPEND}"]
    assert (record["trace_id"], record["request_id"]) == (TRACE, call_id)
    assert b"a secret" not in collector.raw


async def test_failed_call_names_its_code_and_is_an_error_only_by_a_fault_of_the_server(collector: Collector) -> None:
    async with serving("--store", "memory", **collector.environment) as server:
        async with grpc.aio.insecure_channel(server.target) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await stub(MessageServiceStub, channel).AppendMessages(said("x"), metadata=SAMPLED)
        span = await collector.span(APPEND)
    assert span.attributes["rpc.response.status_code"] == "NOT_FOUND"
    assert span.attributes["sessiond.reason"] == "SESSION_NOT_FOUND"
    assert not span.failed


async def test_call_of_a_trace_that_is_not_sampled_is_logged_with_its_trace_and_not_exported(
    collector: Collector,
) -> None:
    async with serving("--store", "memory", "--access-log", "all", **collector.environment) as server:
        async with sessiond.Client(server.target) as client:
            await client.create_session(session_id="s", active=True)
        async with grpc.aio.insecure_channel(server.target) as channel:
            await stub(MessageServiceStub, channel).AppendMessages(said("x"), metadata=UNSAMPLED)
            await stub(MessageServiceStub, channel).AppendMessages(said("x"))
        await collector.span(APPEND)
        await server.until_logged(f"trace_id={TRACE}")
        assert await server.stop() == 0
    assert {span.trace for span in collector.spans}.isdisjoint({TRACE})
    assert len([span for span in collector.spans if span.name == APPEND]) == 1


async def test_runs_tool_calls_and_attachments_have_their_attributes_and_no_contents(
    collector: Collector, tmp_path: Path
) -> None:
    blobs = ("--blob-store", (tmp_path / "blobs").as_uri())
    async with serving("--store", "memory", *blobs, **collector.environment) as server:
        async with sessiond.Client(server.target) as client:
            await client.create_session(session_id="s", active=True)
            async with client.run("s", agent_id="clerk", model="model-9") as run:
                call = await run.request_tool_call("search", {"query": "a secret"})
                await run.start_tool_call(call.tool_call_id)
                await run.complete_tool_call(call.tool_call_id, {"found": "a secret"})
            attachment = await client.upload("s", b"a secret" * 1000)
            await client.download("s", attachment.attachment_id).read()
        began = await collector.span("sessiond.v1.RunService/BeginRun")
        done = await collector.span("sessiond.v1.ToolCallService/CompleteToolCall")
        append, read = await collector.span("blob append"), await collector.span("blob read")
        assert await server.stop() == 0
    assert began.attributes["gen_ai.operation.name"] == "invoke_agent"
    assert began.attributes["gen_ai.conversation.id"] == "s"
    assert began.attributes["gen_ai.agent.id"] == "clerk"
    assert began.attributes["gen_ai.request.model"] == "model-9"
    assert done.attributes["gen_ai.operation.name"] == "execute_tool"
    assert done.attributes["gen_ai.tool.name"] == "search"
    assert done.attributes["gen_ai.tool.call.id"] == call.tool_call_id
    assert append.attributes["sessiond.blob.bytes"] == read.attributes["sessiond.blob.bytes"] == 8000
    assert (append.kind, read.kind) == ("CLIENT", "CLIENT")
    assert b"a secret" not in collector.raw


async def used(server: Serving, calls: int) -> None:
    """So many calls, each of which succeeds."""
    async with sessiond.Client(server.target) as client:
        await client.create_session(session_id="s", active=True)
        for _ in range(calls // 50):
            await asyncio.gather(*(client.get_session("s") for _ in range(50)))


@pytest.mark.long
async def test_collector_that_is_down_fails_no_call_and_delays_no_stop() -> None:
    down = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}", "OTEL_BSP_SCHEDULE_DELAY": "20"}
    async with serving("--store", "memory", **down) as server:
        await used(server, 100)
        assert await server.stop() == 0
        assert "stopping" in server.log.read_text()


@pytest.mark.long
async def test_collector_that_never_answers_fills_a_bounded_queue_and_delays_no_stop(collector: Collector) -> None:
    collector.answering.clear()
    small = {"OTEL_BSP_MAX_QUEUE_SIZE": "64", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "32"}
    async with serving("--store", "memory", **collector.environment, **small) as server:
        await used(server, 50)
        await until(lambda: collector.calls)
        await used_again(server)
        assert await server.stop() == 0
        log = server.log.read_text()
    assert "Queue full" in log
    assert "the collector has not taken the last spans" in log


async def used_again(server: Serving) -> None:
    async with sessiond.Client(server.target) as client:
        for _ in range(4):
            await asyncio.gather(*(client.get_session("s") for _ in range(50)))


@pytest.mark.long
@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED])
async def test_collector_that_refuses_fails_no_call(collector: Collector, code: grpc.StatusCode) -> None:
    collector.refusal = code
    async with serving("--store", "memory", **collector.environment) as server:
        await used(server, 100)
        await until(lambda: collector.calls)
        assert await server.stop(signal.SIGINT) == 0
    assert not collector.spans


async def test_spans_go_over_http_too() -> None:
    received: asyncio.Queue[tuple[bytes, bytes]] = asyncio.Queue()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        found = re.search(rb"(?i)content-length: (\d+)", head)
        assert found
        received.put_nowait((head.split()[1], await reader.readexactly(int(found[1]))))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", 0) as listener:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_BSP_SCHEDULE_DELAY": "20",
        }
        async with serving("--store", "memory", **environment) as server:
            async with sessiond.Client(server.target) as client:
                await client.create_session(session_id="s", active=True)
            async with asyncio.timeout(PATIENCE):
                path, body = await received.get()
            assert await server.stop() == 0
    spans = ExportTraceServiceRequest.FromString(body).resource_spans[0].scope_spans[0].spans
    assert path == b"/v1/traces"
    assert {"sessiond.batch", "sessiond.queue"} & {span.name for span in spans}


async def test_value_that_is_not_supported_ends_serve_with_an_error() -> None:
    refused = await asyncio.to_thread(command, "serve", "--store", "memory", OTEL_TRACES_EXPORTER="zipkin")
    assert refused.returncode == 2
    assert "OTEL_TRACES_EXPORTER: must be otlp or none" in refused.stderr


OURS = ("opentelemetry.exporter", "opentelemetry.sdk.trace", "sessiond_server.tracing")


async def test_without_an_endpoint_nothing_that_traces_is_imported() -> None:
    """redis-py imports the SDK's metrics by itself, where they are installed."""
    program = (
        "import asyncio, sys\n"
        "from sessiond_server.app.service import running\n"
        "from sessiond_server.settings import load\n"
        "async def main():\n"
        "    async with running(load({'listen': '127.0.0.1:0', 'store': 'memory'}, {})):\n"
        f"        print(*[name for name in sys.modules if name.startswith({OURS})], sep='\\n')\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, env={"PATH": ""}
    )
    output, _ = await process.communicate()
    assert (process.returncode, output.strip()) == (0, b"")
