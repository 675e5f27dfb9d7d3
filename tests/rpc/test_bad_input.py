"""Bad input of every kind: a typed error that names the field, nothing written, the channel still good."""

from collections.abc import AsyncIterator, Iterator
from itertools import product
from typing import Any, cast

import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message as ProtoMessage
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode

from sessiond.v1 import message_service_pb2 as m
from sessiond.v1 import retention_service_pb2 as h
from sessiond.v1 import session_service_pb2 as s
from sessiond.v1.erasure_pb2 import ErasureReport
from sessiond.v1.message_pb2 import Message, Part, Role
from sessiond.v1.retention_pb2 import RetentionPolicy
from sessiond.v1.run_pb2 import Run
from sessiond.v1.session_pb2 import Session, SessionConfig
from sessiond_server.domain import encoding as encoding
from tests.support.odd_ids import BAD_IDS
from tests.support.requests import VALID
from tests.support.rows import table
from tests.support.wire import RPCS, Wire, said

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNKNOWN_ENUM = cast("Any", 99)
WITHIN = {"UpdateSession": "session", "UploadAttachment": "header"}
"""The field that says which session, where it is not the request itself."""
NAMELESS = (
    "CreateSession",
    "ListSessions",
    "CountSessions",
    "BatchGetSessions",
    "BatchDeleteSessions",
    "EraseUser",
    "GetErasure",
    "PlaceHold",
    "LiftHold",
    "ListHolds",
    "ListErasures",
    "VerifyErasureReport",
    "SetRetentionPolicy",
    "GetRetentionPolicy",
    "BatchCreateSessions",
    "BatchUpdateSessions",
    "WatchEvents",
    "ListPendingApprovals",
    "GetDocument",
    "BatchGetDocuments",
    "PutDocument",
    "SearchMessages",
    "SearchSessions",
    "ListDocuments",
    "GetUsage",
    "GetTemplate",
    "PutTemplate",
    "ListTemplates",
    "DeleteTemplate",
    "DeleteDocument",
    "ImportSession",
)
NAMED_BY = {rpc: f"{WITHIN[rpc]}.session_id" if rpc in WITHIN else "session_id" for rpc in RPCS if rpc not in NAMELESS}


def verifying(text: str) -> h.VerifyErasureReportRequest:
    return h.VerifyErasureReportRequest(report=ErasureReport(json=text))


def keeping(seconds: int) -> h.SetRetentionPolicyRequest:
    return h.SetRetentionPolicyRequest(policy=RetentionPolicy(ended_retention=Duration(seconds=seconds)))


def deleting(**range_: int) -> m.DeleteMessagesRequest:
    return m.DeleteMessagesRequest(session_id="s", range=m.SeqRange(**range_))


def deleting_ids(*ids: str) -> m.DeleteMessagesRequest:
    return m.DeleteMessagesRequest(session_id="s", ids=m.MessageIds(message_ids=ids))


def deep(levels: int) -> Struct:
    """Nested objects: 1 is an empty one."""
    struct = Struct()
    inner = struct
    for _ in range(levels - 1):
        inner = inner.fields["x"].struct_value
        inner.SetInParent()
    return struct


def number(value: float) -> Struct:
    return Struct(fields={"n": Value(number_value=value)})


def big(size: int) -> Struct:
    return Struct(fields={"t": Value(string_value="x" * size)})


def create(**fields: Any) -> s.CreateSessionRequest:
    return s.CreateSessionRequest(session=Session(**fields))


def update(*paths: str, **fields: Any) -> s.UpdateSessionRequest:
    mask = FieldMask(paths=paths) if paths else None
    return s.UpdateSessionRequest(session=Session(session_id="s", **fields), update_mask=mask)


def append(*messages: Message) -> m.AppendMessagesRequest:
    return m.AppendMessagesRequest(session_id="s", messages=messages)


def renaming(session_id: str, **fields: Any) -> s.SessionUpdate:
    return s.SessionUpdate(session=Session(session_id=session_id, name="n", **fields))


def append_and(changes: s.SessionUpdate) -> m.AppendMessagesRequest:
    return m.AppendMessagesRequest(session_id="s", messages=[said("x")], update=changes)


def removal(*keys: str) -> s.SessionUpdate:
    return s.SessionUpdate(session=Session(), struct_update=s.StructUpdate.STRUCT_UPDATE_SET_KEYS, remove_keys=keys)


def update_removing(
    keys: list[str], how: s.StructUpdate.ValueType = s.StructUpdate.STRUCT_UPDATE_SET_KEYS, **fields: Any
) -> s.UpdateSessionRequest:
    return s.UpdateSessionRequest(session=Session(session_id="s", **fields), struct_update=how, remove_keys=keys)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def before(common_wire: Wire) -> Session:
    return await common_wire.create("s")


