"""Many callers at once, through two instances on one database: what Store.apply promises to all of them (G2, G4).

What happens when two transactions meet at a lock, move by move, is in test_postgres_locks.py.
"""

import asyncio

from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.session_pb2 import Session
from sessiond_server.domain import commands as c
from sessiond_server.domain.rows import Policy
from sessiond_server.domain.times import microseconds
from sessiond_server.errors import ApprovalExpired, SessionAlreadyExists, SessionQuotaReached, VersionMismatch
from tests.support.caller import Caller, accepted, struct, texts, whole_log
from tests.support.run_actions import decide, request
from tests.support.store_backend import Backend, Open

CALLERS = 24


async def _at_once(backend: Backend, *commands: c.Command) -> list[c.Result]:
    """Applies each by a call of its own, alternating between the instances."""
    stores = (backend.store, backend.other)
    calls = (stores[i % 2].apply([command]) for i, command in enumerate(commands))
    return [result for applied in await asyncio.gather(*calls) for result in applied.results]


async def test_raced_appends_are_gapless(backend: Backend, caller: Caller) -> None:
    """Mutant: no row lock."""
    await accepted(backend.store, caller.create("s"))
    results = await _at_once(backend, *(caller.append("s", f"{i}a", f"{i}b") for i in range(CALLERS)))
    assert sorted(r.first_seq for r in results if isinstance(r, c.MessagesAppended)) == [
        2 + 2 * i for i in range(CALLERS)
    ]
    assert len(await whole_log(backend.store, caller.scope, "s")) == 1 + 2 * CALLERS
    page = await backend.store.list_messages(caller.scope, "s", after_seq=0, before_seq=0, descending=False, limit=1000)
    said = texts(page.messages)
    assert all(said[i][:-1] == said[i + 1][:-1] and said[i][-1] == "a" for i in range(0, len(said), 2))
    core = await backend.store.get_session(caller.scope, "s", content=False)
    assert Session.FromString(core.core).message_count == 2 * CALLERS


async def test_raced_creations_have_one_winner(backend: Backend, caller: Caller) -> None:
    for name in ("a", "b", "c"):
        results = await _at_once(backend, *(caller.create(name, agent_id=f"agent {i}") for i in range(CALLERS)))
        won = [result for result in results if isinstance(result, c.SessionWritten)]
        assert len(won) == 1
        assert sum(isinstance(result, SessionAlreadyExists) for result in results) == CALLERS - 1
        assert await backend.other.get_session(caller.scope, name, content=True) == won[0].session


async def test_raced_retries_of_a_creation_get_one_outcome(backend: Backend, caller: Caller) -> None:
    for name in ("a", "b", "c"):
        create = caller.create(name, "r", state=struct(a=1))
        results = await _at_once(backend, *[create] * CALLERS)
        assert isinstance(results[0], c.SessionWritten)
        assert results == [results[0]] * CALLERS
        assert len(await whole_log(backend.store, caller.scope, name)) == 1


async def test_raced_retries_of_an_append_get_one_outcome(backend: Backend, caller: Caller) -> None:
    """Mutant: no second statement after the lock."""
    await accepted(backend.store, caller.create("s"))
    for i in range(5):
        append = caller.append("s", "one", "two", request_id=f"r{i}")
        results = await _at_once(backend, *[append] * CALLERS)
        assert isinstance(results[0], c.MessagesAppended)
        assert results == [results[0]] * CALLERS
    assert len(await whole_log(backend.store, caller.scope, "s")) == 11


async def test_raced_conditional_writes_have_one_winner(backend: Backend, caller: Caller) -> None:
    """Defect 12 of the predecessors: lost updates."""
    await accepted(backend.store, caller.create("s"))
    results = await _at_once(
        backend,
        *(caller.append("s", f"{i}", expected_version=1) for i in range(CALLERS)),
    )
    assert sum(isinstance(result, c.MessagesAppended) for result in results) == 1
    assert sum(isinstance(result, VersionMismatch) for result in results) == CALLERS - 1


async def test_raced_merges_lose_nothing(backend: Backend, caller: Caller) -> None:
    """Defect 12 of the predecessors: lost updates of metadata."""
    await accepted(backend.store, caller.create("s", metadata=struct(kept=True)))
    await _at_once(backend, *(caller.update("s", merge=True, metadata=struct(**{f"k{i}": i})) for i in range(CALLERS)))
    stored = await backend.store.get_session(caller.scope, "s", content=True)
    merged = Session.FromString(stored.core + stored.content).metadata
    assert merged == struct(kept=True, **{f"k{i}": i for i in range(CALLERS)})


