"""`sessiond show SESSION`: prints a session and its log in readable form, including contents.

It reads the database directly, so it works whether or not the service runs. What cannot be parsed is named, and the
rest printed; the exit code is 1 then.
"""

import asyncio
from collections.abc import Iterator
from datetime import timedelta

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtoMessage
from google.protobuf.timestamp_pb2 import Timestamp

from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.message_pb2 import Message, Part, Role
from sessiond.v1.session_pb2 import AgentMode, EndReason, Session, SessionStatus, SessionType
from sessiond_server.app import database
from sessiond_server.app.encryption import check_keys, encryption_of
from sessiond_server.domain.commands import Scope
from sessiond_server.errors import SessionNotFound
from sessiond_server.settings import Settings
from sessiond_server.store.contract import Store

PAGE = 500
SHORT = 96
"""Characters of a text that are shown without `--full`."""


def run(settings: Settings, session_id: str, tenant: str, full: bool) -> int:
    return asyncio.run(_show(settings, Scope(tenant), session_id, full))


async def _show(settings: Settings, scope: Scope, session_id: str, full: bool) -> int:
    if settings.store == "memory":
        print("the memory store can only be read through the service")
        return 1
    from sessiond_server.postgres.store import PostgresStore

    async with database.started(settings) as dsn:
        if dsn is None:
            print(f"there is no data in {settings.data_dir} yet")
            return 1
        if settings.databases is not None:
            async with PostgresStore(dsn, max_connections=2) as default:
                await default.placement()
                home = default.homes.of(scope.tenant_id)
            dsn = dsn if home is None else database.dsn_of(settings, home)
            assert dsn is not None
        async with PostgresStore(dsn, max_connections=1, encryption=encryption_of(settings)) as store:
            await check_keys(store)
            try:
                snapshot = await store.get_session(scope, session_id, content=True)
                damaged = _print_session(snapshot.core + snapshot.content, full)
                damaged += await _print_log(store, scope, session_id, full)
            except SessionNotFound:
                print(f"tenant {plain(scope.tenant_id)} has no session {plain(session_id)}")
                return 1
    if damaged:
        print(f"\ndamaged: {damaged}; docs/operations.md, under Corrupt row, says how to mend that")
    return 1 if damaged else 0


def _print_session(data: bytes, full: bool) -> int:
    """Returns 1 if it cannot be parsed."""
    try:
        session = Session.FromString(data)
    except DecodeError:
        print("session    DAMAGED: its stored bytes cannot be parsed")
        return 1
    for line in session_lines(session, full):
        print(line)
    return 0


async def _print_log(store: Store, scope: Scope, session_id: str, full: bool) -> int:
    """Returns how many events cannot be parsed."""
    print("\nlog")
    after = damaged = 0
    while entries := (await store.read_log((scope.tenant_id, session_id), after_seq=after, limit=PAGE)).entries:
        for entry in entries:
            try:
                event = Event.FromString(entry.data)
            except DecodeError:
                print(f"{entry.seq:>7}  DAMAGED: its stored bytes cannot be parsed")
                damaged += 1
                continue
            for line in event_lines(event, full):
                print(line)
        after = entries[-1].seq
    return damaged


