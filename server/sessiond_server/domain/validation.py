"""Validates resource messages by the rules that their proto comments state.

Each check adds violations to `found`, under the path of the field in the request. Checks ignore output-only fields.
Rules that need the clock or the stored session (is `expire_time` in the future? is the tool allowed?) are in the
`rules.py` of each resource.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from sessiond.v1.message_pb2 import FilePart, Message, Part, ToolCallPart, ToolResultPart
from sessiond.v1.run_pb2 import Failure, Run
from sessiond.v1.session_pb2 import AgentMode, Session, SessionConfig, SessionStatus, SessionType, TokenUsage
from sessiond.v1.tool_call_pb2 import ToolCall, ToolData
from sessiond_server.domain import structs, text
from sessiond_server.errors import InvalidFields, Violation

KIB: Final = 1024
MIB: Final = 1024 * KIB

MESSAGE_BYTES: Final = MIB
METADATA_BYTES: Final = 64 * KIB
STATE_BYTES: Final = MIB
SUMMARY_CHARACTERS: Final = 65_536
SYSTEM_PROMPT_CHARACTERS: Final = 262_144
LABELS: Final = 64
LABELS_BYTES: Final = 16 * KIB
"""Keeps a page of 100 sessions without content below 4 MiB."""
RUN_METADATA_BYTES: Final = 16 * KIB
ARGUMENTS_BYTES: Final = 256 * KIB
RESULT_BYTES: Final = MIB
FAILURE_CHARACTERS: Final = 4096
TOOLS: Final = 256
PARTS: Final = 256
MOST_TOKENS: Final = 2**53
TTL_SECONDS: Final = (1, 3650 * 24 * 3600)
LEASE_SECONDS: Final = (5, 3600)

PATH_CHARACTERS: Final = 160
"""Longest path of a violation. 16 violations must fit into the 8 KiB that gRPC allows for metadata."""

_EARLIEST_SECOND: Final = -62_135_596_800  # 0001-01-01T00:00:00Z, the first instant that a Timestamp may be
_LATEST_SECOND: Final = 253_402_300_799  # 9999-12-31T23:59:59Z, the last; timestamptz reaches further both ways

_CONFIG_LIMITS: Final = {
    "max_messages": 1_000_000_000,
    "max_attachments": 1_000_000,
    "max_attachment_bytes": 2**53,
}
CONFIG_FIELDS: Final = frozenset(SessionConfig.DESCRIPTOR.fields_by_name)


class FieldViolations:
    """The violations of one request."""

    __slots__ = ("_violations",)

    def __init__(self) -> None:
        self._violations: list[Violation] = []

    def add(self, path: str, rule: str | None) -> None:
        """Records that the field at `path` breaks `rule`. Does nothing if `rule` is None. Truncates long paths."""
        if rule is not None:
            if len(path) > PATH_CHARACTERS:
                path = path[: PATH_CHARACTERS - 3] + "..."
            self._violations.append(Violation(path, rule))

    @property
    def enough(self) -> bool:
        """Whether the limit of reported violations is reached, so that loops over the request may stop."""
        return len(self._violations) >= InvalidFields.MOST

    def check(self) -> None:
        """Raises InvalidFields if there is any violation."""
        if self._violations:
            raise InvalidFields(self._violations)


def enum(found: FieldViolations, path: str, value: int, known: EnumDescriptor) -> None:
    """Checks that an enum's number is known to this version. Zero (unspecified) is always valid."""
    if value != 0 and value not in known.values_by_number:
        found.add(path, "must be a known value")


def struct(found: FieldViolations, path: str, value: Struct, most_bytes: int = 0) -> None:
    """Checks an object: serialised size, depth, no NaN, no infinity, no U+0000. Adds only the first fault."""
    fault = structs.fault(value, most_bytes)
    if fault is not None:
        found.add(path + fault[0], fault[1])


def labels(found: FieldViolations, path: str, value: Mapping[str, str], most: int = LABELS) -> None:
    if len(value) > most:
        found.add(path, f"must be at most {most}")
    if sum(len(key) + len(label.encode()) for key, label in value.items()) > LABELS_BYTES:
        found.add(path, "must be at most 16 KiB, keys and values together")
    for key, label in value.items():
        if found.enough:
            return
        here = f"{path}[{text.quoted_key(key)}]"
        found.add(here, text.label_key(key))
        found.add(here, text.text(label, 255))


def timestamp(found: FieldViolations, path: str, value: Timestamp) -> bool:
    """Checks that a Timestamp lies in the years 1 to 9999 and has 0 to 999 999 999 nanoseconds; returns whether."""
    if not _EARLIEST_SECOND <= value.seconds <= _LATEST_SECOND or not 0 <= value.nanos <= 999_999_999:
        found.add(path, "must be a valid timestamp of the years 1 to 9999")
        return False
    return True


def life_time(found: FieldViolations, path: str, value: Duration) -> None:
    """Checks a duration of 1 second to 3650 days."""
    least, most = TTL_SECONDS
    valid = 0 <= value.nanos <= 999_999_999
    if not valid or not least <= value.seconds <= most or (value.seconds == most and value.nanos > 0):
        found.add(path, "must be 1 second to 3650 days")


