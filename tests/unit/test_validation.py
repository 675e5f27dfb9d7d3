"""Rules of resource messages, both sides of each bound."""

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from sessiond.v1.message_pb2 import BlobPart, FilePart, Message, Part, Role, ToolCallPart, ToolResultPart
from sessiond.v1.session_pb2 import Session, SessionConfig, SessionStatus, TokenUsage
from sessiond_server.domain import validation
from sessiond_server.domain.messages import validation as message_validation
from sessiond_server.domain.sessions import validation as session_validation
from sessiond_server.domain.validation import FieldViolations
from sessiond_server.errors import InvalidFields
from sessiond_server.rpc.sessions.checks import OUTPUT_ONLY

MIB = 1024 * 1024
DAY = 24 * 3600


def session_faults(session: Session) -> list[str]:
    """Paths of the violations of a session to be created, without the leading `session.`."""
    found = FieldViolations()
    session_validation.new_session(found, "session", session)
    return [path.removeprefix("session.") for path in paths(found)]


def message_faults(message: Message) -> list[str]:
    found = FieldViolations()
    message_validation.new_message(found, "m", message, message.ByteSize(), message_validation.MESSAGE_BYTES)
    return [path.removeprefix("m.") for path in paths(found)]


def paths(found: FieldViolations) -> list[str]:
    try:
        found.check()
    except InvalidFields as error:
        return [violation.field for violation in error.violations]
    return []


def struct_of(size: int) -> Struct:
    """A struct of exactly `size` bytes serialised."""
    struct = Struct()
    struct["x"] = "y" * (size - 100)
    struct.fields["x"].string_value += "y" * (size - struct.ByteSize())
    assert struct.ByteSize() == size
    return struct


def with_struct(name: str, size: int) -> Session:
    session = Session()
    getattr(session, name).CopyFrom(struct_of(size))
    return session


def labels_of(size: int) -> dict[str, str]:
    """64 labels of so many two-byte characters: 16 KiB with 127 of them."""
    return {f"{n:02}": "é" * size for n in range(64)}