def session_lines(session: Session, full: bool) -> Iterator[str]:
    """One line per field that is set; structs as JSON."""
    status = SessionStatus.Name(session.status).removeprefix("SESSION_STATUS_")
    if session.end_reason:
        status += f" ({EndReason.Name(session.end_reason).removeprefix('END_REASON_')})"
    tokens, origin, template = session.usage, session.forked_from, session.template
    rows = [
        ("session", session.session_id),
        ("name", session.name),
        ("status", status),
        ("type", SessionType.Name(session.type).removeprefix("SESSION_TYPE_").lower()),
        ("mode", AgentMode.Name(session.agent_mode).removeprefix("AGENT_MODE_").lower()),
        *((field, getattr(session, f"{field}_id")) for field in ("agent", "team", "workflow", "user")),
        ("labels", ", ".join(f"{key}={value}" for key, value in sorted(session.labels.items()))),
        ("created", when(session.create_time)),
        ("began", when(session.client_time) if session.HasField("client_time") else ""),
        ("template", f"{template.template_id} at {template.version}" if session.HasField("template") else ""),
        ("fork of", f"{origin.session_id} at {origin.seq}" if session.HasField("forked_from") else ""),
        ("updated", when(session.update_time)),
        ("active", when(session.last_activity_time) if session.HasField("last_activity_time") else ""),
        ("expires", when(session.expire_time) if session.HasField("expire_time") else "never"),
        ("ttl", str(timedelta(seconds=session.ttl.seconds)) if session.HasField("ttl") else ""),
        ("ended", when(session.end_time) if session.HasField("end_time") else ""),
        ("version", str(session.version)),
        ("counts", f"{session.request_count} requests, {session.message_count} messages, {session.run_count} runs"),
        ("rewound", ", ".join(f"{one.first_seq}-{one.last_seq}" for one in session.rewound)),
        ("tokens", f"{tokens.input_tokens} in, {tokens.output_tokens} out" if session.HasField("usage") else ""),
        ("summary", session.summary),
        ("metadata", as_json(session.metadata) if session.HasField("metadata") else ""),
        ("state", as_json(session.state) if session.HasField("state") else ""),
        ("agent data", as_json(session.agent_data) if session.HasField("agent_data") else ""),
        ("config", as_json(session.config) if session.HasField("config") else ""),
    ]
    for label, value in rows:
        if value:
            yield f"{label:<11}{shorten(value, full)}"


def event_lines(event: Event, full: bool) -> Iterator[str]:
    """One line for the event and, if it is a message, one line per part."""
    kind = EventType.Name(event.type).removeprefix("EVENT_TYPE_")
    asked = f" request {plain(event.request_id)}" if event.request_id else ""
    yield f"{event.seq:>7}  {when(event.create_time)}  {kind} by {plain(event.actor)}{asked}"
    if event.HasField("message"):
        yield from message_lines(event.message, full)
    elif full and event.HasField("session"):
        yield f"{'':>9}{plain(as_json(event.session))}"


def message_lines(message: Message, full: bool) -> Iterator[str]:
    role = Role.Name(message.role).removeprefix("ROLE_").lower()
    name = f" {plain(message.name)}" if message.name else ""
    yield f"{'':>9}{role}{name} ({plain(message.message_id)})"
    if message.HasField("delete_time"):
        yield f"{'':>11}deleted {when(message.delete_time)}"
    if message.HasField("redact_time"):
        yield f"{'':>11}redacted {when(message.redact_time)}: {shorten(message.redact_reason, full)}"
    for part in message.parts:
        yield f"{'':>11}{shorten(part_text(part), full)}"


def part_text(part: Part) -> str:
    kind = part.WhichOneof("kind")
    if kind == "text":
        return part.text
    if kind == "thinking":
        return f"thinking: {part.thinking}"
    if kind == "tool_call":
        call = part.tool_call
        arguments = call.arguments_json or (as_json(call.arguments_struct) if call.HasField("arguments_struct") else "")
        return f"calls {call.name}({arguments}) as {call.tool_call_id}"
    if kind == "tool_result":
        result = part.tool_result
        text = result.text or (as_json(result.data) if result.HasField("data") else "")
        return f"{'error' if result.is_error else 'result'} of {result.tool_call_id}: {text}"
    if kind == "file":
        return f"file {part.file.name} {part.file.media_type} {part.file.uri}"
    if kind == "json":
        return part.json
    if kind == "blob":
        return f"{len(part.blob.data)} bytes {part.blob.media_type}"
    return as_json(part.data)


def as_json(message: ProtoMessage) -> str:
    return json_format.MessageToJson(message, indent=None, ensure_ascii=False)


def when(time: Timestamp) -> str:
    """The time in UTC, to the millisecond."""
    return time.ToDatetime().isoformat(sep=" ", timespec="milliseconds") + "Z"


def shorten(text: str, full: bool) -> str:
    """The text on one line, truncated unless `full`."""
    if full or len(text) <= SHORT:
        return plain(text)
    return f"{plain(text[:SHORT])}... ({len(text)} characters)"


def plain(text: str) -> str:
    """The text with control and formatting characters escaped, so that it cannot move the cursor, change colours or
    hide anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
