"""Runs in a store: read back as written, swept when their lease is over, gone with their session."""

import asyncio

import asyncpg
import pytest

from sessiond.v1.run_pb2 import Run, RunEndReason, RunStatus
from sessiond.v1.session_pb2 import Session, TokenUsage
from sessiond_server.domain import commands as c
from sessiond_server.domain.runs.counters import RunCounters
from sessiond_server.errors import RunAlreadyExists, RunFenced, RunInProgress, RunNotFound, SessionNotFound
from sessiond_server.store.contract import Store
from sessiond_server.store.session_reads import CACHED, Freshness
from sessiond_server.store.work import RunsPage
from tests.support.caller import Caller, accepted, message, one, refused, session, struct, texts, whole_log
from tests.support.run_actions import ENQUEUE, INTERRUPT, LEASE, begin, complete, finish, kinds, request, status_of
from tests.support.session_log import REPLACE
from tests.support.store_backend import Backend

ALL = tuple(RunStatus.values())[1:]


async def begun(store: Store, caller: Caller, run_id: str = "r1", session_id: str = "s") -> c.Fence:
    outcome = await one(store, caller.command(session_id, begin(run_id)), c.RunWritten)
    return c.Fence(run_id, Run.FromString(outcome.run).fence)


async def run_of(backend: Backend, caller: Caller, run_id: str, session_id: str = "s") -> Run:
    return Run.FromString((await backend.work.get_run(caller.scope, session_id, run_id))[1])


async def core_of(store: Store, caller: Caller, session_id: str = "s") -> Session:
    return Session.FromString((await store.get_session(caller.scope, session_id, content=False)).core)


def ids(page: RunsPage) -> list[str]:
    return [Run.FromString(run).run_id for run in page.runs]


async def test_a_run_is_read_as_it_was_written(backend: Backend, caller: Caller) -> None:
    store = backend.store
    await accepted(store, caller.create("s"))
    first = await one(store, caller.command("s", begin("r1")), c.RunWritten)
    assert await backend.work.get_run(caller.scope, "s", "r1") == (2, first.run)
    run = Run.FromString(first.run)
    await accepted(store, caller.command("s", c.AppendMessages([message()]), fence=c.Fence("r1", run.fence)))
    last = await one(store, caller.command("s", finish(3), fence=c.Fence("r1", run.fence)), c.RunWritten)
    assert await backend.work.get_run(caller.scope, "s", "r1") == (4, last.run)
    core = await core_of(store, caller)
    assert (core.live_run_id, core.run_count, core.usage.total_tokens) == ("", 1, 6)
    with pytest.raises(RunNotFound):
        await backend.work.get_run(caller.scope, "s", "r2")


async def test_ids_are_taken_for_ever(backend: Backend, caller: Caller) -> None:
    store = backend.store
    await accepted(store, caller.create("s"), caller.create("t"))
    fence = await begun(store, caller)
    await refused(store, caller.command("s", begin("r1", ENQUEUE)), RunAlreadyExists)
    await accepted(store, caller.command("s", finish(), fence=fence))
    await refused(store, caller.command("s", begin("r1")), RunAlreadyExists)
    await begun(store, caller, "r1", "t")


async def test_queued_runs_are_known_to_every_instance(backend: Backend, caller: Caller) -> None:
    """Each step goes through another instance, which shares only the database."""
    await accepted(backend.store, caller.create("s"))
    fence = await begun(backend.store, caller)
    for run_id in ("r2", "r3"):
        await accepted(backend.other, caller.command("s", begin(run_id, ENQUEUE)))
    await accepted(backend.store, caller.command("s", c.CancelRun("r2")))
    await accepted(backend.other, caller.command("s", finish(), fence=fence))
    assert (await core_of(backend.store, caller)).live_run_id == "r3"
    await accepted(backend.store, caller.command("s", begin("r4", INTERRUPT)))
    assert [status_of(await run_of(backend, caller, f"r{n}")) for n in (1, 2, 3, 4)] == [
        "COMPLETED",
        "CANCELLED",
        "CANCELLED",
        "RUNNING",
    ]