@pytest_asyncio.fixture(loop_scope="module")
async def untouched(common_wire: Wire, before: Session) -> AsyncIterator[Wire]:
    """A server with the session `s`, which the test must leave as it was; and the channel must work."""
    yield common_wire
    assert await common_wire.call("GetSession", s.GetSessionRequest(session_id="s")) == before
    assert (await common_wire.call("CountSessions", s.CountSessionsRequest())).count == 1


async def assert_field(wire: Wire, rpc: str, request: ProtoMessage, field: str) -> None:
    failure = await wire.failure(rpc, request)
    assert (failure.code, failure.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert list(failure.violations) == [field]
    assert failure.text == f"{field}: {failure.violations[field]}"


def having(*fields: str) -> Iterator[tuple[str, str]]:
    """Each of these fields, with each RPC whose request has it."""
    return ((rpc, field) for rpc in RPCS for field in fields if field in RPCS[rpc].input_type.fields_by_name)


def valid(rpc: str) -> Any:
    return type(VALID[rpc]).FromString(VALID[rpc].SerializeToString())


async def test_ids_have_their_alphabet_and_length(untouched: Wire) -> None:
    with table() as rows:
        for rpc, bad in product(NAMED_BY, BAD_IDS):
            with rows.row(rpc, bad):
                request = valid(rpc)
                target = getattr(request, WITHIN[rpc]) if rpc in WITHIN else request
                target.session_id = bad
                await assert_field(untouched, rpc, request, NAMED_BY[rpc])


async def test_request_ids_have_their_alphabet_and_length(untouched: Wire) -> None:
    with table() as rows:
        for (rpc, field), bad in product(having("request_id"), BAD_IDS[1:]):
            with rows.row(rpc, bad):
                request = valid(rpc)
                request.request_id = bad
                await assert_field(untouched, rpc, request, field)


async def test_numbers_are_not_negative(untouched: Wire) -> None:
    numbers = having("expected_version", "min_version", "page_size", "after_seq", "before_seq")
    with table() as rows:
        for (rpc, field), bad in product(numbers, (-1, -(2**31))):
            with rows.row(rpc, field, bad):
                request = valid(rpc)
                setattr(request, field, bad)
                await assert_field(untouched, rpc, request, field)


async def test_enums_are_known(untouched: Wire) -> None:
    with table() as rows:
        for rpc, field in having("view", "consistency", "order_by", "reason", "struct_update"):
            if RPCS[rpc].input_type.fields_by_name[field].enum_type is None:
                continue
            for bad in (99, -1, 2**31 - 1):
                with rows.row(rpc, field, bad):
                    request = valid(rpc)
                    setattr(request, field, bad)
                    await assert_field(untouched, rpc, request, field)


BAD: list[tuple[str, ProtoMessage, str]] = [
    ("CreateSession", s.CreateSessionRequest(), "session"),
    ("CreateSession", create(session_id="a "), "session.session_id"),
    ("CreateSession", create(type=UNKNOWN_ENUM), "session.type"),
    ("CreateSession", create(agent_mode=UNKNOWN_ENUM), "session.agent_mode"),
    ("CreateSession", create(status=UNKNOWN_ENUM), "session.status"),
    ("CreateSession", create(status=cast("Any", 4)), "session.status"),
    ("CreateSession", create(name="x" * 201), "session.name"),
    ("CreateSession", create(name="a\0b"), "session.name"),
    ("CreateSession", create(agent_id="a\nb"), "session.agent_id"),
    ("CreateSession", create(user_id="x" * 256), "session.user_id"),
    ("CreateSession", create(summary="x" * 65_537), "session.summary"),
    ("CreateSession", create(summary="\0"), "session.summary"),
    ("CreateSession", create(metadata=deep(25)), "session.metadata"),
    ("CreateSession", create(state=deep(25)), "session.state"),
    ("CreateSession", create(agent_data=big(1024 * 1024 + 1)), "session.agent_data"),
    ("CreateSession", create(metadata=big(64 * 1024 + 1)), "session.metadata"),
    ("CreateSession", create(ttl=Duration(seconds=-1)), "session.ttl"),
    ("CreateSession", create(ttl=Duration(seconds=3651 * 86_400)), "session.ttl"),
    ("CreateSession", create(ttl=Duration(seconds=1, nanos=-1)), "session.ttl"),
    ("CreateSession", create(expire_time=Timestamp(seconds=2**62)), "session.expire_time"),
    ("CreateSession", create(config=SessionConfig(max_messages=-1)), "session.config.max_messages"),
    ("CreateSession", create(config=SessionConfig(allowed_tools=[""])), "session.config.allowed_tools[0]"),
    ("UpdateSession", s.UpdateSessionRequest(), "session"),
    ("UpdateSession", update(), "update_mask"),
    ("UpdateSession", update("nothing", name="x"), "update_mask.paths[0]"),
    ("UpdateSession", update("name", "version", name="x"), "update_mask.paths[1]"),
    ("UpdateSession", update("session_id", name="x"), "update_mask.paths[0]"),
    ("UpdateSession", update("status", name="x"), "update_mask.paths[0]"),
    ("UpdateSession", update("config.nothing", name="x"), "update_mask.paths[0]"),
    ("UpdateSession", update("metadata.a", name="x"), "update_mask.paths[0]"),
    ("UpdateSession", update("", name="x"), "update_mask.paths[0]"),
    ("UpdateSession", update("name", name="x" * 201), "session.name"),
    ("BatchGetSessions", s.BatchGetSessionsRequest(session_ids=["s"] * 2), "session_ids[1]"),
    ("BatchGetSessions", s.BatchGetSessionsRequest(session_ids=[str(n) for n in range(101)]), "session_ids"),
    ("BatchGetSessions", s.BatchGetSessionsRequest(session_ids=["s", "t"], min_versions=[1]), "min_versions"),
    ("BatchGetSessions", s.BatchGetSessionsRequest(session_ids=["s"], min_versions=[1] * 101), "min_versions"),
    ("BatchGetSessions", s.BatchGetSessionsRequest(session_ids=["s", "t"], min_versions=[1, -1]), "min_versions[1]"),
    ("BatchDeleteSessions", s.BatchDeleteSessionsRequest(session_ids=["s", "a "]), "session_ids[1]"),
    ("BatchDeleteSessions", s.BatchDeleteSessionsRequest(), "session_ids"),
    ("EraseUser", s.EraseUserRequest(), "user_id"),
    ("EraseUser", s.EraseUserRequest(user_id="a\0"), "user_id"),
    ("EraseUser", s.EraseUserRequest(user_id="x" * 256), "user_id"),
    ("EraseUser", s.EraseUserRequest(user_id="ann", request_id="a\0"), "request_id"),
    ("PlaceHold", h.PlaceHoldRequest(reason="x"), "session_id"),
    ("PlaceHold", h.PlaceHoldRequest(session_id="a\0", reason="x"), "session_id"),
    ("PlaceHold", h.PlaceHoldRequest(user_id="x" * 256, reason="x"), "user_id"),
    ("PlaceHold", h.PlaceHoldRequest(user_id="ann"), "reason"),
    ("PlaceHold", h.PlaceHoldRequest(user_id="ann", reason="x" * 1025), "reason"),
    ("PlaceHold", h.PlaceHoldRequest(user_id="ann", reason="a\nb"), "reason"),
    ("PlaceHold", h.PlaceHoldRequest(user_id="ann", reason="x", request_id="a b"), "request_id"),
    ("LiftHold", h.LiftHoldRequest(), "hold_id"),
    ("LiftHold", h.LiftHoldRequest(hold_id="x", reason="\0"), "reason"),
    ("ListHolds", h.ListHoldsRequest(session_id="s", user_id="u"), "user_id"),
    ("ListHolds", h.ListHoldsRequest(page_size=-1), "page_size"),
    ("SetRetentionPolicy", h.SetRetentionPolicyRequest(), "policy"),
    ("ListErasures", s.ListErasuresRequest(page_size=-1), "page_size"),
    ("VerifyErasureReport", verifying(""), "report.json"),
    ("VerifyErasureReport", verifying("x" * 8193), "report.json"),
    *(
        ("SetRetentionPolicy", keeping(seconds), "policy.ended_retention")
        for seconds in (-1, 3651 * 86_400, 2**62)
    ),
    ("GetErasure", s.GetErasureRequest(), "user_id"),
    ("CreateSession", s.CreateSessionRequest(session=Session(ttl=Duration(seconds=9)), no_expiry=True), "no_expiry"),
    ("BatchCreateSessions", s.BatchCreateSessionsRequest(), "sessions"),
    ("BatchCreateSessions", s.BatchCreateSessionsRequest(sessions=[s.NewSession()] * 101), "sessions"),
    ("BatchCreateSessions", s.BatchCreateSessionsRequest(sessions=[s.NewSession(session=Session()), s.NewSession()]),
     "sessions[1].session"),
    ("BatchCreateSessions", s.BatchCreateSessionsRequest(sessions=[s.NewSession(session=Session(session_id="t"))] * 2),
     "sessions[1].session.session_id"),
    ("BatchCreateSessions", s.BatchCreateSessionsRequest(sessions=[s.NewSession(session=Session(), runs=[Run()])]),
     "sessions[0].runs[0].status"),
    ("BatchUpdateSessions", s.BatchUpdateSessionsRequest(), "updates"),
    ("BatchUpdateSessions", s.BatchUpdateSessionsRequest(updates=[s.SessionUpdate(session=Session(name="n"))]),
     "updates[0].session.session_id"),
    ("BatchUpdateSessions", s.BatchUpdateSessionsRequest(updates=[renaming("s"), renaming("t")], expected_versions=[1]),
     "expected_versions"),
    ("BatchUpdateSessions", s.BatchUpdateSessionsRequest(updates=[renaming("s")], expected_versions=[-1]),
     "expected_versions[0]"),
    ("BatchUpdateSessions", s.BatchUpdateSessionsRequest(updates=[renaming("s"), renaming("s")]),
     "updates[1].session.session_id"),
    ("BatchUpdateSessions", s.BatchUpdateSessionsRequest(updates=[renaming("s"), renaming("t", state=deep(25))]),
     "updates[1].session.state"),
    ("ListSessions", s.ListSessionsRequest(filter=s.SessionFilter(name_contains="\0")), "filter.name_contains"),
    ("ListSessions", s.ListSessionsRequest(filter=s.SessionFilter(statuses=[UNKNOWN_ENUM])), "filter.statuses[0]"),
    ("ListSessions", s.ListSessionsRequest(filter=s.SessionFilter(metadata=big(4097))), "filter.metadata"),
    ("CountSessions", s.CountSessionsRequest(filter=s.SessionFilter(create_time_from=Timestamp(nanos=-1))),
     "filter.create_time_from"),
    ("TouchSession", s.TouchSessionRequest(session_id="s", extend=Duration()), "extend"),
    ("EndSession", s.EndSessionRequest(session_id="s", reason=cast("Any", 2)), "reason"),
    ("AppendMessages", append(), "messages"),
    ("AppendMessages", append(*[said("x")] * 300), "messages"),
    ("AppendMessages", append(said("x" * (5 * 1024 * 1024))), "messages[0]"),
    ("AppendMessages", append(said("a"), said("x" * (1024 * 1024 + 1))), "messages[1]"),
    ("AppendMessages", append(*[said("x" * 900_000)] * 4), "messages"),
    ("AppendMessages", append(Message(parts=[Part(text="x")])), "messages[0].role"),
    ("AppendMessages", append(Message(role=UNKNOWN_ENUM)), "messages[0].role"),
    ("AppendMessages", append(Message(role=Role.ROLE_USER, parts=[Part()])), "messages[0].parts[0]"),
    ("AppendMessages", append(said("a\0b")), "messages[0].parts[0].text"),
    ("AppendMessages", append(said("a", message_id="a ")), "messages[0].message_id"),
    ("AppendMessages", append(said("a", message_id="a"), said("b", message_id="a")), "messages[1].message_id"),
    ("AppendMessages", append(said("a", metadata=deep(25))), "messages[0].metadata"),
    ("AppendMessages", append_and(s.SessionUpdate()), "update.session"),
    ("AppendMessages", append_and(s.SessionUpdate(session=Session())), "update.update_mask"),
    ("AppendMessages", append_and(s.SessionUpdate(session=Session(session_id="t", name="n"))),
     "update.session.session_id"),
    ("AppendMessages", append_and(s.SessionUpdate(session=Session(metadata=big(65_536)))), "update.session.metadata"),
    ("AppendMessages", append_and(s.SessionUpdate(session=Session(), update_mask=FieldMask(paths=["type"]))),
     "update.update_mask.paths[0]"),
    ("AppendMessages", append_and(removal("state.a", "state.a")), "update.remove_keys[1]"),
    ("UpdateSession", update_removing(["state.a"], s.StructUpdate.STRUCT_UPDATE_MERGE), "remove_keys"),
    ("UpdateSession", update_removing(["state"]), "remove_keys[0]"),
    ("UpdateSession", update_removing(["labels.a"]), "remove_keys[0]"),
    ("UpdateSession", update_removing(["state.a\0"]), "remove_keys[0]"),
    ("UpdateSession", update_removing(["state." + "x" * 1019]), "remove_keys[0]"),
    ("UpdateSession", update_removing(["state.n"], state=number(1)), "remove_keys[0]"),
    ("UpdateSession", update_removing([f"state.{i}" for i in range(1001)]), "remove_keys"),
    ("GetMessage", m.GetMessageRequest(session_id="s"), "message_id"),
    ("RedactMessage", m.RedactMessageRequest(session_id="s", message_id="m", reason="x" * 201), "reason"),
    ("DeleteMessages", m.DeleteMessagesRequest(session_id="s"), "ids"),
    ("DeleteMessages", m.DeleteMessagesRequest(session_id="s", last_n=0), "last_n"),
    ("DeleteMessages", m.DeleteMessagesRequest(session_id="s", last_n=1001), "last_n"),
    ("DeleteMessages", deleting(from_seq=0, to_seq=1), "range.from_seq"),
    ("DeleteMessages", deleting(from_seq=2, to_seq=1), "range.to_seq"),
    ("DeleteMessages", deleting_ids(), "ids.message_ids"),
    ("DeleteMessages", deleting_ids(*(f"m{i}" for i in range(1001))), "ids.message_ids"),
    ("DeleteMessages", deleting_ids("a", "b\0"), "ids.message_ids[1]"),
    ("DeleteMessages", deleting_ids("a", "b", "a"), "ids.message_ids[2]"),
]  # fmt: skip


@pytest.mark.parametrize(("rpc", "request_", "field"), BAD, ids=[f"{rpc}-{field}" for rpc, _, field in BAD])
async def test_a_bad_field_is_named(untouched: Wire, rpc: str, request_: ProtoMessage, field: str) -> None:
    failure = await untouched.failure(rpc, request_)
    assert (failure.code, failure.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    named, *_ = failure.violations
    assert named == field or named.startswith((f"{field}.", f"{field}["))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
async def test_numbers_in_structs_are_finite(untouched: Wire, value: float) -> None:
    for rpc, request, field in (
        ("CreateSession", create(metadata=number(value)), "session.metadata"),
        ("UpdateSession", update(state=number(value)), "session.state"),
        ("AppendMessages", append(said("a", metadata=number(value))), "messages[0].metadata"),
        ("ListSessions", s.ListSessionsRequest(filter=s.SessionFilter(metadata=number(value))), "filter.metadata"),
    ):
        failure = await untouched.failure(rpc, request)
        assert failure.reason == "INVALID_FIELD"
        assert next(iter(failure.violations)).startswith(field)


async def test_lone_surrogates_and_broken_utf8_are_malformed(untouched: Wire) -> None:
    texts = (b"\xed\xa0\x80", b"\xed\xb0\x80", b"\xff", b"\xc0\x80", b"a\x80")
    with table() as rows:
        for rpc, text in product(NAMED_BY, texts):
            with rows.row(rpc, text):
                field = b"\x0a" + bytes((len(text),)) + text
                data = b"\x0a" + bytes((len(field),)) + field if rpc == "UpdateSession" else field
                failure = await untouched.failure(rpc, data)
                assert (failure.code, failure.reason) == (StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")
                assert RPCS[rpc].input_type.full_name in failure.text


async def test_a_struct_too_deep_to_parse_is_malformed(untouched: Wire) -> None:
    def field(number: int, content: bytes) -> bytes:
        return encoding.tag(number) + encoding.varint(len(content)) + content

    struct = b""
    for _ in range(60):
        value = field(Value.STRUCT_VALUE_FIELD_NUMBER, struct)
        struct = field(Struct.FIELDS_FIELD_NUMBER, field(1, b"x") + field(2, value))
    session = field(Session.METADATA_FIELD_NUMBER, struct)
    failure = await untouched.failure("CreateSession", field(s.CreateSessionRequest.SESSION_FIELD_NUMBER, session))
    assert failure.reason == "MALFORMED_REQUEST"


async def test_many_violations_are_named_together(untouched: Wire) -> None:
    failure = await untouched.failure("CreateSession", create(session_id="a ", name="\0", agent_id="\n"))
    assert failure.violations.keys() == {"session.session_id", "session.name", "session.agent_id"}


async def test_a_request_full_of_violations_still_has_an_answer(untouched: Wire) -> None:
    labels = {"é" * 60 + str(n): "\0" for n in range(200)}
    failure = await untouched.failure("CreateSession", create(labels=labels, name="\0"))
    assert failure.reason == "INVALID_FIELD"
    assert failure.violations


async def test_one_bad_message_of_many_writes_none(untouched: Wire) -> None:
    messages = [said(str(n)) for n in range(200)] + [said("a\0b")]
    failure = await untouched.failure("AppendMessages", append(*messages))
    assert list(failure.violations) == ["messages[200].parts[0].text"]
