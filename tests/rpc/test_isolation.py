"""Defect 11: what belongs to another tenant or user does not exist, to the letter of every answer."""

import base64
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.message import Message as ProtoMessage
from grpc import StatusCode

from sessiond.v1 import event_service_pb2 as e
from sessiond.v1 import session_service_pb2 as s
from sessiond.v1 import tool_call_service_pb2 as t
from sessiond.v1.error_pb2 import ErrorReason
from sessiond.v1.session_pb2 import Session
from tests.support.requests_by_session import named, use
from tests.support.wire import ALICE, BOB, OTHER_TENANT, RPCS, TENANT, Failure, Wire

NAMELESS = {
    "CreateSession",
    "BatchCreateSessions",
    "ListSessions",
    "CountSessions",
    "EraseUser",
    "GetErasure",
    "GetUsage",
    "PlaceHold",
    "LiftHold",
    "ListHolds",
    "ListErasures",
    "VerifyErasureReport",
    "SetRetentionPolicy",
    "GetRetentionPolicy",
    "GetTemplate",
    "PutTemplate",
    "ListTemplates",
    "DeleteTemplate",
    "WatchEvents",
    "ListPendingApprovals",
    "ImportSession",
}


def test_every_rpc_has_an_isolation_case() -> None:
    assert named("x").keys() | NAMELESS == RPCS.keys()


@pytest.fixture
async def shared(wire: Wire) -> Wire:
    """`bobs` is bob's, used with every trace that could betray it; `gone` was bob's."""
    await use(wire)
    return wire


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def untouched(common_wire: Wire) -> Wire:
    """The same, for tests that leave it as it was."""
    await use(common_wire)
    return common_wire


async def outcome(wire: Wire, rpc: str, request: ProtoMessage, key: str) -> Any:
    """All that the caller sees, without what differs between any two calls."""
    try:
        answer = await wire.call(rpc, request, key=key)
    except Failure as failure:
        trailers = sorted(failure.trailers)
        kinds = [type(detail).__name__ for detail in failure.details]
        return (failure.code, failure.text, failure.reason, failure.metadata, failure.violations, trailers, kinds)
    return answer


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("key", [ALICE, OTHER_TENANT])
@pytest.mark.parametrize("rpc", named("x"))
async def test_session_of_another_tenant_or_user_is_not_found(untouched: Wire, rpc: str, key: str) -> None:
    before = await untouched.call("GetSession", s.GetSessionRequest(session_id="bobs"), key=BOB)
    foreign = await outcome(untouched, rpc, named("bobs")[rpc], key)
    for other in ("none", "gone"):
        unknown = await outcome(untouched, rpc, named(other)[rpc], key)
        assert str(unknown).replace(other, "bobs") == str(foreign)
    if rpc == "GetDocument":
        document = {"scope": "SESSION", "scope_id": "bobs", "key": "d1"}
        assert foreign[:4] == (StatusCode.NOT_FOUND, "document not found", "DOCUMENT_NOT_FOUND", document)
    elif isinstance(foreign, tuple):
        assert foreign[:4] == (StatusCode.NOT_FOUND, "session not found", "SESSION_NOT_FOUND", {"session_id": "bobs"})
    elif rpc == "BatchUpdateSessions":
        (result,) = foreign.results
        assert result.error.reason == ErrorReason.ERROR_REASON_SESSION_NOT_FOUND
        assert (result.error.message, result.error.metadata) == ("session not found", {"session_id": "bobs"})
    elif rpc == "BatchGetDocuments":
        assert [name.scope_id for name in foreign.not_found] == ["bobs"]
    else:
        assert foreign.not_found == ["bobs"]
    assert await untouched.call("GetSession", s.GetSessionRequest(session_id="bobs"), key=BOB) == before


async def test_key_of_the_tenant_reads_every_users_session(shared: Wire) -> None:
    answer = await shared.call("GetSession", s.GetSessionRequest(session_id="bobs"), key=TENANT)
    assert answer.name == "secret"


@pytest.mark.parametrize("key", [ALICE, OTHER_TENANT])
async def test_inbox_omits_sessions_of_others(shared: Wire, key: str) -> None:
    for user_id in ("", "bob"):
        request = t.ListPendingApprovalsRequest(user_id=user_id)
        assert not (await shared.call("ListPendingApprovals", request, key=key)).tool_calls
    for owner in (BOB, TENANT):
        found = await shared.call("ListPendingApprovals", t.ListPendingApprovalsRequest(), key=owner)
        assert [call.session_id for call in found.tool_calls] == ["bobs"]


@pytest.mark.parametrize("key", [ALICE, OTHER_TENANT])
async def test_lists_and_counts_omit_sessions_of_others(shared: Wire, key: str) -> None:
    await shared.create("alice~own", key=key)
    everything = s.SessionFilter(name_contains="")
    listed = await shared.call("ListSessions", s.ListSessionsRequest(filter=everything), key=key)
    assert [x.session_id for x in listed.sessions] == ["alice~own"]
    assert (await shared.call("CountSessions", s.CountSessionsRequest(filter=everything), key=key)).count == 1
    bobs = s.SessionFilter(user_id="bob")
    assert (await shared.call("CountSessions", s.CountSessionsRequest(filter=bobs), key=key)).count == 0


