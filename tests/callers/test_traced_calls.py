"""A trace that begins in a client of another language reaches Postgres, and the collector has all of it."""

import asyncio
import base64
import shutil
import subprocess
from pathlib import Path

import pytest

import sessiond
from sessiond.v1.message_pb2 import Message, Part, Role
from sessiond.v1.message_service_pb2 import AppendMessagesRequest
from tests.support.collector import collecting
from tests.support.serve_process import serving

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SOURCE = Path(__file__).parent / "go"
REQUEST = AppendMessagesRequest(
    session_id="s", messages=[Message(role=Role.ROLE_USER, parts=[Part(text="a secret")])]
).SerializeToString()


@pytest.mark.long
@pytest.mark.skipif(shutil.which("go") is None, reason="needs Go")
async def test_append_of_a_go_client_is_one_trace_from_its_call_to_the_commit(postgres_dsn: str) -> None:
    async with collecting() as collector:
        async with serving("--postgres-dsn", postgres_dsn, **collector.environment) as server:
            async with sessiond.Client(server.target) as client:
                await client.create_session(session_id="s", active=True)
            arguments = [server.target, f"00-{TRACE}-{CALLER}-01", base64.b64encode(REQUEST).decode()]
            ran = await asyncio.to_thread(
                subprocess.run,
                ["go", "run", "./traced", *arguments],
                cwd=SOURCE,
                capture_output=True,
                text=True,
                check=False,
            )
            assert ran.returncode == 0, ran.stderr
            await collector.span("sessiond.v1.MessageService/AppendMessages", lambda span: span.trace == TRACE)
        spans = {span.id: span for span in collector.spans if span.trace == TRACE}
    named = {span.name: span for span in spans.values()}

    def path(name: str) -> list[str]:
        """The names of a span and of those around it."""
        span = named[name]
        return [name, *(path(spans[span.parent].name) if span.parent in spans else [span.parent])]

    call = "sessiond.v1.MessageService/AppendMessages"
    assert path("commit") == ["commit", "sessiond.batch", call, CALLER]
    assert path("sessiond.queue") == ["sessiond.queue", call, CALLER]
    assert named["commit"].attributes["db.system.name"] == "postgresql"
    assert named["sessiond.batch"].links == {named[call].id}
    assert b"a secret" not in collector.raw