async def test_a_heartbeat_moves_the_lease_and_nothing_else(backend: Backend, caller: Caller) -> None:
    store = backend.store
    await accepted(store, caller.create("s"))
    fence = await begun(store, caller)
    before = await store.get_session(caller.scope, "s", content=False)
    await backend.advance(LEASE - 5)
    beat = caller.command("s", c.HeartbeatRun(), fence=fence)
    extended = await one(store, beat, c.LeaseExtended)
    assert extended.lease_us == LEASE * 1_000_000
    run = await run_of(backend, caller, "r1")
    assert run.lease_expire_time.ToMicroseconds() == extended.lease_expire_time_us
    assert Run.FromString((await _all(backend, caller)).runs[0]) == run
    assert await store.get_session(caller.scope, "s", content=False) == before
    await backend.advance(LEASE - 5)
    assert not (await backend.other.expire_due(10)).heads
    await accepted(backend.other, caller.command("s", c.AppendMessages([message()]), fence=fence))
    await backend.advance(6)
    await refused(backend.other, beat, RunFenced)


async def _all(backend: Backend, caller: Caller, session_id: str = "s") -> RunsPage:
    return await backend.work.list_runs(caller.scope, session_id, statuses=ALL, before=None, limit=100)


async def test_a_lease_that_ran_out_is_swept(backend: Backend, caller: Caller) -> None:
    store = backend.store
    await accepted(store, caller.create("s"), caller.create("idle"))
    fence = await begun(store, caller)
    await accepted(
        store,
        caller.command("s", request("t1"), fence=fence),
        caller.command("s", c.StartToolCall("t1"), fence=fence),
        caller.command("s", begin("r2", ENQUEUE)),
    )
    assert not (await store.expire_due(10)).heads
    await backend.advance(LEASE + 1)
    await refused(store, caller.append("s", fence=fence), RunFenced)
    writes = await store.expire_due(10)
    assert [head.key[1] for head in writes.heads] == ["s"]
    log = await whole_log(store, caller.scope, "s")
    assert kinds(log)[-3:] == ["TOOL_CALL_CANCELLED", "RUN_FAILED", "RUN_STARTED"]
    assert {event.actor for event in log[-3:]} == {"sessiond"}
    assert (await run_of(backend, caller, "r1")).end_reason == RunEndReason.RUN_END_REASON_LEASE_EXPIRED
    core = await core_of(store, caller)
    assert (core.live_run_id, core.open_tool_call_count, core.queued_run_count) == ("r2", 0, 0)
    assert not (await store.expire_due(10)).heads
    await backend.advance(LEASE + 1)
    assert len((await store.expire_due(10)).heads) == 1
    assert (await core_of(store, caller)).live_run_id == ""
    await backend.advance(LEASE + 1)
    assert not (await store.expire_due(10)).heads


async def test_a_lease_that_a_clock_which_went_back_had_made_is_swept(backend: Backend, caller: Caller) -> None:
    """An hour back, as after a failover; the next heartbeat makes the lease what it should be."""
    await accepted(backend.store, caller.create("s"))
    fence = await begun(backend.store, caller)
    await backend.advance(-3600)
    await accepted(backend.store, caller.command("s", c.HeartbeatRun(), fence=fence))
    assert not (await backend.store.expire_due(10)).heads
    await backend.advance(LEASE + 1)
    await refused(backend.other, caller.append("s", fence=fence), RunFenced)
    assert len((await backend.store.expire_due(10)).heads) == 1
    assert (await core_of(backend.store, caller)).live_run_id == ""


async def test_sweepers_of_two_replicas_end_each_run_once(backend: Backend, caller: Caller) -> None:
    names = [f"s{n}" for n in range(30)]
    await accepted(backend.store, *(caller.create(name) for name in names))
    await accepted(backend.store, *(caller.command(name, begin("r1")) for name in names))
    await backend.advance(LEASE + 1)
    swept = await asyncio.gather(*(store.expire_due(7) for store in (backend.store, backend.other) * 3))
    ended = [head.key[1] for writes in swept for head in writes.heads]
    assert len(ended) == len(set(ended)) > 0
    while more := (await backend.store.expire_due(7)).heads:
        ended += [head.key[1] for head in more]
    assert sorted(ended) == sorted(names)
    for name in names:
        assert kinds(await whole_log(backend.store, caller.scope, name)) == [
            "SESSION_CREATED",
            "RUN_STARTED",
            "RUN_FAILED",
        ]


