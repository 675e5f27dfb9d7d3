"""Makes a session's rows out of the events of an export, and proves that they fold to the exported session."""

from dataclasses import replace
from typing import Final

from google.protobuf.json_format import MessageToJson

from sessiond.patches import CONTENT_FIELDS
from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.export_service_pb2 import ExportHeader
from sessiond.v1.message_pb2 import Message
from sessiond.v1.run_pb2 import Run
from sessiond.v1.session_pb2 import Session, SessionView
from sessiond.v1.tool_call_pb2 import ToolCall
from sessiond_server.domain import encoding, fold, session_rows, text, validation
from sessiond_server.domain.imports import validation as import_validation
from sessiond_server.domain.imports.rows import Imported, ImportedFile, StagedRows
from sessiond_server.domain.messages import marks
from sessiond_server.domain.rewinds import ranges
from sessiond_server.domain.rows import EventRow, Head, HeadRow, Key, RunRow
from sessiond_server.domain.runs.counters import RunCounters
from sessiond_server.domain.runs.work import OPEN_CALLS, OPEN_RUNS, count, tool_call_row
from sessiond_server.domain.sessions import lifecycle
from sessiond_server.domain.sessions import validation as session_validation
from sessiond_server.domain.sessions.columns import index_row
from sessiond_server.domain.sessions.content import is_patch, stored_patch, whole
from sessiond_server.domain.sessions.parts import content_of, core_of, limits_of
from sessiond_server.domain.times import microseconds
from sessiond_server.domain.validation import FieldViolations
from sessiond_server.errors import ImportRefused, InvalidFields

FORMAT: Final = 1
"""The version of the form that this server writes and reads."""
LATEST_US: Final = 300 * 1_000_000
"""How far the clock of the exporting database may be ahead of ours, in microseconds."""
_CHAIN: Final = 128
"""Patches of a content that are kept before they are applied."""
_DATA: Final = ("arguments", "result", "late_result")
_LATE: Final = EventType.EVENT_TYPE_TOOL_CALL_LATE_RESULT
_APPENDED: Final = EventType.EVENT_TYPE_MESSAGE_APPENDED
_FORKED: Final = EventType.EVENT_TYPE_SESSION_FORKED
_SESSION_SCOPE: Final = 4
"""DOCUMENT_SCOPE_SESSION."""


class Broken(Exception):
    """A record breaks a rule, which is the argument. The caller knows the line."""


def checked_header(header: ExportHeader) -> None:
    """Raises ImportRefused, for line 1, if no session can be imported from this header."""
    session = header.session
    if header.format_version != FORMAT:
        raise ImportRefused(1, f"header.format_version must be {FORMAT}")
    found = FieldViolations()
    import_validation.session(found, "header.session", session)
    session_validation.content_size(found, "header.session", len(content_of(session)))
    if not 0 <= session.base_version < session.version:
        found.add("header.session.version", "must be above base_version")
    if session.HasField("forked_from"):
        _origin(found, session)
    if session.HasField("template"):
        found.add("header.session.template.template_id", text.identifier(session.template.template_id))
        if not 1 <= session.template.version <= validation.MOST_INTEGER:
            found.add("header.session.template.version", "must be 1 to 2^53 - 1")
    try:
        found.check()
    except InvalidFields as error:
        raise ImportRefused(1, _first(error)) from None


def _origin(found: FieldViolations, session: Session) -> None:
    path, origin = "header.session.forked_from", session.forked_from
    found.add(f"{path}.session_id", text.identifier(origin.session_id))
    if not session.base_version < origin.seq < session.version:
        found.add(f"{path}.seq", "must be a place before the last event")


