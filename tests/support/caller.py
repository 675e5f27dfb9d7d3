"""Commands as the wire would make them, and shorthands to apply them."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from sessiond.v1.event_pb2 import Event
from sessiond.v1.message_pb2 import Message, Part, Role
from sessiond.v1.session_pb2 import AgentMode, EndReason, Session, SessionStatus, SessionType
from sessiond.v1.session_service_pb2 import StructUpdate
from sessiond_server.domain import commands as c
from sessiond_server.domain.forks.rows import ForkPlace
from sessiond_server.domain.rows import Policy
from sessiond_server.errors import SessiondError
from sessiond_server.store.commits import Commits
from sessiond_server.store.log_reads import LogReads

SECOND = 1_000_000
DAY = 86_400 * SECOND
CREATED = SessionStatus.SESSION_STATUS_CREATED
ACTIVE = SessionStatus.SESSION_STATUS_ACTIVE
ENDED = SessionStatus.SESSION_STATUS_ENDED
PRINT = b"fingerprint-0001"
OTHER_PRINT = b"fingerprint-0002"

_numbers = itertools.count(1)

PATCHING = Policy(least_patched_bytes=0, content_patches=4)
"""Changes of PADDED sessions are stored as patches."""
PADDED = "so that patches are smaller than the content " * 8
"""For the summary of a session."""

T = TypeVar("T")
E = TypeVar("E", bound=SessiondError)


def struct(**fields: Any) -> Struct:
    return ParseDict(fields, Struct())


def message(text: str = "hello", message_id: str = "", role: Role.ValueType = Role.ROLE_USER) -> Message:
    return Message(message_id=message_id, role=role, parts=[Part(text=text)])


def session(**fields: Any) -> Session:
    """A validated session of a CreateSession: active unless told."""
    made = Session(
        type=SessionType.SESSION_TYPE_AGENT, status=ACTIVE, agent_mode=AgentMode.AGENT_MODE_GENERAL, name="named"
    )
    made.MergeFrom(Session(**fields))
    if "name" in fields:
        made.name = fields["name"]
    return made


@dataclass(frozen=True)
class Caller:
    """Makes the commands of one principal. Without a request_id each gets one of the server's own."""

    scope: c.Scope = field(default_factory=lambda: c.Scope("tenant"))

    def command(
        self,
        session_id: str,
        action: c.Action,
        request_id: str = "",
        *,
        fingerprint: bytes = PRINT,
        expected_version: int = 0,
        fence: c.Fence | None = None,
    ) -> c.Command:
        return c.Command(
            scope=self.scope,
            session_id=session_id,
            action=action,
            actor="test",
            request_id=request_id or f"!{next(_numbers)}",
            fingerprint=fingerprint if request_id else b"",
            expected_version=expected_version,
            fence=fence,
        )

    def create(self, session_id: str, request_id: str = "", *, reuse: bool = False, **fields: Any) -> c.Command:
        action = c.CreateSession(session(session_id=session_id, **fields), reuse_deleted=reuse)
        return self.command(session_id, action, request_id)

    def append(self, session_id: str, *texts: str, request_id: str = "", **more: Any) -> c.Command:
        messages = [message(text) for text in texts or ("hello",)]
        return self.command(session_id, c.AppendMessages(messages), request_id, **more)

    def append_with(self, session_id: str, *writes: c.DocumentWrite, request_id: str = "", **more: Any) -> c.Command:
        """An append of one message that writes documents too."""
        return self.command(session_id, c.AppendMessages([message()], documents=writes), request_id, **more)

    def append_ids(self, session_id: str, *message_ids: str, request_id: str = "") -> c.Command:
        messages = [message(f"text of {i}", i) for i in message_ids]
        return self.command(session_id, c.AppendMessages(messages), request_id)

    def update(self, session_id: str, request_id: str = "", *, merge: bool = False, **fields: Any) -> c.Command:
        how = StructUpdate.STRUCT_UPDATE_MERGE if merge else StructUpdate.STRUCT_UPDATE_REPLACE
        return self.command(session_id, c.UpdateSession(Session(**fields), list(fields), how), request_id)

    def set_keys(self, session_id: str, request_id: str = "", *, full: bool = True, **members: Any) -> c.Command:
        """Sets members of the state. `full`: the answer has the content."""
        how = StructUpdate.STRUCT_UPDATE_SET_KEYS
        update = c.UpdateSession(Session(state=struct(**members)), ["state"], how, full=full)
        return self.command(session_id, update, request_id)

    def update_and_append(
        self, session_id: str, *texts: str, request_id: str = "", remove_keys: Sequence[str] = (), **fields: Any
    ) -> c.Command:
        """An append that sets members of the objects among `fields`, and replaces other fields."""
        paths = list(dict.fromkeys([*fields, *(key.partition(".")[0] for key in remove_keys)]))
        update = c.UpdateSession(Session(**fields), paths, StructUpdate.STRUCT_UPDATE_SET_KEYS, remove_keys)
        messages = [message(text) for text in texts or ("hello",)]
        return self.command(session_id, c.UpdateAndAppend(messages, update), request_id)

    def redact(self, session_id: str, message_id: str, reason: str = "", request_id: str = "") -> c.Command:
        return self.command(session_id, c.RedactMessage(message_id, reason), request_id)

    def pop(self, session_id: str, count: int = 1, request_id: str = "", **more: Any) -> c.Command:
        """Deletes the newest messages and returns them."""
        return self.command(session_id, c.DeleteMessages(last_n=count, return_messages=True), request_id, **more)

    def delete_messages(self, session_id: str, *message_ids: str, request_id: str = "") -> c.Command:
        return self.command(session_id, c.DeleteMessages(message_ids), request_id)

    def trim(self, session_id: str, from_seq: int, to_seq: int, request_id: str = "") -> c.Command:
        return self.command(session_id, c.DeleteMessages(from_seq=from_seq, to_seq=to_seq), request_id)

    def delete(self, session_id: str, request_id: str = "", **more: Any) -> c.Command:
        return self.command(session_id, c.DeleteSession(), request_id, **more)

    def end(self, session_id: str, request_id: str = "") -> c.Command:
        return self.command(session_id, c.EndSession(EndReason.END_REASON_CLIENT), request_id)

    def suspend(self, session_id: str, request_id: str = "") -> c.Command:
        return self.command(session_id, c.SuspendSession(), request_id)

    def fork(
        self, session_id: str, fork_id: str, *, seq: int = 0, message_id: str = "", request_id: str = "", **more: Any
    ) -> c.Command:
        """`more`: `version` of the parent, and fields that the fork has instead of the parent's."""
        version = more.pop("version", 0)
        update = c.UpdateSession(Session(**more), list(more), StructUpdate.STRUCT_UPDATE_REPLACE) if more else None
        return self.command(fork_id, c.ForkSession(session_id, ForkPlace(seq, message_id), version, update), request_id)

    def rewind(
        self,
        session_id: str,
        to: int | str = 0,
        request_id: str = "",
        *,
        before: str = "",
        restore: bool = True,
        **more: Any,
    ) -> c.Command:
        """To a place, to a message, or to the place before one."""
        message_id = before or (to if isinstance(to, str) else "")
        place = ForkPlace(to if isinstance(to, int) else 0, message_id, bool(before))
        return self.command(session_id, c.RewindSession(place, restore), request_id, **more)

    def touch(self, session_id: str, extend_us: int, request_id: str = "") -> c.Command:
        return self.command(session_id, c.TouchSession(extend_us), request_id)


