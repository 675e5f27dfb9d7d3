"""Session tokens: what they allow, for whom, and when they end."""

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode

from sessiond.v1 import event_service_pb2 as e
from sessiond.v1 import message_service_pb2 as m
from sessiond.v1 import session_service_pb2 as s
from sessiond.v1.document_pb2 import Document, DocumentScope, DocumentWrite
from sessiond.v1.message_pb2 import Message, Part, Role
from sessiond.v1.run_pb2 import RunFence
from sessiond.v1.session_pb2 import Session, SessionStatus
from sessiond_server.auth import SCOPES, Authenticator, Grant, Principal, digest_of
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.sessions.incarnation import incarnation_of
from sessiond_server.errors import SessionNotFound
from sessiond_server.rpc.call import Call, Method
from sessiond_server.rpc.granted import Granted
from tests.support.pipe_client import opened as opened_pipe
from tests.support.requests import VALID, stock
from tests.support.rows import table
from tests.support.wire import ALICE, BOB, OTHER_TENANT, PRINCIPALS, READER, RPCS, TENANT, Failure, Wire, said, serving

READ = s.SessionAccess.SESSION_ACCESS_READ
APPEND = s.SessionAccess.SESSION_ACCESS_APPEND

ALLOWED = {
    *("GetSession", "GetSessionMetrics", "GetMessage", "ListMessages", "ListSummaries", "GetContext", "GetRun"),
    *("ListRuns", "GetToolCall", "ListToolCalls", "WatchSession", "ListEvents", "GetAttachment", "ListAttachments"),
    *("GetUploadStatus", "DownloadAttachment"),
}
"""What a token to read allows. One to append allows AppendMessages besides."""

FORBIDDEN: tuple[Any, ...] = (
    StatusCode.PERMISSION_DENIED,
    "TOKEN_FORBIDS",
    "the session token does not allow this call",
    {},
)


async def token(wire: Wire, session_id: str, access: int = READ, *, key: str = TENANT, **fields: Any) -> str:
    request = s.CreateSessionTokenRequest(session_id=session_id, access=access, **fields)  # type: ignore[arg-type]
    made = (await wire.call("CreateSessionToken", request, key=key)).token
    assert isinstance(made, str)
    return made


def seen(failure: Failure) -> tuple[Any, ...]:
    return failure.code, failure.reason, failure.text, failure.metadata


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stocked() -> AsyncIterator[Wire]:
    async with serving() as wire:
        await stock(wire)
        yield wire


@pytest.mark.asyncio(loop_scope="module")
async def test_each_rpc_is_allowed_as_the_contract_says_on_the_session_of_the_token_only(stocked: Wire) -> None:
    with table() as rows:
        for rpc, request in VALID.items():
            session_id = getattr(request, "session_id", "") or "active"
            for access in (READ, APPEND):
                with rows.row(f"{rpc}, {s.SessionAccess.Name(access)}"):
                    bearer = await token(stocked, session_id, access)
                    if rpc in ALLOWED or (rpc == "AppendMessages" and access == APPEND):
                        await stocked.call(rpc, request, key=bearer)
                    else:
                        assert seen(await stocked.failure(rpc, request, key=bearer)) == FORBIDDEN
            with rows.row(f"{rpc}, of another session, and of none"):
                bearer = await token(stocked, "created", APPEND)
                assert seen(await stocked.failure(rpc, request, key=bearer)) == FORBIDDEN
                if "session_id" in request.DESCRIPTOR.fields_by_name:
                    nowhere = type(request).FromString(request.SerializeToString())
                    nowhere.session_id = "none"  # type: ignore[attr-defined]
                    assert seen(await stocked.failure(rpc, nowhere, key=bearer)) == FORBIDDEN
    assert VALID.keys() == RPCS.keys()