SESSION_BOUNDS: list[tuple[Any, ...]] = [
    ("session_id", Session(session_id="a" * 255), Session(session_id="a" * 256)),
    ("session_id", Session(session_id="aZ0._:~-"), Session(session_id="a ")),
    ("session_id", Session(session_id=""), Session(session_id="a\n")),
    ("session_id", Session(session_id="é" * 127), Session(session_id="é" * 128)),
    ("type", Session(type=3), Session(type=4)),  # type: ignore[arg-type]
    ("type", Session(type=0), Session(type=-1)),  # type: ignore[arg-type]
    ("agent_id", Session(agent_id="a" * 255), Session(agent_id="a" * 256)),
    ("agent_id", Session(agent_id="客服 agent, nº 1"), Session(agent_id="a\tb")),
    ("team_id", Session(team_id="é" * 127), Session(team_id="a\0")),
    ("workflow_id", Session(workflow_id="a\u3000b\u200d"), Session(workflow_id="a\x7f")),
    ("user_id", Session(user_id="\U0001f600" * 63), Session(user_id="\U0001f600" * 64)),
    ("user_id", Session(user_id="a\xa0b"), Session(user_id="a\x9fb")),
    ("agent_mode", Session(agent_mode=3), Session(agent_mode=4)),  # type: ignore[arg-type]
    ("name", Session(name="語" * 200), Session(name="a" * 201)),
    ("name", Session(name="two\nlines"), Session(name="a\0")),
    ("status", Session(status=2), Session(status=3)),  # type: ignore[arg-type]
    ("status", Session(status=0), Session(status=4)),  # type: ignore[arg-type]
    ("status", Session(status=1), Session(status=99)),  # type: ignore[arg-type]
    ("labels", Session(labels={f"k{n}": "" for n in range(64)}), Session(labels={f"k{n}": "" for n in range(65)})),
    (
        "labels",
        Session(labels={f"{n:02}": "é" * 127 for n in range(64)}),
        Session(labels={f"{n:02}": "é" * 128 for n in range(64)}),
    ),
    ('labels["a b"]', Session(labels={"a.b_c/d-E9": "any text: \t ü"}), Session(labels={"a b": ""})),
    (f'labels["{"k" * 40}..."]', Session(labels={"k" * 63: ""}), Session(labels={"k" * 64: ""})),
    ('labels[""]', Session(labels={"k": ""}), Session(labels={"": ""})),
    ('labels["a/b"]', Session(labels={"a/b": "é" * 255}), Session(labels={"a/b": "a" * 256})),
    ('labels["k"]', Session(labels={"k": "\x01"}), Session(labels={"k": "\0"})),
    ("ttl", Session(ttl=Duration(seconds=1)), Session(ttl=Duration(seconds=0, nanos=999_999_999))),
    ("ttl", Session(ttl=Duration(seconds=3650 * DAY)), Session(ttl=Duration(seconds=3650 * DAY, nanos=1))),
    (
        "ttl",
        Session(ttl=Duration(seconds=1, nanos=999_999_999)),
        Session(ttl=Duration(seconds=1, nanos=1_000_000_000)),
    ),
    ("ttl", Session(ttl=Duration(seconds=60)), Session(ttl=Duration())),
    ("ttl", Session(), Session(ttl=Duration(seconds=-5))),
    ("ttl", Session(), Session(ttl=Duration(seconds=5, nanos=-1))),
    ("ttl", Session(), Session(ttl=Duration(seconds=2**63 - 1))),
    (
        "expire_time",
        Session(expire_time=Timestamp(seconds=253_402_300_799, nanos=999_999_999)),
        Session(expire_time=Timestamp(seconds=253_402_300_800)),
    ),
    (
        "expire_time",
        Session(expire_time=Timestamp(seconds=-62_135_596_800)),
        Session(expire_time=Timestamp(seconds=-62_135_596_801, nanos=999_999_999)),
    ),
    ("expire_time", Session(expire_time=Timestamp()), Session(expire_time=Timestamp(nanos=-1))),
    ("expire_time", Session(), Session(expire_time=Timestamp(nanos=1_000_000_000))),
    (
        "expire_time",
        Session(expire_time=Timestamp(seconds=1)),
        Session(expire_time=Timestamp(seconds=1), ttl=Duration(seconds=1)),
    ),
    ("metadata", with_struct("metadata", 65_536), with_struct("metadata", 65_537)),
    ("state", with_struct("state", MIB), with_struct("state", MIB + 1)),
    ("agent_data", with_struct("agent_data", MIB), with_struct("agent_data", MIB + 1)),
    ("summary", Session(summary="語" * 65_536), Session(summary="a" * 65_537)),
    ("summary", Session(summary="a\n"), Session(summary="a\0")),
    ("config.max_messages", *(Session(config=SessionConfig(max_messages=n)) for n in (10**9, 10**9 + 1))),
    ("config.max_messages", Session(config=SessionConfig()), Session(config=SessionConfig(max_messages=-1))),
    ("config.max_attachments", *(Session(config=SessionConfig(max_attachments=n)) for n in (10**6, 10**6 + 1))),
    (
        "config.max_attachment_bytes",
        *(Session(config=SessionConfig(max_attachment_bytes=2**53 - 1 + n)) for n in (0, 1)),
    ),
    ("config.allowed_tools", *(Session(config=SessionConfig(allowed_tools=["t"] * n)) for n in (256, 257))),
    ("config.allowed_tools[1]", *(Session(config=SessionConfig(allowed_tools=["t", t])) for t in ("t" * 128, ""))),
    ("config.blocked_tools", *(Session(config=SessionConfig(blocked_tools=["t"] * n)) for n in (256, 257))),
    ("config.blocked_tools[0]", *(Session(config=SessionConfig(blocked_tools=["t" * n])) for n in (128, 129))),
    ("config.blocked_tools[0]", *(Session(config=SessionConfig(blocked_tools=[t])) for t in ("a b", "a\nb"))),
    ("config.system_prompt", *(Session(config=SessionConfig(system_prompt="語" * n)) for n in (262_144, 262_145))),
    ("config.system_prompt", *(Session(config=SessionConfig(system_prompt=t)) for t in ("a\n\tb", "a\0b"))),
]


