"""Reads as of a place: what was answered when the session was at that version, and what its log folds to."""

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from sessiond.v1.run_pb2 import Run, RunStatus
from sessiond.v1.session_pb2 import Session
from sessiond.v1.tool_call_pb2 import ToolCallStatus
from sessiond_server.domain import commands as c
from sessiond_server.domain.forks.rows import CORES
from sessiond_server.errors import InvalidFields, SessionNotFound
from sessiond_server.postgres import history as postgres_history
from sessiond_server.postgres.attachments import PostgresAttachments
from sessiond_server.store.branches import BranchedCommits
from sessiond_server.store.contract import Store
from tests.support.caller import PADDED, PATCHING, Caller, accepted, message, one, struct, whole_log
from tests.support.past import CALLS, RUNS, Seen, calls_at, folds, now, runs_at, then, without_messages
from tests.support.run_actions import ENQUEUE, INTERRUPT, begin, complete, decide, fail, finish, request
from tests.support.store_backend import Backend, Open
from tests.support.stores import composed

CANCELLED_RUN = RunStatus.RUN_STATUS_CANCELLED


@pytest.fixture
async def patching(open_backend: Open) -> Backend:
    """Patches of contents are short chains, and redactions are spread."""
    backend = await open_backend(policy=PATCHING)
    backend.store = composed(backend.store, BranchedCommits(backend.store, backend.forks), backend.store)
    return backend


async def fence_of(store: Store, caller: Caller, session_id: str) -> c.Fence:
    session = Session.FromString((await store.get_session(caller.scope, session_id, content=False)).core)
    return c.Fence(session.live_run_id, session.live_run_fence)


async def a_life(backend: Backend, caller: Caller, session_id: str) -> dict[int, Seen]:
    """A session in which much happens, and how it was answered after each write."""
    store, seen = backend.store, dict[int, Seen]()

    async def does(action: c.Action | c.Command, *, fenced: bool = False) -> None:
        if not isinstance(action, c.Command):
            fence = await fence_of(store, caller, session_id) if fenced else None
            action = caller.command(session_id, action, fence=fence)
        await accepted(store, action)
        answered = await now(store, backend.work, caller.scope, session_id)
        seen.setdefault(answered.session.version, answered)  # a heartbeat moves the lease only

    preset = [Run(run_id=f"old{n}", status=CANCELLED_RUN) for n in range(2)]
    session = Session(session_id=session_id, type=1, agent_mode=3, status=2, summary=PADDED, state=struct(a=1))  # type: ignore[arg-type]
    await does(c.CreateSession(session, preset))
    await does(begin("r1"))
    for run_id in ("r2", "r3", "r4"):
        await does(begin(run_id, ENQUEUE))
    await does(request("c1", text="one"), fenced=True)
    await does(request("c2", approval=True, text="two"), fenced=True)
    await does(c.CancelRun("r3"))
    await does(decide("c2", approver="somebody"))
    await does(c.StartToolCall("c1"), fenced=True)
    await does(caller.set_keys(session_id, b=2))
    await does(c.StartToolCall("c2"), fenced=True)
    await does(complete("c1", "answer"), fenced=True)
    await does(request("c3", approval=True))
    await does(caller.append(session_id, "x", "y"))
    await does(finish(3), fenced=True)
    await does(request("c4", text="four"), fenced=True)
    await does(decide("c3", approve=False, reason="no"))
    await does(begin("r5", INTERRUPT))
    await does(c.HeartbeatRun(), fenced=True)
    await does(caller.set_keys(session_id, c=3))
    await does(caller.update(session_id, name="another name"))
    await does(request("c5"), fenced=True)
    await does(c.StartToolCall("c5"), fenced=True)
    await does(fail("c5", "broken", "what was left"), fenced=True)
    await does(request("c6", approval=True, text="six"))
    await does(decide("c6"))
    await does(caller.suspend(session_id))
    await does(c.ResumeSession())
    await does(complete("c2", "late"))
    await does(caller.end(session_id))
    return seen


async def test_answers_as_of_a_place_are_those_that_were_given_then(patching: Backend, caller: Caller) -> None:
    seen = await a_life(patching, caller, "s")
    assert len(seen) == 30
    for seq, answered in seen.items():
        assert await then(patching.store, caller.scope, "s", seq) == without_messages(answered), seq
        page = await patching.store.list_messages(
            caller.scope, "s", after_seq=0, before_seq=seq + 1, descending=False, limit=100
        )
        assert len(page.messages) == len(answered.messages)


async def test_answers_as_of_every_place_are_what_the_log_folds_to(patching: Backend, caller: Caller) -> None:
    """Also between the events of one write."""
    await a_life(patching, caller, "s")
    expected = folds(await whole_log(patching.store, caller.scope, "s"))
    for seq, folded in expected.items():
        assert await then(patching.store, caller.scope, "s", seq, page_size=2) == without_messages(folded), seq