def lease(found: FieldViolations, path: str, value: Duration) -> None:
    """Checks a duration of 5 seconds to 1 hour."""
    least, most = LEASE_SECONDS
    valid = 0 <= value.nanos <= 999_999_999
    if not valid or not least <= value.seconds <= most or (value.seconds == most and value.nanos > 0):
        found.add(path, "must be 5 seconds to 1 hour")


def usage(found: FieldViolations, path: str, value: TokenUsage) -> None:
    for field, tokens in value.ListFields():
        if not 0 <= tokens <= MOST_TOKENS:
            found.add(f"{path}.{field.name}", "must be 0 to 2^53")


def config(found: FieldViolations, path: str, value: SessionConfig) -> None:
    for name in sorted(CONFIG_FIELDS):
        config_field(found, path, value, name)


def config_field(found: FieldViolations, path: str, value: SessionConfig, name: str) -> None:
    """Checks one field of a config, by its name in CONFIG_FIELDS."""
    here = f"{path}.{name}"
    if name == "system_prompt":
        found.add(here, text.text(value.system_prompt, SYSTEM_PROMPT_CHARACTERS))
    elif name == "allowed_tools":
        _tools(found, here, value.allowed_tools)
    elif name == "blocked_tools":
        _tools(found, here, value.blocked_tools)
    elif not 0 <= getattr(value, name) <= _CONFIG_LIMITS[name]:
        found.add(here, f"must be 0 to {_CONFIG_LIMITS[name]}")


def _tools(found: FieldViolations, path: str, names: Sequence[str]) -> None:
    if len(names) > TOOLS:
        found.add(path, f"must be at most {TOOLS}")
    for index, name in enumerate(names):
        if found.enough:
            return
        found.add(f"{path}[{index}]", text.line(name, 1, 128))


def new_session(found: FieldViolations, path: str, session: Session) -> None:
    """Checks a session to create. `session_id` may be empty; type, mode and status may be unspecified."""
    if session.session_id:
        found.add(f"{path}.session_id", text.identifier(session.session_id))
    enum(found, f"{path}.type", session.type, SessionType.DESCRIPTOR)
    found.add(f"{path}.user_id", text.line(session.user_id, 0, 128))
    if session.status not in (
        SessionStatus.SESSION_STATUS_UNSPECIFIED,
        SessionStatus.SESSION_STATUS_CREATED,
        SessionStatus.SESSION_STATUS_ACTIVE,
    ):
        found.add(f"{path}.status", "must be SESSION_STATUS_CREATED or SESSION_STATUS_ACTIVE")
    for field, _ in session.ListFields():
        if field.name in _MUTABLE:
            mutable_field(found, path, session, field.name)
    if session.HasField("ttl") and session.HasField("expire_time"):
        found.add(f"{path}.expire_time", EXCLUSIVE_RULE)


EXCLUSIVE_RULE: Final = "excludes ttl: set one of them"


def mutable_field(found: FieldViolations, path: str, session: Session, name: str) -> None:
    """Checks one field of MUTABLE_FIELDS. An unset field is always valid: in an update it clears the stored one."""
    _MUTABLE[name](found, f"{path}.{name}", session)


def _name_of(field: str) -> Callable[[FieldViolations, str, Session], None]:
    return lambda found, path, session: found.add(path, text.line(getattr(session, field), 0, 128))


def _object(field: str, most_bytes: int) -> Callable[[FieldViolations, str, Session], None]:
    return lambda found, path, session: struct(found, path, getattr(session, field), most_bytes)


def _ttl(found: FieldViolations, path: str, session: Session) -> None:
    if session.HasField("ttl"):
        life_time(found, path, session.ttl)


def _expire_time(found: FieldViolations, path: str, session: Session) -> None:
    if session.HasField("expire_time"):
        timestamp(found, path, session.expire_time)


_MUTABLE: Final[Mapping[str, Callable[[FieldViolations, str, Session], None]]] = {
    "agent_id": _name_of("agent_id"),
    "team_id": _name_of("team_id"),
    "workflow_id": _name_of("workflow_id"),
    "agent_mode": lambda found, path, session: enum(found, path, session.agent_mode, AgentMode.DESCRIPTOR),
    "name": lambda found, path, session: found.add(path, text.text(session.name, 200)),
    "labels": lambda found, path, session: labels(found, path, session.labels),
    "ttl": _ttl,
    "expire_time": _expire_time,
    "metadata": _object("metadata", METADATA_BYTES),
    "state": _object("state", STATE_BYTES),
    "agent_data": _object("agent_data", STATE_BYTES),
    "summary": lambda found, path, session: found.add(path, text.text(session.summary, SUMMARY_CHARACTERS)),
    "config": lambda found, path, session: config(found, path, session.config),
}
MUTABLE_FIELDS: Final = tuple(_MUTABLE)
"""Fields of Session that an update may change, in the order of UpdateSessionRequest.update_mask's comment."""