async def accepted(store: Commits, *commands: c.Command) -> Sequence[c.Outcome]:
    """Applies them as one batch; fails unless all were accepted."""
    results = (await store.apply(commands)).results
    refused = [result for result in results if isinstance(result, SessiondError)]
    assert not refused
    return cast("Sequence[c.Outcome]", results)


async def one(store: Commits, command: c.Command, kind: type[T]) -> T:
    """Applies one command; fails unless its outcome is of that kind."""
    (result,) = (await store.apply([command])).results
    assert isinstance(result, kind), result
    return result


async def refused(store: Commits, command: c.Command, kind: type[E]) -> E:
    """Applies one command; fails unless it was refused for that reason."""
    (result,) = (await store.apply([command])).results
    assert type(result) is kind, result
    return result


async def whole_log(store: LogReads, scope: c.Scope, session_id: str) -> list[Event]:
    """Every event; fails unless they are base_version + 1 ... version."""
    events: list[Event] = []
    while True:
        after = events[-1].seq if events else 0
        page = await store.read_log((scope.tenant_id, session_id), after_seq=after, limit=1000)
        events += [Event.FromString(entry.data) for entry in page.entries]
        if not page.entries or events[-1].seq == page.head.version:
            break
    base = events[0].session.base_version
    assert [event.seq for event in events] == list(range(base + 1, page.head.version + 1))
    assert [event.previous_event_id for event in events[1:]] == [event.event_id for event in events[:-1]]
    return events


def texts(messages: Sequence[bytes]) -> list[str]:
    return [part.text for item in messages for part in Message.FromString(item).parts]