async def test_statuses_select_what_had_them_then(patching: Backend, caller: Caller) -> None:
    seen, store = await a_life(patching, caller, "s"), patching.store
    for seq, answered in list(seen.items())[::4]:
        for status in RUNS:
            chosen = [run for run in answered.runs if run.status == status]
            assert await runs_at(store, caller.scope, "s", seq, [status], 1) == chosen
        for status in CALLS:
            calls = [call for call in answered.calls if call.status == status]
            assert await calls_at(store, caller.scope, "s", seq, [status], page_size=1) == calls
        of_run = [call for call in answered.calls if call.run_id == "r1" and call.status in (1, 4)]
        assert await calls_at(store, caller.scope, "s", seq, [1, 4], "r1") == of_run


async def test_fork_answers_as_of_shared_places_as_its_log_folds(patching: Backend, caller: Caller) -> None:
    seen, store = await a_life(patching, caller, "p"), patching.store
    places = sorted(seen)
    await accepted(store, caller.fork("p", "f", seq=places[-6], name="fork"))
    await accepted(store, caller.append("f", "behind"), caller.command("f", begin("own")))
    await accepted(store, caller.fork("f", "g", seq=places[-6] + 3))
    await accepted(store, caller.append("g", "further"), caller.set_keys("g", d=4))
    for name in ("g", "f"):
        expected = folds(await whole_log(store, caller.scope, name))
        for seq, folded in expected.items():
            assert await then(store, caller.scope, name, seq) == without_messages(folded), (name, seq)
        # The parent's events are elsewhere from now on.
        await accepted(store, caller.delete("p" if name == "g" else "g"))


async def test_long_log_folds_from_the_last_core(backend: Backend, caller: Caller) -> None:
    store = backend.store
    await accepted(store, caller.create("s"))
    for _ in range(3):
        await accepted(store, *[caller.append("s", "text") for _ in range(50)])
    expected = folds(await whole_log(store, caller.scope, "s"))
    for seq in (1, 2, CORES - 1, CORES, CORES + 1, 2 * CORES - 1, 2 * CORES, 150, 151):
        _, snapshot = await store.get_session_at(caller.scope, "s", seq, content=False)
        assert Session.FromString(snapshot.core) == expected[seq].session


async def test_places_that_a_session_has_not(backend: Backend, caller: Caller) -> None:
    store, scope = backend.store, caller.scope
    await accepted(store, caller.create("s"), caller.append("s"))
    await accepted(store, caller.delete("s"))
    await accepted(store, caller.create("s", reuse=True), caller.append("s", "anew"))
    version, snapshot = await store.get_session_at(scope, "s", 4, content=True)
    assert (version, Session.FromString(snapshot.core).message_count) == (5, 0)
    for seq in (1, 2, 3, 6, 2**53 - 1):
        for read in (
            store.get_session_at(scope, "s", seq, content=True),
            store.list_runs_at(scope, "s", seq, statuses=RUNS, before=None, limit=1),
            store.list_tool_calls_at(scope, "s", seq, statuses=CALLS, run_id="", before=None, limit=1),
        ):
            with pytest.raises(InvalidFields, match="as_of_seq: must be 4 to 5, the session's version"):
                await read
    for other in (c.Scope("other"), c.Scope("tenant", "somebody")):
        with pytest.raises(SessionNotFound):
            await store.get_session_at(other, "s", 4, content=True)
        with pytest.raises(SessionNotFound):
            await store.list_runs_at(other, "s", 4, statuses=RUNS, before=None, limit=1)
        with pytest.raises(SessionNotFound):
            await store.find_place(other, "s", 2**50)


async def test_redacted_names_and_messages_are_in_no_earlier_answer(patching: Backend, caller: Caller) -> None:
    store, scope = patching.store, caller.scope
    await accepted(store, caller.create("s", name=""))
    await accepted(store, caller.command("s", c.AppendMessages([message("Marker", "m1")])))
    await accepted(store, *[caller.append("s", "text") for _ in range(CORES)])
    await accepted(store, caller.redact("s", "m1"))
    for seq, folded in folds(await whole_log(store, scope, "s")).items():
        _, snapshot = await store.get_session_at(scope, "s", seq, content=True)
        assert b"Marker" not in snapshot.core + snapshot.content
        assert Session.FromString(snapshot.core + snapshot.content) == folded.session


async def test_place_of_a_time_is_the_last_event_at_or_before_it(patching: Backend, caller: Caller) -> None:
    store, scope = patching.store, caller.scope
    await a_life(patching, caller, "p")
    await accepted(store, caller.fork("p", "f", seq=20), caller.append("f", "1", "2"))
    for name in ("p", "f"):
        log = await whole_log(store, scope, name)
        times = [event.create_time.ToMicroseconds() for event in log]
        for time in {*times, *(time + 1 for time in times), times[-1] + 10**9}:
            last = max(event.seq for event, at in zip(log, times, strict=True) if at <= time)
            assert await store.find_place(scope, name, time) == last
        with pytest.raises(InvalidFields, match="as_of_time: must not be before"):
            await store.find_place(scope, name, times[0] - 1)