def new_message(found: FieldViolations, path: str, message: Message, size: int) -> None:
    """Checks a message to append, of `size` serialised bytes. `message_id` may be empty.

    Runs for every message of the most frequent request, so each usual field costs only one comparison.
    """
    if message.message_id:
        found.add(f"{path}.message_id", text.identifier(message.message_id))
    if not 1 <= message.role <= 4:
        found.add(f"{path}.role", "must be a known role")
    if message.run_id:
        found.add(f"{path}.run_id", text.identifier(message.run_id))
    if name := message.name:
        found.add(f"{path}.name", text.line(name, 0, 128))
    if size > MESSAGE_BYTES:
        found.add(path, f"must be at most {MESSAGE_BYTES} bytes serialised")
    if message.HasField("metadata"):
        struct(found, f"{path}.metadata", message.metadata, METADATA_BYTES)
    if message.HasField("usage"):
        usage(found, f"{path}.usage", message.usage)
    parts = message.parts
    if len(parts) > PARTS:
        found.add(f"{path}.parts", f"must be at most {PARTS}")
        return
    for index, part in enumerate(parts):
        kind = part.WhichOneof("kind")
        if kind != "text":
            _part(found, f"{path}.parts[{index}]", part, kind)
        elif "\0" in part.text:
            found.add(f"{path}.parts[{index}].text", text.NUL_RULE)


_Kind = str | None


def _part(found: FieldViolations, path: str, part: Part, kind: _Kind) -> None:
    match kind:
        case "data":
            struct(found, f"{path}.data", part.data)
        case "tool_call":
            _tool_call(found, f"{path}.tool_call", part.tool_call)
        case "tool_result":
            _tool_result(found, f"{path}.tool_result", part.tool_result)
        case "thinking":
            if "\0" in part.thinking:
                found.add(f"{path}.thinking", text.NUL_RULE)
        case "file":
            _file(found, f"{path}.file", part.file)
        case None:
            found.add(path, "must have a kind")


def _tool_call(found: FieldViolations, path: str, call: ToolCallPart) -> None:
    found.add(f"{path}.tool_call_id", text.line(call.tool_call_id, 0, 256))
    found.add(f"{path}.name", text.line(call.name, 1, 128))
    if call.HasField("arguments_struct"):
        struct(found, f"{path}.arguments_struct", call.arguments_struct)
    elif "\0" in call.arguments_json:
        found.add(f"{path}.arguments_json", text.NUL_RULE)


def _tool_result(found: FieldViolations, path: str, result: ToolResultPart) -> None:
    found.add(f"{path}.tool_call_id", text.line(result.tool_call_id, 0, 256))
    if result.HasField("data"):
        struct(found, f"{path}.data", result.data)
    elif "\0" in result.text:
        found.add(f"{path}.text", text.NUL_RULE)


def _file(found: FieldViolations, path: str, file: FilePart) -> None:
    found.add(f"{path}.uri", text.line(file.uri, 1, 2048))
    found.add(f"{path}.media_type", text.line(file.media_type, 0, 255))
    found.add(f"{path}.name", text.line(file.name, 0, 255))


def run(found: FieldViolations, path: str, value: Run) -> None:
    """Checks the fields that a client sets on a run, in BeginRun or in CreateSession. `run_id` may be empty."""
    if value.run_id:
        found.add(f"{path}.run_id", text.identifier(value.run_id))
    found.add(f"{path}.agent_id", text.line(value.agent_id, 0, 128))
    found.add(f"{path}.model", text.line(value.model, 0, 128))
    if value.HasField("metadata"):
        struct(found, f"{path}.metadata", value.metadata, RUN_METADATA_BYTES)


def failure(found: FieldViolations, path: str, value: Failure) -> None:
    found.add(f"{path}.code", text.line(value.code, 0, 128))
    found.add(f"{path}.message", text.text(value.message, FAILURE_CHARACTERS))


def new_tool_call(found: FieldViolations, path: str, call: ToolCall) -> None:
    """Checks a tool call to request. `tool_call_id` may be empty."""
    for name in ("tool_call_id", "message_id"):
        if value := getattr(call, name):
            found.add(f"{path}.{name}", text.identifier(value))
    found.add(f"{path}.model_call_id", text.line(call.model_call_id, 0, 256))
    found.add(f"{path}.name", text.line(call.name, 1, 128))
    if call.HasField("arguments"):
        tool_data(found, f"{path}.arguments", call.arguments, ARGUMENTS_BYTES)


def tool_data(found: FieldViolations, path: str, value: ToolData, most_bytes: int) -> None:
    if value.ByteSize() > most_bytes:
        found.add(path, f"must be at most {most_bytes} bytes serialised")
        return
    match value.WhichOneof("kind"):
        case "data":
            struct(found, f"{path}.data", value.data)
        case "text":
            if "\0" in value.text:
                found.add(f"{path}.text", text.NUL_RULE)
        case None:
            found.add(path, "must have a kind")