@pytest.mark.parametrize(("path", "good", "bad"), SESSION_BOUNDS)
def test_session_bound(path: str, good: Session, bad: Session) -> None:
    assert session_faults(good) == []
    assert session_faults(bad) == [path]


def test_output_only_fields_of_a_session_are_ignored() -> None:
    session = Session(version=-1, request_count=-1, end_reason=99, create_time=Timestamp(nanos=-1))  # type: ignore[arg-type]
    session.usage.input_tokens = -1
    assert session_faults(session) == []


def test_every_field_of_a_session_has_a_rule_or_is_output_only() -> None:
    ruled = {*session_validation.MUTABLE_FIELDS, "session_id", "type", "user_id", "status"}
    assert ruled | set(OUTPUT_ONLY) == set(Session.DESCRIPTOR.fields_by_name)
    assert not ruled & set(OUTPUT_ONLY)


def user(**fields: object) -> Message:
    return Message(role=Role.ROLE_USER, **fields)  # type: ignore[arg-type]


def one(**kind: object) -> Message:
    return user(parts=[Part(**kind)])  # type: ignore[arg-type]


def metadata(size: int) -> Message:
    return user(metadata=struct_of(size))


def sized(size: int) -> Message:
    """A message of exactly `size` bytes serialised."""
    message = one(text="x" * (size - 100))
    message.parts[0].text += "x" * (size - message.ByteSize())
    assert message.ByteSize() == size
    return message


def number(value: float) -> Struct:
    struct = Struct()
    struct["n"] = value
    return struct


MESSAGE_BOUNDS: list[tuple[Any, ...]] = [
    ("message_id", user(message_id="a" * 255), user(message_id="a" * 256)),
    ("message_id", user(message_id=""), user(message_id="\ta")),
    ("role", Message(role=4), Message(role=5)),  # type: ignore[arg-type]
    ("role", Message(role=1), Message(role=0)),  # type: ignore[arg-type]
    ("role", Message(role=2), Message(role=-1)),  # type: ignore[arg-type]
    ("name", user(name="é" * 128), user(name="a" * 129)),
    ("name", user(name="Ada L."), user(name="Ada\rL.")),
    ("parts", user(parts=[Part(text="")] * 256), user(parts=[Part(text="")] * 257)),
    ("parts", user(), user(parts=[Part()] * 300)),
    ("parts[1]", user(parts=[Part(text="a"), Part(text="")]), user(parts=[Part(text="a"), Part()])),
    ("metadata", metadata(65_536), metadata(65_537)),
    ("m", sized(MIB), sized(MIB + 1)),
    ("usage.input_tokens", *(user(usage=TokenUsage(input_tokens=2**53 - 1 + n)) for n in (0, 1))),
    ("usage.output_tokens", *(user(usage=TokenUsage(output_tokens=n)) for n in (0, -1))),
    ("usage.total_tokens", *(user(usage=TokenUsage(total_tokens=2**53 - 1 + n)) for n in (0, 1))),
    ("usage.reasoning_tokens", *(user(usage=TokenUsage(reasoning_tokens=n)) for n in (1, -1))),
    ("usage.cached_tokens", *(user(usage=TokenUsage(cached_tokens=2**53 - 1 + n)) for n in (0, 1))),
    ("parts[0].text", one(text="a\x01\n"), one(text="a\0")),
    ("parts[0].thinking", one(thinking="a\n"), one(thinking="\0")),
    ('parts[0].data.fields["n"]', one(data=number(1.5)), one(data=number(float("nan")))),
    (
        "parts[0].tool_call.name",
        one(tool_call=ToolCallPart(name="t" * 128)),
        one(tool_call=ToolCallPart(name="t" * 129)),
    ),
    ("parts[0].tool_call.name", one(tool_call=ToolCallPart(name="t")), one(tool_call=ToolCallPart())),
    ("parts[0].tool_call.name", one(tool_call=ToolCallPart(name="t")), one(tool_call=ToolCallPart(name="t\n"))),
    (
        "parts[0].tool_call.tool_call_id",
        *(one(tool_call=ToolCallPart(name="t", tool_call_id="c" * n)) for n in (8192, 8193)),
    ),
    (
        "parts[0].tool_call.arguments_json",
        *(one(tool_call=ToolCallPart(name="t", arguments_json=t)) for t in ('{"broken', "\0")),
    ),
    (
        'parts[0].tool_call.arguments_struct.fields["n"]',
        *(one(tool_call=ToolCallPart(name="t", arguments_struct=number(n))) for n in (-1e308, float("-inf"))),
    ),
    (
        "parts[0].tool_result.tool_call_id",
        *(one(tool_result=ToolResultPart(tool_call_id="c" * n)) for n in (8192, 8193)),
    ),
    ("parts[0].tool_result.text", *(one(tool_result=ToolResultPart(text=t)) for t in ("{\n}", "\0"))),
    (
        'parts[0].tool_result.data.fields["n"]',
        *(one(tool_result=ToolResultPart(data=number(n))) for n in (0.0, float("inf"))),
    ),
    ("parts[0].file.uri", *(one(file=FilePart(uri="u" * n)) for n in (8192, 8193))),
    ("parts[0].file.uri", one(file=FilePart(uri="u")), one(file=FilePart())),
    ("parts[0].json", one(json='{"n": 9007199254740993}'), one(json="\0")),
    ("parts[0].blob.media_type", *(one(blob=BlobPart(data=b"\0", media_type="m" * n)) for n in (255, 256))),
    ("parts[0].blob.media_type", one(blob=BlobPart()), one(blob=BlobPart(media_type="a\n"))),
    ("parts[0].file.media_type", *(one(file=FilePart(uri="u", media_type="m" * n)) for n in (255, 256))),
    ("parts[0].file.name", *(one(file=FilePart(uri="u", name=t)) for t in ("n" * 255, "a\nb"))),
    ("parts[0].file.name", *(one(file=FilePart(uri="u", name="ü" * n)) for n in (255, 256))),
]