async def test_lists_with_statuses_look_at_so_many_rows(
    backend: Backend, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their pages are short, and go on; of the memory store they are full."""
    monkeypatch.setattr(postgres_history, "LOOKED_AT", 3)
    store = backend.store
    await accepted(store, caller.create("s"), caller.command("s", begin("r")))
    await accepted(store, *[caller.command("s", request(f"c{n}")) for n in range(10)])
    running = await one(store, caller.command("s", c.StartToolCall("c0")), c.ToolCallWritten)
    await accepted(store, *[caller.command("s", c.CancelToolCall(f"c{n}")) for n in range(10)])
    found = await calls_at(store, caller.scope, "s", running.version, [ToolCallStatus.TOOL_CALL_STATUS_RUNNING])
    assert [call.tool_call_id for call in found] == ["c0"]
    page = await store.list_tool_calls_at(
        caller.scope, "s", running.version, statuses=[ToolCallStatus.TOOL_CALL_STATUS_RUNNING], run_id="", before=None,
        limit=20,
    )  # fmt: skip
    assert (len(page.tool_calls), page.next_seq is None) == ((0, False) if backend.dsn else (1, True))


async def test_log_without_cores_is_folded_from_its_session_events(
    open_backend: Open, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of a version that kept none, or that was imported by one."""
    backend = await open_backend()
    if backend.dsn is None:
        pytest.skip("a server of another version shares no memory store")
    store = backend.store
    await accepted(store, caller.create("s"), *[caller.append("s", "text") for _ in range(200)])
    connection = await asyncpg.connect(backend.dsn)
    try:
        await connection.execute("update events set core = null")
    finally:
        await connection.close()
    expected = folds(await whole_log(store, caller.scope, "s"))
    monkeypatch.setattr(postgres_history, "PAGE_BYTES", 2000)  # several reads
    for seq in (2, 65, 100, 201):
        _, snapshot = await store.get_session_at(caller.scope, "s", seq, content=False)
        assert Session.FromString(snapshot.core) == expected[seq].session
    monkeypatch.setattr(postgres_history, "LOOKED_BACK", 99)
    await store.get_session_at(caller.scope, "s", 100, content=False)
    with pytest.raises(
        InvalidFields, match="as_of_seq: must have an event with the session at most 16384 events before"
    ):
        await store.get_session_at(caller.scope, "s", 101, content=False)


async def test_arguments_and_results_stay_within_a_page(
    backend: Backend, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_history, "PAGE_BYTES", 5_000)
    store = backend.store
    await accepted(
        store, caller.create("s"), *[caller.command("s", request(f"c{n}", text="a" * 2_000)) for n in range(6)]
    )
    page = await store.list_tool_calls_at(caller.scope, "s", 7, statuses=CALLS, run_id="", before=None, limit=6)
    if backend.dsn is not None:
        assert len(page.tool_calls) == 2
    calls = await calls_at(store, caller.scope, "s", 7, CALLS)
    assert [call.arguments.text for call in calls] == ["a" * 2_000] * 6


async def test_reads_as_of_a_place_read_few_rows_of_a_long_log(open_backend: Open, caller: Caller) -> None:
    backend = await open_backend()
    attachments = backend.attachments  # of the store itself, which a cache may wrap
    if not isinstance(attachments, PostgresAttachments):
        pytest.skip("looks at what one database reads")
    store, key = backend.store, ("tenant", "s")
    await accepted(store, caller.create("s"), caller.command("s", begin("r")), caller.command("s", begin("q", ENQUEUE)))
    await accepted(store, caller.command("s", request("c", approval=True)), caller.append("s", *["text"] * 250))
    await accepted(store, caller.command("s", decide("c")))  # those of one batch have one time
    await accepted(store, *[caller.append("s", *["text"] * 250) for _ in range(10)])
    await accepted(store, caller.end("s"))
    version, _ = await store.get_session_at(caller.scope, "s", 2, content=False)
    assert version > 2700
    (ended,) = await calls_at(store, caller.scope, "s", version, CALLS)

    async def rows_read(read: Callable[[Any], Awaitable[object]]) -> int:
        """How many rows of the tables of the log the statements read."""

        async def work(connection: Any) -> int:
            async with connection.transaction():
                await read(connection)
                rows: int = await connection.fetchval(
                    "select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)) from pg_stat_xact_user_tables"
                    " where relname in ('events', 'runs', 'tool_calls')"
                )
                return rows

        rows: int = await transactions.use(work)
        return rows

    transactions = attachments._transactions
    await transactions.use(lambda connection: connection.execute("analyze"))
    for read in (
        lambda one: postgres_history.core_at(one.fetch, key, 2600),
        lambda one: postgres_history.call_places(one.fetch, key, [ended], 2600, sealed=False),
        lambda one: one.fetch(postgres_history.RUNS_AT, *key, "", 2**62, 2600, 100, 10**6),
        lambda one: one.fetch(postgres_history.CALLS_AT, *key, "", 2**62, 2600, 100, 10**6),
        lambda one: one.fetch(postgres_history.PLACE_AT, *key, "", 0, version, 2**50),
    ):
        assert 0 < await rows_read(read) <= 4 * CORES
