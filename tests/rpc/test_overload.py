"""More calls than can be served: those beyond stay where they cost nothing, and nothing is left of them afterwards."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from sessiond.v1.session_service_pb2 import GetSessionRequest, SuspendSessionRequest
from sessiond_server.auth import Authenticator, digest_of
from sessiond_server.memory.store import MemoryStore
from sessiond_server.rpc import intake, pace
from tests.support.held_store import HoldingWriter
from tests.support.waiting import until
from tests.support.wire import OTHER_TENANT, PRINCIPALS, TENANT, Wire, serving

GET = GetSessionRequest(session_id="s")
ENOUGH = 4


@pytest.fixture
async def full(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Wire, HoldingWriter]]:
    """A server of one tenant that takes in no call beside ENOUGH writes, which the test lets go."""
    monkeypatch.setattr(intake, "STALLED", 3600.0)
    store = MemoryStore()
    writer = HoldingWriter(store)
    alone = Authenticator({digest_of(TENANT): PRINCIPALS[TENANT]})
    async with serving(store, writer=writer, authenticator=alone, enough_calls=ENOUGH, call_metrics=True) as wire:
        writes = [wire.start("SuspendSession", SuspendSessionRequest(session_id="s")) for _ in range(ENOUGH)]
        await until(lambda: wire.server.calls == ENOUGH)
        yield wire, writer
        writer.go.set()
        await asyncio.gather(*writes, return_exceptions=True)


async def end(call: Any) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


def handled(wire: Wire) -> int:
    """GetSessions of which anything of ours heard."""
    return sum(sum(one.codes.values()) for one in wire.server.call_metrics if one.method.endswith("/GetSession"))


async def test_calls_beyond_those_in_progress_wait_and_none_is_refused(full: tuple[Wire, HoldingWriter]) -> None:
    wire, writer = full
    calls = [wire.start("GetSession", GET, timeout=200) for _ in range(300)]
    ends = asyncio.gather(*map(end, calls))
    # grpc asks for one call ahead: it was asked for before there were enough.
    await until(lambda: handled(wire) == 1)
    assert wire.server.calls <= ENOUGH + 1
    writer.go.set()
    assert Counter(await ends) == {"NOT_FOUND": 300}


async def test_calls_that_were_given_up_are_forgotten_without_work(
    full: tuple[Wire, HoldingWriter], caplog: pytest.LogCaptureFixture
) -> None:
    wire, writer = full
    given_up = [wire.start("GetSession", GET, timeout=0.3) for _ in range(300)]
    ends = Counter(await asyncio.gather(*map(end, given_up)))
    assert ends["DEADLINE_EXCEEDED"] >= 299, ends
    records = len(caplog.records)
    writer.go.set()
    assert await end(wire.start("GetSession", GET)) == "NOT_FOUND"
    codes = next(one.codes for one in wire.server.call_metrics if one.method.endswith("/GetSession"))
    await until(lambda: sum(codes.values()) == 301)
    assert set(codes) <= {"NOT_FOUND", "DEADLINE_EXCEEDED", "CANCELLED"}
    assert codes["NOT_FOUND"] <= 2, codes
    assert len(caplog.records) - records <= 10, "a record for each would be as dear as serving them"


async def test_server_that_stops_does_not_wait_for_room(full: tuple[Wire, HoldingWriter]) -> None:
    wire, writer = full
    call = wire.start("GetSession", GET)
    ended = asyncio.create_task(end(call))
    async with asyncio.timeout(60):
        await wire.server.stop()
    assert await ended in ("UNAVAILABLE", "CANCELLED", "NOT_FOUND")
    writer.go.set()


async def test_calls_that_cannot_be_served_in_time_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """While others end too late, of their method and tenant only."""
    monkeypatch.setattr(pace, "KEEP", 3600.0)
    store = MemoryStore()
    writer = HoldingWriter(store)
    async with serving(store, writer=writer, call_metrics=True) as wire:
        request = SuspendSessionRequest(session_id="s")
        few = [wire.start("SuspendSession", request, timeout=0.5) for _ in range(4)]
        assert Counter(await asyncio.gather(*map(end, few))) == {"DEADLINE_EXCEEDED": 4}
        assert await end(wire.start("SuspendSession", request, timeout=0.4)) == "DEADLINE_EXCEEDED", "no overload"
        late = [wire.start("SuspendSession", request, timeout=0.5) for _ in range(40)]
        assert Counter(await asyncio.gather(*map(end, late))) == {"DEADLINE_EXCEEDED": 40}
        await until(lambda: not wire.server.calls)
        failure = await wire.failure("SuspendSession", request, timeout=0.4)
        assert failure.reason == "TOO_MANY_CALLS"
        assert wire.server.refused_calls["deadline"] == 1
        assert (await wire.failure("GetSession", GET, timeout=0.4)).reason == "SESSION_NOT_FOUND"
        assert await end(wire.start("SuspendSession", request, key=OTHER_TENANT, timeout=0.4)) == "DEADLINE_EXCEEDED"
        writer.go.set()
        assert (await wire.failure("SuspendSession", request)).reason == "SESSION_NOT_FOUND", "it has time"
