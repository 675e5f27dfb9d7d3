"""Reads as of a place, through a real channel."""

from operator import attrgetter
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode

from sessiond.v1 import context_service_pb2 as x
from sessiond.v1 import message_service_pb2 as m
from sessiond.v1 import run_service_pb2 as r
from sessiond.v1 import session_service_pb2 as s
from sessiond.v1 import tool_call_service_pb2 as t
from sessiond.v1.message_pb2 import Role
from sessiond.v1.run_pb2 import Run, RunStatus
from sessiond.v1.session_pb2 import Session
from sessiond.v1.tool_call_pb2 import ToolCall
from tests.support.rows import table
from tests.support.wire import ALICE, BOB, Wire, said

READS: dict[str, Any] = {
    "GetSession": s.GetSessionRequest,
    "ListMessages": m.ListMessagesRequest,
    "ListRuns": r.ListRunsRequest,
    "ListToolCalls": t.ListToolCallsRequest,
    "GetContext": x.GetContextRequest,
}


async def busy(wire: Wire) -> None:
    """A session with seven events: created, a message, two runs, a tool call, a message, a new name."""
    await wire.create("s")
    await wire.append("s", "one")
    await wire.call("BeginRun", r.BeginRunRequest(session_id="s", run=Run(run_id="r1")))
    await wire.call("BeginRun", r.BeginRunRequest(session_id="s", run=Run(run_id="r2"), policy=2))  # type: ignore[arg-type]
    call = ToolCall(tool_call_id="c", name="search", requires_approval=True)
    await wire.call("RequestToolCall", t.RequestToolCallRequest(session_id="s", tool_call=call))
    await wire.append("s", "two")
    renamed = s.UpdateSessionRequest(session=Session(session_id="s", name="later"))
    renamed.update_mask.paths.append("name")
    await wire.call("UpdateSession", renamed)


async def test_every_read_answers_as_of_a_place_and_a_time(wire: Wire) -> None:
    await wire.create("s")
    steps: list[dict[str, Any]] = []

    async def all_reads(**fields: Any) -> dict[str, Any]:
        return {name: await wire.call(name, request(session_id="s", **fields)) for name, request in READS.items()}

    steps.append(await all_reads())
    for command, request in (
        ("AppendMessages", m.AppendMessagesRequest(session_id="s", messages=[said("one")])),
        ("BeginRun", r.BeginRunRequest(session_id="s", run=Run(run_id="r1"))),
        ("RequestToolCall", t.RequestToolCallRequest(session_id="s", tool_call=ToolCall(tool_call_id="c", name="x"))),
        ("StartToolCall", t.StartToolCallRequest(session_id="s", tool_call_id="c")),
        ("CancelRun", r.CancelRunRequest(session_id="s", run_id="r1")),
        ("AppendMessages", m.AppendMessagesRequest(session_id="s", messages=[said("two")])),
        ("EndSession", s.EndSessionRequest(session_id="s")),
    ):
        await wire.call(command, request)
        steps.append(await all_reads())
    for then in steps:
        then["GetContext"].omitted_message_count = 0
        session = then["GetSession"]
        assert await all_reads(as_of_seq=session.version) == then
        assert await all_reads(as_of_time=session.update_time) == then, "no two writes have one time"
    assert await all_reads(as_of_time=Timestamp(seconds=2**33)) == steps[-1]


