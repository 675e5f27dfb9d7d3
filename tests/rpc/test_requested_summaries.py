"""RequestSummary over the wire: who may, what is noted, and when it is refused."""

import pytest

from sessiond.v1 import context_service_pb2 as x
from sessiond_server.memory.store import MemoryStore
from sessiond_server.rpc.context.servicer import MOST_REQUESTED
from tests.support.wire import ALICE, BOB, READER, serving


async def test_what_is_asked_for_is_noted_for_the_summariser() -> None:
    store = MemoryStore()
    async with serving(store) as wire:
        await wire.create("s")
        for keep in (None, 0, 500):
            await wire.call("RequestSummary", x.RequestSummaryRequest(session_id="s", keep_messages=keep))
            (claim,) = await store.summary_queue.claim(0.0, 10)
            assert (claim.tenant_id, claim.session_id, claim.asked, claim.keep) == ("acme", "s", True, keep)


@pytest.mark.parametrize("keep", [-1, 501, 2**31 - 1])
async def test_messages_to_keep_have_bounds(keep: int) -> None:
    async with serving(MemoryStore()) as wire:
        await wire.create("s")
        failure = await wire.failure("RequestSummary", x.RequestSummaryRequest(session_id="s", keep_messages=keep))
        assert (failure.reason, list(failure.violations)) == ("INVALID_FIELD", ["keep_messages"])


async def test_only_writers_of_the_session_ask() -> None:
    store = MemoryStore()
    async with serving(store) as wire:
        await wire.create("alice~s", key=ALICE)
        request = x.RequestSummaryRequest(session_id="alice~s")
        assert (await wire.failure("RequestSummary", request, key=BOB)).reason == "SESSION_NOT_FOUND"
        assert (await wire.failure("RequestSummary", request, key=READER)).reason == "SCOPE_MISSING"
        assert await store.summary_queue.claim(1.0, 10) == []
        await wire.call("RequestSummary", request, key=ALICE)


async def test_refused_where_too_many_wait_or_nothing_summarises() -> None:
    store = MemoryStore()
    async with serving(store) as wire:
        await wire.create("s")
        for number in range(MOST_REQUESTED):
            await store.summary_queue.request("acme", f"other-{number}", None, MOST_REQUESTED)
        failure = await wire.failure("RequestSummary", x.RequestSummaryRequest(session_id="s"))
        assert (failure.reason, failure.metadata) == ("TOO_MANY_SUMMARIES", {"limit": str(MOST_REQUESTED)})
    async with serving(store, summarises=False) as wire:
        failure = await wire.failure("RequestSummary", x.RequestSummaryRequest(session_id="s"))
        assert failure.reason == "SUMMARISER_OFF"