@pytest.mark.asyncio(loop_scope="module")
async def test_only_plain_messages_of_the_user_are_appended(stocked: Wire) -> None:
    bearer = await token(stocked, "busy", APPEND)
    put = DocumentWrite(put=Document(scope=DocumentScope.DOCUMENT_SCOPE_SESSION, scope_id="busy", key="k", json="1"))
    additions: Sequence[dict[str, Any]] = (
        *(
            {"messages": [said("a"), Message(role=role, parts=[Part(text="b")])]}
            for role in Role.values()
            if role != Role.ROLE_USER
        ),
        {"messages": [said("a")], "run": RunFence(run_id="r1", fence=2)},
        {"messages": [said("a")], "update": s.SessionUpdate(session=Session(name="n"))},
        {"messages": [said("a")], "documents": [put]},
    )
    for more in additions:
        request = m.AppendMessagesRequest(session_id="busy", **more)
        assert seen(await stocked.failure("AppendMessages", request, key=bearer)) == FORBIDDEN, more
    done = await stocked.call(
        "AppendMessages", m.AppendMessagesRequest(session_id="busy", messages=[said("a")], request_id="r"), key=bearer
    )
    again = await stocked.call(
        "AppendMessages", m.AppendMessagesRequest(session_id="busy", messages=[said("a")], request_id="r"), key=bearer
    )
    assert again == done


@pytest.mark.asyncio(loop_scope="module")
async def test_a_key_gives_what_it_has_and_no_more(stocked: Wire) -> None:
    request = s.CreateSessionTokenRequest(session_id="active", access=APPEND)
    failure = await stocked.failure("CreateSessionToken", request, key=READER)
    assert (failure.reason, failure.metadata) == ("SCOPE_MISSING", {"scope": "sessions:write"})
    await stocked.create("alice~s", key=ALICE, user_id="alice")
    for key in (BOB, OTHER_TENANT):
        request = s.CreateSessionTokenRequest(session_id="alice~s")
        assert (await stocked.failure("CreateSessionToken", request, key=key)).reason == "SESSION_NOT_FOUND"
    bearer = await token(stocked, "alice~s", APPEND, key=ALICE)
    assert (await stocked.append("alice~s", "mine", key=bearer)).first_seq == 2
    listed = await stocked.call("ListEvents", e.ListEventsRequest(session_id="alice~s"), key=bearer)
    assert [event.actor for event in listed.events] == ["alice", "alice"]
    # What a key has received goes on with its token, and the other way round.
    await stocked.call("ListEvents", e.ListEventsRequest(session_id="alice~s", position=listed.position), key=ALICE)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("fields", "violations"),
    [
        ({"session_id": ""}, {"session_id"}),
        ({"access": 3}, {"access"}),
        ({"ttl": Duration(nanos=999_999_999)}, {"ttl"}),
        ({"ttl": Duration(seconds=3600, nanos=1)}, {"ttl"}),
        ({"ttl": Duration(seconds=-1)}, {"ttl"}),
    ],
)
async def test_fields_have_bounds(stocked: Wire, fields: dict[str, Any], violations: set[str]) -> None:
    request = s.CreateSessionTokenRequest(**{"session_id": "active", **fields})
    assert (await stocked.failure("CreateSessionToken", request)).violations.keys() == violations


@pytest.mark.asyncio(loop_scope="module")
async def test_a_token_lives_as_long_as_was_asked_for(stocked: Wire) -> None:
    for ttl, seconds in ((None, 300), (Duration(seconds=1), 1), (Duration(seconds=3600), 3600)):
        before = time.time()
        made = await stocked.call("CreateSessionToken", s.CreateSessionTokenRequest(session_id="active", ttl=ttl))
        assert before + seconds - 0.01 <= made.expire_time.ToNanoseconds() / 1e9 <= time.time() + seconds