async def test_place_or_time_that_is_none_is_refused_by_every_read(wire: Wire) -> None:
    await wire.create("s")
    await wire.append("s", "one")
    early = Timestamp(seconds=1)
    wrong = Timestamp(seconds=1, nanos=-1)
    with table() as rows:
        for fields, violation in (
            ({"as_of_seq": -1}, "as_of_seq: must not be negative"),
            ({"as_of_seq": 3}, "as_of_seq: must be 1 to 2, the session's version"),
            ({"as_of_seq": 2**63 - 1}, "as_of_seq: must be 1 to 2, the session's version"),
            ({"as_of_time": early}, "as_of_time: must not be before the session's first event"),
            ({"as_of_seq": 1, "as_of_time": early}, "as_of_time: excludes as_of_seq: set one of them"),
            ({"as_of_time": wrong}, "as_of_time: "),
        ):
            for name, request in READS.items():
                with rows.row(f"{name} {violation}"):
                    failure = await wire.failure(name, request(session_id="s", **fields))
                    assert (failure.code, failure.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
                    assert failure.text.startswith(violation)
        for name, request in READS.items():
            with rows.row(f"{name} of others"):
                for fields in ({"as_of_seq": 1}, {"as_of_time": early}):
                    failure = await wire.failure(name, request(session_id="none", **fields))
                    assert failure.reason == "SESSION_NOT_FOUND"
                failure = await wire.failure(name, request(session_id="s", as_of_seq=1, min_version=3))
                assert failure.reason == "VERSION_NOT_REACHED"


async def test_pages_are_as_of_one_place_whatever_is_written_meanwhile(wire: Wire) -> None:
    await wire.create("s")
    for number in range(4):
        await wire.append("s", f"{number}")
        await wire.call("BeginRun", r.BeginRunRequest(session_id="s", run=Run(run_id=f"r{number}"), policy=2))  # type: ignore[arg-type]
        call = ToolCall(tool_call_id=f"c{number}", name="search")
        await wire.call("RequestToolCall", t.RequestToolCallRequest(session_id="s", tool_call=call))
    future = Timestamp(seconds=2**33)
    for name, field, ids in (
        ("ListMessages", "messages", attrgetter("message_id")),
        ("ListRuns", "runs", attrgetter("run_id")),
        ("ListToolCalls", "tool_calls", attrgetter("tool_call_id")),
    ):
        for fields in ({"as_of_seq": 10}, {"as_of_time": future}):
            request = READS[name](session_id="s", page_size=1, **fields)
            page = await wire.call(name, request)
            version, found = page.version, [ids(one) for one in getattr(page, field)]
            await wire.append("s", "written meanwhile")
            await wire.call("BeginRun", r.BeginRunRequest(session_id="s", policy=2))  # type: ignore[arg-type]
            while request.page_token != page.next_page_token and page.next_page_token:
                request.page_token = page.next_page_token
                page = await wire.call(name, request)
                assert page.version == version
                found += [ids(one) for one in getattr(page, field)]
            whole = await wire.call(name, READS[name](session_id="s", as_of_seq=version))
            assert found == [ids(one) for one in getattr(whole, field)]
            assert len(found) >= 3
        first = await wire.call(name, READS[name](session_id="s", page_size=1, as_of_seq=10))
        for other in ({}, {"as_of_seq": 11}, {"as_of_time": future}):
            token = {"page_token": first.next_page_token}
            failure = await wire.failure(name, READS[name](session_id="s", page_size=1, **token, **other))
            assert failure.reason == "INVALID_PAGE_TOKEN"


async def test_statuses_and_filters_select_what_was_there(wire: Wire) -> None:
    await busy(wire)
    await wire.call("CancelRun", r.CancelRunRequest(session_id="s", run_id="r1"))
    queued = r.ListRunsRequest(session_id="s", as_of_seq=4, statuses=[RunStatus.RUN_STATUS_QUEUED])
    assert [run.run_id for run in (await wire.call("ListRuns", queued)).runs] == ["r2"]
    said = m.ListMessagesRequest(session_id="s", as_of_seq=4, filter=m.MessageFilter(roles=[Role.ROLE_USER]))
    assert len((await wire.call("ListMessages", said)).messages) == 1
    newest = m.ListMessagesRequest(session_id="s", as_of_seq=6, order_by=2, page_size=1)  # type: ignore[arg-type]
    page = await wire.call("ListMessages", newest)
    assert (page.messages[0].parts[0].text, page.version) == ("two", 6)
    bounded = m.ListMessagesRequest(session_id="s", as_of_seq=6, before_seq=5, after_seq=1)
    assert len((await wire.call("ListMessages", bounded)).messages) == 1


async def test_view_and_owner_hold_as_of_a_place_too(wire: Wire) -> None:
    await wire.call("CreateSession", s.CreateSessionRequest(session=Session(summary="content", status=2)), key=ALICE)  # type: ignore[arg-type]
    session_id = (await wire.call("ListSessions", s.ListSessionsRequest(), key=ALICE)).sessions[0].session_id
    request = s.GetSessionRequest(session_id=session_id, as_of_seq=1)
    assert (await wire.call("GetSession", request, key=ALICE)).summary == "content"
    request.view = 1  # type: ignore[assignment]
    assert not (await wire.call("GetSession", request, key=ALICE)).summary
    for name, read in READS.items():
        failure = await wire.failure(name, read(session_id=session_id, as_of_seq=1), key=BOB)
        assert failure.reason == "SESSION_NOT_FOUND"
