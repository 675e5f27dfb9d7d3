"""BatchCreateSessions and BatchUpdateSessions: each session on its own, results in the order of the request."""

from grpc import StatusCode

from sessiond.v1 import session_service_pb2 as s
from sessiond.v1.error_pb2 import ErrorReason
from sessiond.v1.session_pb2 import Session
from sessiond_server.domain.commands import Command, Outcome
from sessiond_server.errors import StoreUnavailable
from sessiond_server.memory.store import MemoryStore
from tests.support.wire import DirectWriter, Wire, serving


def new(**fields: object) -> s.NewSession:
    return s.NewSession(session=Session(**fields))  # type: ignore[arg-type]


def renamed(session_id: str, name: str, **fields: object) -> s.SessionUpdate:
    return s.SessionUpdate(session=Session(session_id=session_id, name=name, **fields))  # type: ignore[arg-type]


async def test_sessions_without_ids_get_ids_of_their_own_which_a_retry_finds(wire: Wire) -> None:
    request = s.BatchCreateSessionsRequest(sessions=[new(name=str(n)) for n in range(100)], request_id="r")
    first = await wire.call("BatchCreateSessions", request)
    ids = [result.session.session_id for result in first.results]
    assert len(set(ids)) == 100
    assert [result.session.name for result in first.results] == [str(n) for n in range(100)]
    assert await wire.call("BatchCreateSessions", request) == first
    alone = await wire.call("CreateSession", s.CreateSessionRequest(session=Session(), request_id="r"))
    assert alone.session_id not in ids


async def test_one_that_is_refused_is_no_obstacle_to_the_others(wire: Wire) -> None:
    await wire.create("taken")
    past = new(session_id="past", expire_time={"seconds": 1})
    request = s.BatchCreateSessionsRequest(
        sessions=[new(session_id="a"), past, new(session_id="taken"), new(session_id="b")]
    )
    results = (await wire.call("BatchCreateSessions", request)).results
    assert [result.WhichOneof("result") for result in results] == ["session", "error", "error", "session"]
    assert [violation.field for violation in results[1].error.violations] == ["sessions[1].session.expire_time"]
    taken = results[2].error
    assert (taken.code, taken.reason) == (6, ErrorReason.ERROR_REASON_SESSION_ALREADY_EXISTS)
    assert taken.metadata["session_id"] == "taken"


async def test_bad_field_refuses_the_whole_request(wire: Wire) -> None:
    request = s.BatchCreateSessionsRequest(sessions=[new(session_id="a"), new(session_id="b", name="x" * 201)])
    failure = await wire.failure("BatchCreateSessions", request)
    assert (failure.code, *failure.violations) == (StatusCode.INVALID_ARGUMENT, "sessions[1].session.name")
    assert (await wire.failure("GetSession", s.GetSessionRequest(session_id="a"))).reason == "SESSION_NOT_FOUND"


async def test_updates_hold_to_expected_versions_of_their_own(wire: Wire) -> None:
    for name in ("a", "b"):
        await wire.create(name)
    request = s.BatchUpdateSessionsRequest(
        updates=[renamed("a", "one"), renamed("b", "two"), renamed("c", "three")],
        expected_versions=[1, 7, 0],
        request_id="r",
    )
    first = await wire.call("BatchUpdateSessions", request)
    assert (first.results[0].session.name, first.results[0].session.version) == ("one", 2)
    assert not first.results[0].session.HasField("state")
    reasons = [result.error.reason for result in first.results[1:]]
    assert reasons == [ErrorReason.ERROR_REASON_VERSION_MISMATCH, ErrorReason.ERROR_REASON_SESSION_NOT_FOUND]
    assert await wire.call("BatchUpdateSessions", request) == first
    assert (await wire.call("GetSession", s.GetSessionRequest(session_id="b"))).version == 1


async def test_answer_has_no_content_so_that_it_stays_small(wire: Wire) -> None:
    state = {"fields": {"text": {"string_value": "x" * 30_000}}}
    request = s.BatchCreateSessionsRequest(sessions=[new(session_id=f"s{n}", state=state) for n in range(100)])
    answer = await wire.call("BatchCreateSessions", request)
    assert answer.ByteSize() < 100_000
    assert not any(result.session.HasField("state") for result in answer.results)


class FailsOnce(DirectWriter):
    """The first write to the session `b` finds no database."""

    failed = False

    async def write(self, command: Command) -> Outcome:
        if command.session_id == "b" and not self.failed:
            self.failed = True
            raise StoreUnavailable
        return await super().write(command)


async def test_retry_continues_where_the_first_attempt_stopped() -> None:
    store = MemoryStore()
    async with serving(store, writer=FailsOnce(store)) as wire:
        sessions = [new(session_id=name) for name in "abc"]
        request = s.BatchCreateSessionsRequest(sessions=sessions, request_id="r")
        assert (await wire.failure("BatchCreateSessions", request)).reason == "STORE_UNAVAILABLE"
        assert (await wire.call("GetSession", s.GetSessionRequest(session_id="a"))).version == 1
        results = (await wire.call("BatchCreateSessions", request)).results
        assert [(result.session.session_id, result.session.version) for result in results] == [(x, 1) for x in "abc"]
