"""Summaries in a store: they stay, are listed newest first within bounds, and are of their session alone."""

import asyncio

import pytest

from sessiond.v1.session_pb2 import Session
from sessiond.v1.summary_pb2 import Summary
from sessiond_server.domain import commands as c
from sessiond_server.errors import SessionNotFound
from sessiond_server.store.contract import Store
from sessiond_server.store.session_reads import PAGE_BYTES, SummariesPage
from tests.support.caller import Caller, accepted, one
from tests.support.store_backend import Backend


def summary(through_seq: int, text: str) -> c.CreateSummary:
    return c.CreateSummary(Summary(through_seq=through_seq, text=text))


async def listed(
    store: Store, scope: c.Scope, session_id: str = "s", *, before: int = 0, limit: int = 100
) -> list[str]:
    """All pages."""
    found: list[str] = []
    while True:
        page = await store.list_summaries(scope, session_id, before_seq=before, limit=limit)
        assert len(page.summaries) <= limit
        found += [Summary.FromString(body).text for body in page.summaries]
        if not (before := page.next_seq):
            return found


async def test_summaries_stay_and_are_listed_newest_first(backend: Backend, caller: Caller) -> None:
    store = backend.store
    await accepted(store, caller.create("s"), caller.create("t"))
    assert await store.list_summaries(caller.scope, "s", before_seq=0, limit=1) == SummariesPage(1, [], 0)
    for number in range(5):
        await accepted(store, caller.append("s"))
        made = await one(backend.other, caller.command("s", summary(2, f"n{number}")), c.SummaryCreated)
        session = Session.FromString((await store.get_session(caller.scope, "s", content=False)).core)
        assert session.summary_seq == made.version == 3 + 2 * number
    for limit in (1, 2, 5, 100):
        assert await listed(store, caller.scope, limit=limit) == ["n4", "n3", "n2", "n1", "n0"]
    assert await listed(store, caller.scope, before=9) == ["n2", "n1", "n0"]
    assert (await store.list_summaries(caller.scope, "s", before_seq=0, limit=1)).version == 11
    assert await listed(store, caller.scope, "t") == []


async def test_pages_of_summaries_are_bounded_in_bytes(backend: Backend, caller: Caller) -> None:
    await accepted(backend.store, caller.create("s"))
    large = "x" * (PAGE_BYTES // 3)
    await accepted(backend.store, *(caller.command("s", summary(1, f"{n}{large}")) for n in range(4)))
    page = await backend.store.list_summaries(caller.scope, "s", before_seq=0, limit=100)
    assert [Summary.FromString(body).text[0] for body in page.summaries] == ["3", "2"]
    assert page.next_seq == 4
    assert [text[0] for text in await listed(backend.store, caller.scope)] == ["3", "2", "1", "0"]


async def test_raced_retries_of_a_summary_write_it_once(backend: Backend, caller: Caller) -> None:
    await accepted(backend.store, caller.create("s"))
    command = caller.command("s", summary(1, "once"), request_id="r")
    applied = await asyncio.gather(*(store.apply([command]) for store in (backend.store, backend.other) * 3))
    assert len({result for one in applied for result in one.results if isinstance(result, c.SummaryCreated)}) == 1
    assert await listed(backend.store, caller.scope) == ["once"]


async def test_summaries_go_with_their_session(backend: Backend, caller: Caller) -> None:
    await accepted(backend.store, caller.create("s"), caller.command("s", summary(1, "gone")), caller.delete("s"))
    with pytest.raises(SessionNotFound):
        await listed(backend.store, caller.scope)


@pytest.mark.parametrize("scope", [c.Scope("other"), c.Scope("tenant", "bob")], ids=str)
async def test_summaries_are_not_found_for_others(backend: Backend, scope: c.Scope) -> None:
    alice = Caller(c.Scope("tenant", "alice"))
    await accepted(backend.store, alice.create("s", user_id="alice"), alice.command("s", summary(1, "mine")))
    with pytest.raises(SessionNotFound):
        await listed(backend.store, scope)