async def test_a_session_that_lives_for_ever_has_leases_too(backend: Backend, caller: Caller) -> None:
    store = backend.store
    await accepted(
        store, caller.create("s"), caller.command("s", c.UpdateSession(Session(), ["ttl", "expire_time"], REPLACE))
    )
    await begun(store, caller)
    await accepted(store, caller.append("s"))
    await backend.advance(LEASE + 1)
    assert len((await store.expire_due(10)).heads) == 1


async def test_lists_are_newest_first_by_status_page_by_page(backend: Backend, caller: Caller) -> None:
    store, work = backend.store, backend.work
    await accepted(store, caller.create("s"), caller.create("empty"))
    for n in range(1, 6):
        fence = await begun(store, caller, f"r{n}")
        await accepted(store, caller.command("s", finish(failed="x" if n % 2 else ""), fence=fence))
    await begun(store, caller, "r6")
    await accepted(store, caller.command("s", begin("r7", ENQUEUE)))
    assert ids(await _all(backend, caller)) == ["r7", "r6", "r5", "r4", "r3", "r2", "r1"]

    seen, before = [], None
    while True:
        page = await work.list_runs(caller.scope, "s", statuses=ALL, before=before, limit=3)
        seen += ids(page)
        assert page.version == 13
        if (before := page.next_place) is None:
            break
    assert seen == ["r7", "r6", "r5", "r4", "r3", "r2", "r1"]

    failed = [RunStatus.RUN_STATUS_FAILED]
    page = await work.list_runs(caller.scope, "s", statuses=failed, before=None, limit=2)
    assert ids(page) == ["r5", "r3"]
    page = await work.list_runs(caller.scope, "s", statuses=failed, before=page.next_place, limit=2)
    assert (ids(page), page.next_place) == (["r1"], None)
    assert (await _all(backend, caller, "empty")) == RunsPage(1, [], None)
    with pytest.raises(SessionNotFound):
        await _all(backend, caller, "none")


async def test_metrics_come_from_counters(backend: Backend, caller: Caller) -> None:
    store = backend.store
    await accepted(store, caller.create("s"))
    assert (await backend.work.get_metrics(caller.scope, "s"))[1] == b""
    fence = await begun(store, caller, "r1")
    await backend.advance(10)
    await accepted(store, caller.command("s", finish(), fence=fence))
    # In one batch with the next run's end, and once more through an instance that must read them.
    await accepted(store, caller.command("s", begin("r2")), caller.command("s", c.CancelRun("r2")))
    await begun(backend.other, caller, "r3")
    await accepted(backend.other, caller.end("s"))
    snapshot, data = await backend.work.get_metrics(caller.scope, "s")
    assert snapshot == await store.get_session(caller.scope, "s", content=False)
    counters = RunCounters.decoded(data)
    assert (counters.completed, counters.failed, counters.cancelled, counters.timed) == (1, 0, 2, 3)
    assert 10_000_000 <= counters.total_us < 11_000_000


async def test_a_session_is_created_with_its_history(backend: Backend, caller: Caller) -> None:
    runs = [
        Run(run_id=f"old{n}", status=RunStatus.RUN_STATUS_COMPLETED, usage=TokenUsage(input_tokens=n)) for n in range(5)
    ]
    create = caller.command("s", c.CreateSession(session(session_id="s"), runs), "r")
    first = await accepted(backend.store, create)
    assert await accepted(backend.other, create) == first
    await begun(backend.store, caller, "new")
    page = await backend.work.list_runs(caller.scope, "s", statuses=ALL, before=None, limit=4)
    assert ids(page) == ["new", "old4", "old3", "old2"]
    page = await backend.work.list_runs(caller.scope, "s", statuses=ALL, before=page.next_place, limit=4)
    assert (ids(page), page.next_place) == (["old1", "old0"], None)
    core = await core_of(backend.store, caller)
    assert (core.run_count, core.usage.input_tokens) == (6, 10)
    await refused(backend.store, caller.command("s", begin("old3", ENQUEUE)), RunAlreadyExists)