@pytest.mark.asyncio(loop_scope="module")
async def test_what_is_no_token_of_this_service_is_no_key(stocked: Wire) -> None:
    bearer = await token(stocked, "active")
    async with serving() as other:
        await other.create("active")
        foreign = await token(other, "active")
    for wrong in (bearer[:-1], bearer + "A", "sdt_", "sdt_" + "A" * 5000, bearer.upper(), foreign):
        failure = await stocked.failure("GetSession", VALID["GetSession"], key=wrong)
        assert failure.reason == "UNAUTHENTICATED", wrong
    longest = "x" + '"' * 253 + "x"
    await stocked.create(longest)
    long = await token(stocked, longest, APPEND)
    assert len(long) <= 1024
    await stocked.call("GetSession", s.GetSessionRequest(session_id=longest), key=long)


@pytest.mark.asyncio(loop_scope="module")
async def test_calls_of_a_pipe_are_limited_too(stocked: Wire) -> None:
    bearer = await token(stocked, "active")
    async with opened_pipe(stocked, key=bearer) as pipe:
        assert (await pipe.call("GetSession", VALID["GetSession"])).session_id == "active"
        with pytest.raises(Failure, match="TOKEN_FORBIDS"):
            await pipe.call("CountSessions", s.CountSessionsRequest())


async def reused(wire: Wire, session_id: str) -> None:
    """Deletes the session, and creates another one with its id."""
    await wire.call("DeleteSession", s.DeleteSessionRequest(session_id=session_id))
    again = Session(session_id=session_id, status=SessionStatus.SESSION_STATUS_ACTIVE)
    await wire.call("CreateSession", s.CreateSessionRequest(session=again, reuse_deleted=True))


async def test_a_session_that_takes_the_id_of_a_deleted_one_does_not_exist_for_the_token(wire: Wire) -> None:
    await wire.create("s")
    await wire.append("s", "secret")
    bearer = await token(wire, "s", APPEND)
    page = await wire.call("ListEvents", e.ListEventsRequest(session_id="s"), key=bearer)
    await wire.call("DeleteSession", s.DeleteSessionRequest(session_id="s"))
    assert (await wire.failure("GetSession", VALID["GetSession"], key=bearer)).reason == "TOKEN_FORBIDS"
    assert (
        await wire.failure("GetSession", s.GetSessionRequest(session_id="s"), key=bearer)
    ).code == StatusCode.NOT_FOUND
    again = Session(session_id="s", status=SessionStatus.SESSION_STATUS_ACTIVE)
    await wire.call("CreateSession", s.CreateSessionRequest(session=again, reuse_deleted=True))
    with table() as rows:
        for rpc, request in (
            ("GetSession", s.GetSessionRequest(session_id="s")),
            ("GetSession", s.GetSessionRequest(session_id="s", min_version=99)),
            ("ListMessages", m.ListMessagesRequest(session_id="s")),
            ("WatchSession", e.WatchSessionRequest(session_id="s")),
            ("WatchSession", e.WatchSessionRequest(session_id="s", position=page.position)),
            ("ListEvents", e.ListEventsRequest(session_id="s", position=page.position)),
            ("AppendMessages", m.AppendMessagesRequest(session_id="s", messages=[said("more")])),
        ):
            with rows.row(f"{rpc} {request}"):
                failure = await wire.failure(rpc, request, key=bearer)
                assert (failure.reason, failure.metadata) == ("SESSION_NOT_FOUND", {"session_id": "s"})
    assert (await wire.append("s", "more", key=await token(wire, "s", APPEND))).first_seq == 5


async def test_an_id_that_is_reused_during_the_read_shows_nothing(wire: Wire) -> None:
    was = await wire.create("s")
    grant = Grant("s", incarnation_of(was), append=False, database="", owner=b"", key=b"", expires=0.0)

    class Servicer:
        async def get_session(self, request: s.GetSessionRequest, call: Call) -> bytes:
            await reused(wire, "s")
            return b"of the new one"

        async def watch_session(self, request: e.WatchSessionRequest, call: Call) -> None:
            await call.write(b"of the new one")

    class Context:
        written = b""

        def invocation_metadata(self) -> None:
            return None

        async def write(self, data: bytes) -> None:
            self.written = data

    context: Any = Context()
    call = Call(Method("/a/B", False, False, 1), context)
    call.principal = Principal("acme", "", "tenant", SCOPES, grant=grant)
    granted = Granted(Servicer(), wire.store)
    assert call.scope == Scope("acme")
    with pytest.raises(SessionNotFound):
        await granted.get_session(s.GetSessionRequest(session_id="s"), call)
    with pytest.raises(SessionNotFound):
        await granted.watch_session(e.WatchSessionRequest(session_id="s"), call)
    assert not context.written