@pytest.mark.parametrize(("path", "good", "bad"), MESSAGE_BOUNDS)
def test_message_bound(path: str, good: Message, bad: Message) -> None:
    assert message_faults(good) == []
    assert message_faults(bad) == [path]


def test_every_kind_of_part_is_checked() -> None:
    kinds = {field.name for field in Part.DESCRIPTOR.oneofs_by_name["kind"].fields}
    tested = {path.split(".")[1] for path, _, _ in MESSAGE_BOUNDS if path.startswith("parts[0].")}
    assert tested == kinds


def test_a_long_path_is_cut_off() -> None:
    session = Session()
    struct = session.state
    for _ in range(10):
        struct = struct.get_or_create_struct("k" * 1000)
    struct["nan"] = float("nan")
    (path,) = session_faults(session)
    assert len("session." + path) == validation.PATH_CHARACTERS
    assert path.endswith("...")


def test_violations_are_bounded() -> None:
    session = Session(labels={f"bad key {n}": "\0" for n in range(60)})
    found = FieldViolations()
    session_validation.new_session(found, "session", session)
    assert found.enough
    with pytest.raises(InvalidFields) as refused:
        found.check()
    assert len(refused.value.violations) == InvalidFields.MOST


def test_what_was_found_is_reported_in_order() -> None:
    assert session_faults(Session(session_id="\t", agent_id="\n", name="\0")) == ["session_id", "agent_id", "name"]


@pytest.mark.parametrize(
    "check",
    [
        lambda found: validation.enum(found, "p", 9, SessionStatus.DESCRIPTOR),
        lambda found: validation.timestamp(found, "p", Timestamp(nanos=-1)),
        lambda found: session_validation.life_time(found, "p", Duration()),
    ],
)
def test_a_fault_has_the_path_it_was_given(check: Callable[[FieldViolations], object]) -> None:
    found = FieldViolations()
    check(found)
    assert paths(found) == ["p"]