async def test_deleting_a_session_removes_its_runs(backend: Backend, caller: Caller) -> None:
    store = backend.store
    await accepted(store, caller.create("s"), caller.create("t"))
    for name in ("s", "t"):
        fence = await begun(store, caller, "r1", name)
        await accepted(store, caller.command(name, request("t1", approval=True)))
        await accepted(store, caller.command(name, finish(), fence=fence))
    await accepted(store, caller.delete("s"))
    with pytest.raises(SessionNotFound):
        await backend.work.get_run(caller.scope, "s", "r1")
    await run_of(backend, caller, "r1", "t")
    if backend.dsn is not None:
        connection = await asyncpg.connect(backend.dsn)
        for table in ("runs", "tool_calls", "run_figures"):
            assert await connection.fetchval(f"select array_agg(session_id) from {table}") == ["t"]
        await connection.close()


@pytest.mark.parametrize("scope", [c.Scope("other"), c.Scope("tenant", "bob")], ids=str)
async def test_runs_are_not_found_for_others(backend: Backend, scope: c.Scope) -> None:
    alice, stranger = Caller(c.Scope("tenant", "alice")), Caller(scope)
    await accepted(backend.store, alice.create("s", user_id="alice"))
    fence = await begun(backend.store, alice)
    work = backend.work
    for read in (
        work.get_run(scope, "s", "r1"),
        work.list_runs(scope, "s", statuses=ALL, before=None, limit=1),
        work.get_metrics(scope, "s"),
    ):
        with pytest.raises(SessionNotFound):
            await read
    for action in (begin("r2", ENQUEUE), c.HeartbeatRun(), finish(), c.CancelRun("r1")):
        await refused(backend.store, stranger.command("s", action, fence=fence), SessionNotFound)
    assert status_of(await run_of(backend, alice, "r1")) == "RUNNING"


async def test_one_of_two_racing_begins_wins(backend: Backend, caller: Caller) -> None:
    await accepted(backend.store, caller.create("s"))
    applied = await asyncio.gather(
        *(
            store.apply([caller.command("s", begin(f"r{n}-{m}"))])
            for n in range(5)
            for m, store in enumerate((backend.store, backend.other))
        )
    )
    results = [type(result) for a in applied for result in a.results]
    assert sorted(kind.__name__ for kind in results) == ["RunInProgress"] * 9 + ["RunWritten"]
    assert RunInProgress in results
    assert len(await whole_log(backend.store, caller.scope, "s")) == 2


async def test_a_refused_command_and_an_overdue_lease(backend: Backend, caller: Caller) -> None:
    """What the sweeper would have done is committed, whatever becomes of the command that did it."""
    store = backend.store
    await accepted(store, caller.create("s"))
    await begun(store, caller)
    await accepted(store, caller.command("s", begin("r2", ENQUEUE)))
    await backend.advance(LEASE + 1)
    await refused(store, caller.command("s", begin("r3")), RunInProgress)
    assert kinds(await whole_log(store, caller.scope, "s"))[-2:] == ["RUN_FAILED", "RUN_STARTED"]
    assert (await core_of(store, caller)).live_run_id == "r2"


async def test_runs_do_not_rewrite_content_or_messages(backend: Backend, caller: Caller) -> None:
    """Arguments and results lie where the session's content lies in its events; copies must not take them for it."""
    store = backend.store
    create = caller.create("s", state=struct(a=1), summary="so far")
    await accepted(store, create, caller.append("s", "one"), caller.command("s", begin("r1")))
    fence = c.Fence("r1", 3)
    await accepted(
        store,
        caller.command("s", request("t1", text="arguments"), fence=fence),
        caller.append("s", "two", fence=fence),
        caller.command("s", c.StartToolCall("t1"), fence=fence),
        caller.command("s", complete("t1", "result"), fence=fence),
    )
    await accepted(store, caller.append("s", "three"))
    for reader in (store, backend.other):
        for freshness in (CACHED, Freshness(strong=True)):
            snapshot = await reader.get_session(caller.scope, "s", content=True, freshness=freshness)
            session = Session.FromString(snapshot.core + snapshot.content)
            assert (session.version, session.content_version, session.summary) == (8, 1, "so far")
            assert session.state == struct(a=1)
            page = await reader.list_messages(
                caller.scope, "s", after_seq=0, before_seq=0, descending=True, limit=10, freshness=freshness
            )
            assert texts(page.messages) == ["three", "two", "one"]
            assert (page.version, page.more) == (8, False)