@pytest.mark.parametrize("key", [ALICE, OTHER_TENANT])
async def test_session_of_another_user_cannot_be_watched_from_its_beginning(shared: Wire, key: str) -> None:
    for session_id in ("bobs", "none", "gone"):
        request = e.WatchSessionRequest(session_id=session_id, from_beginning=True)
        failure = await shared.failure("WatchSession", request, key=key)
        assert (failure.reason, failure.metadata) == ("SESSION_NOT_FOUND", {"session_id": session_id})


@pytest.mark.parametrize("key", [ALICE, OTHER_TENANT])
async def test_position_of_the_owner_is_refused_for_others(shared: Wire, key: str) -> None:
    for owner in (BOB, TENANT):
        page = await shared.call("ListEvents", e.ListEventsRequest(session_id="bobs"), key=owner)
        for rpc, request in (
            ("ListEvents", e.ListEventsRequest(session_id="bobs", position=page.position)),
            ("WatchSession", e.WatchSessionRequest(session_id="bobs", position=page.position)),
        ):
            failure = await shared.failure(rpc, request, key=key)
            assert (failure.code, failure.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_POSITION")


@pytest.mark.parametrize("key", [ALICE, OTHER_TENANT])
async def test_feeds_omit_sessions_of_others(shared: Wire, key: str) -> None:
    await shared.create("alice~own", key=key)
    for where in (e.FeedFilter(), e.FeedFilter(session_ids=["bobs", "gone", "alice~own"])):
        request = e.WatchEventsRequest(start=e.FeedStart.FEED_START_BEGINNING, filter=where)
        watch = shared.watch("WatchEvents", request, key=key)
        assert (await watch.read()).HasField("resumed")
        assert [event.session_id for event in (await watch.read()).events.events] == ["alice~own"]
        watch.cancel()
    bobs = shared.watch("WatchEvents", e.WatchEventsRequest(start=e.FeedStart.FEED_START_BEGINNING), key=BOB)
    assert (await bobs.read()).HasField("resumed")
    seen = [(event.session_id, event.seq) for event in (await bobs.read()).events.events]
    assert seen == [*(("bobs", seq) for seq in range(1, 8)), ("gone", 7)]


async def test_feed_position_reveals_no_session_ids(shared: Wire) -> None:
    """The positions belong to the tenant's feed and hold anchors in sessions of all users."""
    positions = []
    for start in (e.FeedStart.FEED_START_NOW, e.FeedStart.FEED_START_BEGINNING):
        watch = shared.watch("WatchEvents", e.WatchEventsRequest(start=start), key=ALICE)
        positions.append((await watch.read()).resumed.position)
        await shared.create(f"alice~own{start}", key=ALICE)
        positions.append((await watch.read()).events.position)
        watch.cancel()
    for position in positions:
        said = base64.urlsafe_b64decode(position + "=" * (-len(position) % 4))
        for name in (b"bobs", b"gone", b"own"):
            assert name not in said


async def test_a_bound_key_learns_of_no_id_but_its_users_own(shared: Wire) -> None:
    """Neither by an answer nor by taking an id that another user was going to choose."""
    refusals = []
    for session_id in ("bobs", "none", "gone", "bob~x", "alice", "~alice~x", "Alice~x"):
        request = s.CreateSessionRequest(session=Session(session_id=session_id))
        failure = await shared.failure("CreateSession", request, key=ALICE)
        refusals.append((failure.code, failure.reason, failure.text, failure.violations, failure.metadata))
    rule = {"session.session_id": "must begin with alice~ as the key is bound to a user"}
    assert [refusal[3] for refusal in refusals] == [rule] * len(refusals)
    assert len({str(refusal) for refusal in refusals}) == 1
    await shared.create("alice~x", key=ALICE)
    failure = await shared.failure(
        "CreateSession", s.CreateSessionRequest(session=Session(session_id="alice~x")), key=ALICE
    )
    assert (failure.code, failure.metadata) == (StatusCode.ALREADY_EXISTS, {"session_id": "alice~x"})


async def test_key_of_the_tenant_gets_already_exists_for_a_taken_id(shared: Wire) -> None:
    for session_id in ("bobs", "gone"):
        request = s.CreateSessionRequest(session=Session(session_id=session_id))
        failure = await shared.failure("CreateSession", request)
        assert (failure.code, failure.text) == (StatusCode.ALREADY_EXISTS, "session already exists")


async def test_tenants_may_use_the_same_session_id(shared: Wire) -> None:
    created = await shared.create("bobs", key=OTHER_TENANT)
    assert created.version == 1


async def test_equal_request_ids_of_two_callers_make_two_sessions(wire: Wire) -> None:
    request = s.CreateSessionRequest(session=Session(), request_id="r-1")
    made = {
        (await wire.call("CreateSession", request, key=key)).session_id for key in (ALICE, BOB, OTHER_TENANT, TENANT)
    }
    assert len(made) == 4


async def test_key_bound_to_a_user_creates_sessions_of_that_user_only_in_batches_too(wire: Wire) -> None:
    given = [Session(session_id="alice~1"), Session(session_id="bob~1"), Session(user_id="bob")]
    request = s.BatchCreateSessionsRequest(sessions=[s.NewSession(session=session) for session in given])
    failure = await wire.failure("BatchCreateSessions", request, key=ALICE)
    assert sorted(failure.violations) == ["sessions[1].session.session_id", "sessions[2].session.user_id"]
    del request.sessions[1:]
    (result,) = (await wire.call("BatchCreateSessions", request, key=ALICE)).results
    assert result.session.user_id == "alice"
