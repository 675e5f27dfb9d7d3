"""Counters of usage over every store: what counts, under what, and that each event counts exactly once."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import asyncpg
import pytest

from sessiond.v1.message_pb2 import Message, Part, Role
from sessiond.v1.run_pb2 import Run, RunStatus
from sessiond.v1.session_pb2 import TokenUsage
from sessiond.v1.summary_pb2 import Summary
from sessiond_server import erasing
from sessiond_server.domain import commands as c
from sessiond_server.domain.rows import Policy
from sessiond_server.domain.usage.figures import Figures
from sessiond_server.postgres import usage as postgres_usage
from sessiond_server.store.usage import Key, UsageQuery
from tests.support.caller import Caller, accepted, one, session
from tests.support.run_actions import begin, finish, request
from tests.support.store_backend import Backend, Open
from tests.support.wire import DirectWriter

EVERYONE = c.Scope("tenant")
BY_ALL = ("user_id", "day", "agent_id", "model")
ALWAYS = UsageQuery(date.min, date.max, None, None, None, frozenset())


def said(tokens: int, model: str = "", run_id: str = "") -> Message:
    return Message(
        role=Role.ROLE_ASSISTANT,
        parts=[Part(text="x")],
        usage=TokenUsage(input_tokens=tokens, output_tokens=1, reasoning_tokens=2, cached_tokens=3),
        model=model,
        run_id=run_id,
    )


def append(session_id: str, *messages: Message) -> c.Command:
    return Caller().command(session_id, c.AppendMessages(list(messages)))


async def counted(backend: Backend) -> None:
    """Counts until everything is. Transactions of other tests may hold feeds back for a while."""
    before = -1
    while True:
        events, _ = await backend.counting.count()
        page = await backend.usage.get_usage(EVERYONE, ALWAYS, after=None, limit=1)
        if not events and page.as_of_us > before > 0:
            return  # the clock itself: there is no event that is not counted
        before = page.as_of_us


async def rows(
    backend: Backend, *by: str, limit: int = 1000, after: Key | None = None, **where: Any
) -> list[tuple[Key, Figures]]:
    """All of them, in pages."""
    query = replace(ALWAYS, by=frozenset(by), **where)
    found: list[tuple[Key, Figures]] = []
    while True:
        page = await backend.usage.get_usage(EVERYONE, query, after=after, limit=limit)
        assert len(page.rows) <= limit
        found += page.rows
        if not page.more:
            return found
        after = page.rows[-1][0]


async def total(backend: Backend, **where: Any) -> Figures:
    await counted(backend)
    found = await rows(backend, **where)
    return found[0][1] if found else Figures()


def inputs(found: Iterable[tuple[Key, Figures]], part: int) -> dict[Any, int]:
    return {key[part]: figures.input_tokens for key, figures in found}


async def test_everything_that_is_used_is_counted(backend: Backend, caller: Caller) -> None:
    store = backend.store
    assert await total(backend) == Figures()
    await accepted(store, caller.create("s", user_id="ann", agent_id="writer"))
    await accepted(store, append("s", said(10, "m1"), said(20, "m2")), caller.append("s", "hi"))
    begun = await one(store, caller.command("s", begin("r")), c.RunWritten)
    fence = c.Fence("r", Run.FromString(begun.run).fence)
    await accepted(store, caller.command("s", c.AppendMessages([said(40)]), fence=fence))
    await accepted(store, caller.command("s", request("t"), fence=fence))
    await accepted(store, caller.command("s", finish(100), fence=fence))
    await accepted(
        store,
        caller.command("s", c.CreateSummary(Summary(through_seq=2, text="x", model="m4", usage=said(1000).usage))),
    )
    preset = Run(run_id="p", status=RunStatus.RUN_STATUS_COMPLETED, model="m5", usage=said(5000).usage)
    await accepted(store, caller.command("t", c.CreateSession(session(session_id="t"), [preset])))
    figures = await total(backend)
    assert figures == Figures(
        session_count=2,
        message_count=4,
        run_count=2,
        tool_call_count=1,
        input_tokens=6170,
        output_tokens=105,
        total_tokens=6275,
        reasoning_tokens=10,
        cached_tokens=15,
    )
    assert inputs(await rows(backend, "model"), 3) == {
        "": 0, "m1": 10, "m2": 20, "model": 140, "m4": 1000, "m5": 5000,
    }  # fmt: skip
    assert inputs(await rows(backend, "user_id"), 0) == {"": 5000, "ann": 1170}
    assert inputs(await rows(backend, "agent_id"), 2) == {"": 5000, "writer": 1170}
    assert await total(backend, user_id="ann", agent_id="writer", model="model") == Figures(
        0, 1, 1, 0, 140, 101, 241, 2, 3
    )
    assert await total(backend, user_id="bob") == Figures()
    page = await backend.usage.get_usage(c.Scope("other"), ALWAYS, after=None, limit=10)
    assert not page.rows


async def test_rows_are_ordered_and_paged_by_any_dimensions(open_backend: Open, caller: Caller) -> None:
    backend = await open_backend(policy=Policy(default_ttl_us=0))
    store = backend.store
    for user, agent in (("b", "y"), ("a", "y"), ("\U0001f600", "x"), ("", "")):
        name = f"s-{user}"
        await accepted(store, caller.create(name, user_id=user, agent_id=agent))
        await accepted(store, append(name, said(1, "m2"), said(2, "m1")))
    await backend.advance(2 * 86_400)
    await accepted(store, append("s-a", said(4, "m1")))
    await counted(backend)
    whole = await rows(backend, *BY_ALL)
    keys = [key for key, _ in whole]
    assert keys == sorted(keys)
    assert len(keys) == 4 * 3 + 1
    days = sorted({key[1] for key in keys if key[1] is not None})
    for by in ((), ("day",), ("model",), ("user_id",), ("user_id", "model"), ("day", "agent_id"), BY_ALL):
        expected: dict[Key, int] = {}
        for key, figures in whole:
            kept = tuple(
                value if name in by else None if name == "day" else "" for name, value in zip(BY_ALL, key, strict=True)
            )
            expected[kept] = expected.get(kept, 0) + figures.input_tokens  # type: ignore[index, arg-type]
        for limit in (1, 2, 1000):
            found = await rows(backend, *by, limit=limit)
            assert {key: figures.input_tokens for key, figures in found} == expected
            assert [key for key, _ in found] == sorted(expected, key=str)
    assert (await total(backend, first_day=days[1])).input_tokens == 4
    assert (await total(backend, last_day=days[1] - timedelta(days=1))).input_tokens == 12


async def test_what_is_deleted_stays_counted(backend: Backend, caller: Caller) -> None:
    store = backend.store
    await accepted(store, caller.create("s", user_id="ann", agent_id="a"), append("s", said(1, "m")))
    await counted(backend)
    # Deleted before they are counted: messages, a session, and one in the batch that creates it.
    await accepted(store, append("s", said(10, "m")), caller.pop("s"))
    await accepted(store, append("s", said(100, run_id="gone")))
    await accepted(store, caller.delete("s"))
    await accepted(
        store, caller.create("t", user_id="ann", agent_id="a"), append("t", said(1000, "m")), caller.delete("t")
    )
    await accepted(store, caller.create("s", reuse=True, user_id="ann", agent_id="b"), append("s", said(10_000, "m")))
    figures = await total(backend)
    assert (figures.input_tokens, figures.message_count, figures.session_count) == (11_111, 5, 3)
    assert inputs(await rows(backend, "user_id"), 0) == {"ann": 11_111}
    assert inputs(await rows(backend, "agent_id"), 2) == {"a": 1111, "b": 10_000}
    await accepted(store, caller.delete("s"))
    assert await total(backend) == figures


async def test_what_a_fork_shares_is_counted_once(backend: Backend, caller: Caller) -> None:
    store = backend.store
    await accepted(store, caller.create("s"), append("s", said(1), said(10)))
    await accepted(store, caller.fork("s", "f"))
    await accepted(store, append("f", said(100)))
    await accepted(store, caller.delete("s"))
    await accepted(store, caller.delete("f"))
    figures = await total(backend)
    assert (figures.input_tokens, figures.session_count) == (111, 2)


async def test_an_erasure_removes_the_user_and_keeps_the_tenants_sums(backend: Backend, caller: Caller) -> None:
    store = backend.store
    for user in ("ann", "bob"):
        await accepted(store, caller.create(user, user_id=user), append(user, said(1)))
    await counted(backend)
    await accepted(store, append("ann", said(10)))
    await backend.erasures.begin_erasure(EVERYONE, "ann", "")
    assert await erasing.erase_one(backend.erasures, DirectWriter(store))
    assert (await total(backend)).input_tokens == 12
    assert inputs(await rows(backend, "user_id"), 0) == {"bob": 1}


async def test_the_answer_says_until_when_everything_is_counted(backend: Backend, caller: Caller) -> None:
    store = backend.store
    await accepted(store, caller.create("s"))
    await counted(backend)
    first = await backend.usage.get_usage(EVERYONE, ALWAYS, after=None, limit=1)
    await backend.advance(5)
    await accepted(store, append("s", said(1)))
    if backend.dsn is not None:
        behind = await backend.usage.get_usage(EVERYONE, ALWAYS, after=None, limit=1)
        await backend.advance(5)
        later = await backend.usage.get_usage(EVERYONE, ALWAYS, after=None, limit=1)
        assert first.as_of_us < behind.as_of_us == later.as_of_us
        assert later.rows == first.rows
    await counted(backend)
    last = await backend.usage.get_usage(EVERYONE, ALWAYS, after=None, limit=1)
    assert last.as_of_us > first.as_of_us
    assert last.rows[0][1].input_tokens == 1


async def test_tokens_beyond_the_largest_number_stay_there(backend: Backend, caller: Caller) -> None:
    if backend.dsn is None:
        pytest.skip("the memory store counts in Python's integers")
    await accepted(backend.store, caller.create("s"), append("s", said(2**53 - 1)))
    await counted(backend)
    connection = await asyncpg.connect(backend.dsn)
    await connection.execute("update usage_counters set input_tokens = 9223372036854775807 where input_tokens > 0")
    await connection.close()
    await accepted(backend.store, append("s", said(5)))
    assert (await total(backend)).input_tokens == 2**63 - 1


async def test_replicas_that_count_at_once_count_once(
    backend: Backend, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while sessions are deleted between their pages."""
    monkeypatch.setattr(postgres_usage, "PAGE", 3)
    other = getattr(backend.other, "usage", backend.counting)
    for number in range(8):
        await accepted(backend.store, caller.create(f"s{number}", user_id="ann"))

    async def write() -> None:
        for number in range(8):
            await accepted(backend.store, append(f"s{number}", said(1), said(10)))
            if number % 2:
                await accepted(backend.store, caller.delete(f"s{number}"))

    async def count() -> None:
        for _ in range(20):
            await backend.counting.count()

    async def count_too() -> None:
        for _ in range(20):
            await other.count()

    await asyncio.gather(write(), count(), count_too())
    figures = await total(backend)
    assert (figures.input_tokens, figures.message_count, figures.session_count) == (88, 16, 8)
    assert await total(backend, user_id="ann") == figures


async def test_only_one_replica_has_the_lease(backend: Backend) -> None:
    if backend.dsn is None:
        pytest.skip("the memory store has no replicas")
    assert await backend.counting.take_lease("a", 100)
    assert await backend.counting.take_lease("a", 100)
    assert not await backend.counting.take_lease("b", 100)
    await backend.advance(101)
    assert await backend.counting.take_lease("b", 100)