async def test_streams_end_with_the_token_or_its_key_and_tell_the_position() -> None:
    now = [0.0]
    keys = {digest_of(key): who for key, who in PRINCIPALS.items()}
    authenticator = Authenticator(keys, clock=lambda: time.time() + now[0])
    async with serving(authenticator=authenticator) as wire:
        await wire.create("s")
        short = wire.watch("WatchSession", e.WatchSessionRequest(session_id="s"), key=await token(wire, "s"))
        bearer = await token(wire, "s", ttl=Duration(seconds=3600))
        long = wire.watch("WatchSession", e.WatchSessionRequest(session_id="s"), key=bearer)
        for stream in (short, long):
            assert (await stream.read()).HasField("snapshot")
        assert not authenticator.some_expired()
        now[0] = 301.0
        assert authenticator.some_expired()
        assert wire.server.revoke(authenticator.holds) == 1
        last = await short.read()
        assert last.HasField("going_away")
        assert (await short.failure()).reason == "UNAUTHENTICATED"
        assert not authenticator.some_expired()

        resumed = wire.watch("WatchSession", e.WatchSessionRequest(session_id="s", position=last.position), key=bearer)
        assert (await resumed.read()).HasField("resumed")
        # The key of another entry, in place of the one that made the token.
        authenticator.use({digest: who for digest, who in keys.items() if digest != digest_of(TENANT)})
        assert wire.server.revoke(authenticator.holds) == 2
        for stream in (long, resumed):
            assert (await stream.read()).HasField("going_away")
            assert (await stream.failure()).reason == "UNAUTHENTICATED"
        failure = await wire.failure("GetSession", s.GetSessionRequest(session_id="s"), key=bearer)
        assert failure.reason == "UNAUTHENTICATED"


async def test_a_token_has_no_more_than_its_key_has_now() -> None:
    keys = {digest_of(TENANT): PRINCIPALS[TENANT]}
    authenticator = Authenticator(keys)
    async with serving(authenticator=authenticator) as wire:
        await wire.create("s")
        bearer = await token(wire, "s", APPEND)
        authenticator.use({digest_of(TENANT): Principal("acme", "", "tenant", PRINCIPALS[READER].scopes)})
        failure = await wire.failure(
            "AppendMessages", m.AppendMessagesRequest(session_id="s", messages=[said("a")]), key=bearer
        )
        assert failure.reason == "SCOPE_MISSING"
        for changed in (Principal("acme", "ann", "tenant", SCOPES), Principal("globex", "", "tenant", SCOPES)):
            authenticator.use({digest_of(TENANT): changed})
            request = s.GetSessionRequest(session_id="s")
            assert (await wire.failure("GetSession", request, key=bearer)).reason == "UNAUTHENTICATED"


async def test_without_keys_a_token_limits_its_holder_all_the_same() -> None:
    async with serving(authenticator=Authenticator(open_to_all=True)) as wire:
        await wire.create("s", key="")
        bearer = await token(wire, "s", key="")
        await wire.call("GetSession", s.GetSessionRequest(session_id="s"), key=bearer)
        assert seen(await wire.failure("CountSessions", s.CountSessionsRequest(), key=bearer)) == FORBIDDEN
        wrong = await wire.failure("CountSessions", s.CountSessionsRequest(), key=bearer[:-1])
        assert wrong.reason == "UNAUTHENTICATED"
        await wire.call("CountSessions", s.CountSessionsRequest(), key="")