class ImportedLog:
    """The events of one import, from the first on, in the order of `seq`. Its memory does not grow with their number,
    but with that of the session's attachments, open runs and open tool calls."""

    def __init__(self, header: ExportHeader, key: Key, now_us: int) -> None:
        """`header`: as checked_header wants it. `key`: the session to make. `now_us`: the time of the import."""
        self.named = header.session.session_id
        """How the events that are added name the session."""
        self.session = Session()
        """The exported session, with the id of the one to make."""
        self.session.CopyFrom(header.session)
        self.session.session_id = key[1]
        self._key = key
        self._latest_us = now_us + LATEST_US
        self._core = Session(base_version=self.session.base_version, version=self.session.base_version)
        self._chain: list[bytes] = []
        self._counters = RunCounters()
        self._has_counters = False
        self._open_runs: dict[str, Run] = {}
        self._open_calls: dict[str, bool] = {}
        """Whether they wait for an approval."""
        self.files: dict[str, ImportedFile] = {}
        """Attachments that the session has so far, in order of `seq`."""

    @property
    def seq(self) -> int:
        """Of the last event."""
        return self._core.version

    @property
    def complete(self) -> bool:
        return self._core.version >= self.session.version

    def add(self, event: Event, rows: StagedRows) -> None:
        """Adds the rows of the next event. Changes the event. Raises Broken."""
        found = FieldViolations()
        import_validation.event(found, event, event.ByteSize())
        try:
            found.check()
        except InvalidFields as error:
            raise Broken(_first(error)) from None
        payload = event.WhichOneof("payload")
        self._rename(event, payload)
        self._check_place(event)
        preset = list(event.preset_runs)
        if payload == "session":
            content = self._fold_session(event)
            self._forget_files(event, rows)
        else:
            content = None
            if preset:
                raise Broken("event.preset_runs: only the first event has them")
            fold.add(self._core, event)
        if payload == "tool_call":
            content = self._tool_call(event, rows)
        elif payload == "run":
            self._run(event.run, event.run.seq, rows)
        elif payload == "attachment":
            self._attachment(event, rows)
        for place, run in enumerate(preset, 1 - len(preset)):
            self._run(run, place, rows)
        rows.events.append(self._row(event, payload, content, rows))

    def finish(self) -> Imported:
        """The rows of the session, once all of its events were added. Raises Broken if they don't fold to the exported
        session."""
        core, exported = self._core, core_of(self.session)
        if core != exported:
            raise Broken(f"{_difference(core, exported)}: the events do not fold to it")
        folded, exported = Session.FromString(whole(self._chain)), Session.FromString(content_of(self.session))
        if folded != exported:
            raise Broken(f"{_difference(folded, exported)}: the events do not fold to it")
        waiting = sum(self._open_calls.values())
        live = self._open_runs.get(core.live_run_id)
        if (
            len(self._open_runs) != core.queued_run_count + bool(core.live_run_id)
            or bool(core.live_run_id) != (live is not None)
            or (len(self._open_calls), waiting) != (core.open_tool_call_count, core.pending_approval_count)
        ):
            raise Broken("header.session: its counts of open runs and tool calls must be those of the events")
        size = sum(file.size_bytes for file in self.files.values())
        if (len(self.files), size) != (core.attachment_count, core.attachment_bytes):
            raise Broken("header.session: its counts of attachments must be those of the events")
        return self._rows(core, folded, None if live is None else microseconds(live.lease_expire_time))

    def _rows(self, core: Session, folded: Session, lease_expire_us: int | None) -> Imported:
        metadata = MessageToJson(folded.metadata, indent=None, ensure_ascii=False)
        head = Head(
            version=core.version,
            user_id=core.user_id,
            core=core.SerializeToString(),
            limits=limits_of(folded.config),
            content_version=core.content_version,
            lease_expire_us=lease_expire_us,
        )
        return Imported(
            HeadRow(
                self._key, head, True, microseconds(core.update_time), session_rows.next_check(core, lease_expire_us)
            ),
            index_row(self._key, core, metadata),
            self._counters.encoded() if self._has_counters else b"",
            core.status != lifecycle.ENDED,
            core.attachment_bytes,
            ranges.of_session(core),
        )

    def _check_place(self, event: Event) -> None:
        core, first = self._core, not self._core.last_event_id
        if event.seq != core.version + 1:
            raise Broken(f"event.seq must be {core.version + 1}")
        if first != (event.type == EventType.EVENT_TYPE_SESSION_CREATED):
            raise Broken("event.type: the first event, and no other, creates the session")
        origin = self.session.forked_from
        if origin.seq and event.seq == origin.seq + 1:
            if event.type != _FORKED or core.last_event_id != origin.event_id:
                raise Broken("event.type must be that of a fork behind header.session.forked_from")
        elif event.type == _FORKED and event.seq > origin.seq:
            raise Broken("event.type must be that of a fork behind header.session.forked_from only")
        # Events that were written before the field existed have none.
        if event.previous_event_id not in (core.last_event_id, ""):
            raise Broken("event.previous_event_id must be the event_id of the event before")
        time_us = microseconds(event.create_time)
        if not first and time_us < microseconds(core.update_time):
            raise Broken("event.create_time must not be before that of the event before")
        if time_us > self._latest_us:
            raise Broken("event.create_time must not be in the future")

    def _fold_session(self, event: Event) -> bytes | None:
        """Takes the session of the event over; returns what its row has as content."""
        payload, view, stored = event.session, event.session_view, None
        if view == SessionView.SESSION_VIEW_FULL:
            stored = content_of(payload)
            for name in CONTENT_FIELDS:
                payload.ClearField(name)  # type: ignore[arg-type]  # the stubs want literals
            if payload.content_version != event.seq:
                if stored:
                    raise Broken("event.session.content_version must be the event's seq")
                stored = None
                if event.type == _FORKED and not payload.content_version:
                    # What the parent's events wrote of the content was cleared before it was forked.
                    self._chain = []
                    self._core.content_version = 0
        elif view == SessionView.SESSION_VIEW_PATCH:
            stored = stored_patch(event.session_patch)
        elif view != SessionView.SESSION_VIEW_BASIC or content_of(payload):
            raise Broken("event.session_view must say what the session has")
        if event.HasField("session_patch") != (view == SessionView.SESSION_VIEW_PATCH):
            raise Broken("event.session_patch must be there with SESSION_VIEW_PATCH, and only then")
        exported, before = self.session, self._core
        same = ["session_id", "user_id", "base_version", "type"]
        origin = exported.forked_from
        if event.seq > origin.seq:
            same += ["create_time", "forked_from", "template"]
        if any(getattr(payload, name) != getattr(exported, name) for name in same):
            raise Broken(f"event.session: {', '.join(same)} must be those of the header")
        if (payload.version, payload.last_event_id, payload.update_time) != (
            event.seq, event.event_id, event.create_time,
        ):  # fmt: skip
            raise Broken("event.session: version, last_event_id and update_time must be those of the event")
        if stored is not None:
            if payload.content_version != event.seq:
                raise Broken("event.session.content_version must be the event's seq")
            self._store_content(stored)
        elif payload.content_version != before.content_version:
            raise Broken("event.session.content_version must be the seq of the last event that wrote the content")
        before.CopyFrom(payload)
        return stored

    def _store_content(self, stored: bytes) -> None:
        if not is_patch(stored):
            self._chain = [stored]
            return
        self._chain.append(stored)
        try:
            if len(self._chain) == 1:
                raise Broken("event.session_patch: there is no content that it applies to")
            if len(self._chain) > _CHAIN:
                self._chain = [whole(self._chain)]
        except (ValueError, KeyError, AttributeError):
            raise Broken("event.session_patch must name fields of the content") from None

    def _rename(self, event: Event, payload: str | None) -> None:
        """Gives everything in the event that names the session its new id."""
        new = self._key[1]
        named = [event] if payload is None else [event, getattr(event, payload)]
        for each in (*named, *event.preset_runs):
            if "session_id" not in each.DESCRIPTOR.fields_by_name or (not each.session_id and each is not event):
                continue
            if each.session_id != self.named:
                raise Broken(f"{each.DESCRIPTOR.name}.session_id must be that of the header")
            each.session_id = new
        for change in event.documents:
            if change.scope == _SESSION_SCOPE:
                change.scope_id = new

    def _run(self, run: Run, place: int, rows: StagedRows) -> None:
        if not self.session.base_version < run.seq <= self._core.version:
            raise Broken("run.seq must be that of an event up to this one")
        if run.status in OPEN_RUNS:
            self._open_runs[run.run_id] = run
        else:
            self._open_runs.pop(run.run_id, None)
            count(self._counters, run)
            self._has_counters = True
        rows.runs[run.run_id] = RunRow(self._key, run.run_id, place, run.status, run.SerializeToString())

    def _tool_call(self, event: Event, rows: StagedRows) -> bytes | None:
        """Adds the row of the call; returns the data that the event has, which it takes out of the event."""
        call, data = event.tool_call, ToolCall()
        for name in _DATA:
            if call.HasField(name):
                getattr(data, name).CopyFrom(getattr(call, name))
                call.ClearField(name)
        if event.type != _LATE:
            if not self.session.base_version < call.seq <= event.seq:
                raise Broken("event.tool_call.seq must be that of an event up to this one")
            if call.status in OPEN_CALLS:
                row = tool_call_row(self._key, self.session.user_id, call)
                self._open_calls[call.tool_call_id] = row.awaits_approval
            else:
                self._open_calls.pop(call.tool_call_id, None)
            rows.tool_calls[call.tool_call_id] = tool_call_row(self._key, self.session.user_id, call)
        return data.SerializeToString() or None

    def _attachment(self, event: Event, rows: StagedRows) -> None:
        given = event.attachment
        uploaded = event.type == EventType.EVENT_TYPE_ATTACHMENT_UPLOADED
        if uploaded == (given.attachment_id in self.files) or (uploaded and given.seq != event.seq):
            raise Broken("event.attachment must be one that can be uploaded, or deleted, here")
        body = given.SerializeToString() if uploaded else b""
        file = ImportedFile(given.attachment_id, given.seq, given.sha256, given.size_bytes, body)
        if uploaded:
            self.files[given.attachment_id] = file
        else:
            file.seq = self.files.pop(given.attachment_id).seq
        rows.files[given.attachment_id] = file

    def _forget_files(self, event: Event, rows: StagedRows) -> None:
        """Takes away what the parent's events upload and the fork no longer got."""
        for attachment_id in event.deleted_attachment_ids:
            file = self.files.pop(attachment_id, None)
            if file is not None:
                rows.files[attachment_id] = replace(file, body=b"")

    def _row(self, event: Event, payload: str | None, content: bytes | None, rows: StagedRows) -> EventRow:
        """Takes the event apart into the columns of its row."""
        message_id = None
        if event.type == _APPENDED:
            message_id = self._message(event.message, rows)
        if payload is None:
            body = event.documents[0].SerializeToString()
            event.ClearField("documents")
        else:
            body = getattr(event, payload).SerializeToString()
            event.ClearField(payload)  # type: ignore[arg-type]  # the stubs want literals
        event.ClearField("session_patch")
        return EventRow(
            self._key, event.seq, event.event_id, event.previous_event_id, event.type, microseconds(event.create_time),
            message_id, event.SerializeToString(), body, content,
        )  # fmt: skip

    def _message(self, message: Message, rows: StagedRows) -> str | None:
        """The id under which the message can be found; None if it was deleted."""
        if message.seq != self._core.version:
            raise Broken("event.message.seq must be the event's")
        if message.HasField("delete_time"):
            return None
        if marks.has_marks(message):
            rows.marks += ((mark, message.seq) for mark in marks.of_message(message))
        return message.message_id


def event_of(row: EventRow) -> bytes:
    """The serialised Event of a row that `add` made."""
    return encoding.event(row.type, row.head, row.body, row.content)


def _first(error: InvalidFields) -> str:
    violation = error.violations[0]
    return f"{violation.field} {violation.description}"


def _difference(one: Session, other: Session) -> str:
    """The name of a field in which they differ."""
    for name in Session.DESCRIPTOR.fields_by_name:
        if getattr(one, name) != getattr(other, name):
            return f"header.session.{name}"
    return "header.session"