async def test_raced_batches_over_the_same_sessions_do_not_block_each_other_for_ever(
    backend: Backend, caller: Caller
) -> None:
    """Each batch names the sessions in another order; locks are taken in one."""
    names = [f"s{i}" for i in range(8)]
    await accepted(backend.store, *(caller.create(name) for name in names[:4]))
    stores = (backend.store, backend.other)

    def batch(i: int) -> list[c.Command]:
        order = names[i % 8 :] + names[: i % 8]
        if i % 2:
            order.reverse()
        return [
            command
            for name in order
            for command in (caller.create(name, f"create {name}"), caller.append(name, f"{i}", request_id=f"a{i}"))
        ]

    await asyncio.gather(*(stores[i % 2].apply(batch(i)) for i in range(CALLERS)))
    for name in names:
        events = await whole_log(backend.store, caller.scope, name)
        assert sorted(e.message.parts[0].text for e in events[1:]) == sorted(f"{i}" for i in range(CALLERS))


async def test_raced_creations_obey_the_quota(open_backend: Open, caller: Caller) -> None:
    backend = await open_backend(policy=Policy(max_live_sessions=5))
    results = await _at_once(backend, *(caller.create(f"s{i}") for i in range(CALLERS)))
    assert sum(isinstance(result, c.SessionWritten) for result in results) == 5
    assert sum(isinstance(result, SessionQuotaReached) for result in results) == CALLERS - 5


async def test_raced_creations_of_one_id_under_a_quota(open_backend: Open, caller: Caller) -> None:
    backend = await open_backend(policy=Policy(max_live_sessions=1000))
    create = caller.create("shared", "r")
    stores = (backend.store, backend.other)
    await asyncio.gather(
        *(
            stores[i % 2].apply([create, caller.append("shared", request_id=f"a{i}"), caller.create(f"own{i}")])
            for i in range(CALLERS)
        )
    )
    assert len(await whole_log(backend.store, caller.scope, "shared")) == 1 + CALLERS


async def test_raced_deletions_and_appends(backend: Backend, caller: Caller) -> None:
    await accepted(backend.store, caller.create("s"))
    commands = [caller.append("s") for _ in range(CALLERS)]
    commands.insert(CALLERS // 2, caller.delete("s", "bye"))
    results = await _at_once(backend, *commands)
    appended = [result for result in results if isinstance(result, c.MessagesAppended)]
    (deleted,) = [result for result in results if isinstance(result, c.SessionDeleted)]
    assert deleted.version == 2 + len(appended)


async def test_replicas_share_the_key_of_tokens(backend: Backend) -> None:
    assert await backend.store.token_key() == await backend.other.token_key()


async def test_a_write_through_one_replica_is_read_through_the_other(backend: Backend, caller: Caller) -> None:
    for i in range(10):
        await accepted(backend.store, caller.create(f"s{i}"))
        assert (await backend.other.get_session(caller.scope, f"s{i}", content=False)).version == 1


DECIDED = (EventType.EVENT_TYPE_TOOL_CALL_APPROVED, EventType.EVENT_TYPE_TOOL_CALL_EXPIRED)


async def _decided(backend: Backend, caller: Caller, session_id: str) -> list[Event]:
    events = await whole_log(backend.store, caller.scope, session_id)
    return [event for event in events if event.type in DECIDED]


async def test_late_approvals_and_sweepers_end_each_call_once(backend: Backend, caller: Caller) -> None:
    names = [f"s{number}" for number in range(CALLERS)]
    await accepted(backend.store, *(caller.create(name) for name in names))
    await accepted(backend.store, *(caller.command(name, request("t", approval=True, ttl=60)) for name in names))
    await backend.advance(60)
    sweeps = asyncio.gather(*(one.expire_due(CALLERS) for one in (backend.store, backend.other) * 2))
    results = await _at_once(backend, *(caller.command(name, decide("t")) for name in names * 2))
    await sweeps
    assert [type(result) for result in results] == [ApprovalExpired] * 2 * CALLERS
    for name in names:
        assert [event.type for event in await _decided(backend, caller, name)] == [DECIDED[1]]


async def test_approval_at_the_moment_of_the_expiry_is_taken_or_comes_late(backend: Backend, caller: Caller) -> None:
    """The clock passes the times of the calls, 2 s apart, while they are approved and swept."""
    await accepted(backend.store, caller.create("s"))
    calls = [request(f"t{number}", approval=True, ttl=60 + 2 * number) for number in range(CALLERS)]
    await accepted(backend.store, *(caller.command("s", call) for call in calls))
    await backend.advance(59)
    approved = set()
    for number, call in enumerate(calls):
        store, other = (backend.store, backend.other)[:: 1 if number % 2 else -1]
        approval = store.apply([caller.command("s", decide(call.call.tool_call_id))])
        (applied, *_) = await asyncio.gather(approval, backend.advance(2), other.expire_due(9), store.expire_due(9))
        (result,) = applied.results
        if isinstance(result, c.ToolCallWritten):
            approved.add(call.call.tool_call_id)
        else:
            assert isinstance(result, ApprovalExpired)
            assert result.metadata["tool_call_id"] == call.call.tool_call_id
    events = await _decided(backend, caller, "s")
    assert sorted(event.tool_call.tool_call_id for event in events) == sorted(call.call.tool_call_id for call in calls)
    for event in events:
        before = microseconds(event.create_time) < microseconds(event.tool_call.expire_time)
        assert before is (event.type == DECIDED[0]) is (event.tool_call.tool_call_id in approved)
