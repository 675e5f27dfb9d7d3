"""A session service in plain Python: no protobuf, no events, no batches. What the stores are compared with.

It says what a command must answer and what must be readable afterwards, and says it in the most obvious way. The clock
is a number of seconds that only the test moves.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace

DAY = 86400
LEASE = 30
REMOVED = "removed"
"""As the value of a member: the member is to be removed."""
SETTLING = ("begin", "end_run", "cancel_run", "end", "rewind")
"""Before these, and before suspending, a lease that has run out and overdue approvals are dealt with."""


@dataclass
class Message:
    message_id: str
    role: str
    text: str | None
    seq: int
    reason: str = ""
    origin: tuple[object, ...] = ()
    """What identifies it in all sessions that show it."""

    @property
    def number(self) -> int:
        """That of its id, which its labels and its time follow from."""
        return int(self.message_id[1:])

    @property
    def labels(self) -> dict[str, str]:
        """None once its content is taken away."""
        return {} if self.text is None else labels_of(self.number)

    @property
    def client_time(self) -> int | None:
        """Seconds."""
        return client_time_of(self.number)


def labels_of(number: int) -> dict[str, str]:
    return {"half": str(number % 2)} | ({"third": ""} if number % 3 == 0 else {})


def client_time_of(number: int) -> int | None:
    """Seconds since 1970; the same for two neighbours, and none for every fourth."""
    return number // 2 * 10 if number % 4 else None


@dataclass
class Run:
    run_id: str
    seq: int
    status: str = "QUEUED"
    fence: int = 0
    reason: str = ""


@dataclass
class Call:
    call_id: str
    run_id: str
    approval: bool
    seq: int
    status: str = "PENDING"
    decided: str = ""
    started: bool = False
    doer: str = ""
    """The run that carries it out."""
    result: str = ""
    reason: str = ""
    expires: float | None = None
    """When it ends by itself, while it waits for an approval."""
    fails: bool = False
    """Else it is rejected then."""


@dataclass
class File:
    seq: int
    size: int
    there: bool = True
    """Else it was deleted; its id stays taken."""


@dataclass
class Document:
    version: int
    value: str | None
    """None: it is gone."""
    expires: float | None
    seq: int


@dataclass
class Session:
    user_id: str
    status: str
    name: str
    ttl: int | None
    expires: float | None
    limit: int
    version: int = 1
    requests: int = 1
    reason: str = ""
    state: dict[str, object] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    log: list[str] = field(default_factory=lambda: ["SESSION_CREATED"])
    done: dict[str, tuple[object, object]] = field(default_factory=dict)
    """request_id -> (content of the request, outcome)."""
    deleted: bool = False
    base: int = 0
    """The version at which a session with the id was deleted before."""
    former: dict[str, tuple[object, object]] = field(default_factory=dict)
    """As `done`, once the session is deleted: the requests that created it and those before it, or deleted those."""
    appended: int = 0
    named_by: str = ""
    runs: dict[str, Run] = field(default_factory=dict)
    calls: dict[str, Call] = field(default_factory=dict)
    live: Run | None = None
    lease: float = 0.0
    queue: list[Run] = field(default_factory=list)
    session_id: str = ""
    uploads: dict[str, int] = field(default_factory=dict)
    """Those that are not complete: id -> size."""
    files: dict[str, File] = field(default_factory=dict)
    fork_seq: int = 0
    """Of a fork: the last place that it shares with its parent."""
    segments: list[tuple[tuple[str, int], int]] = field(default_factory=list)
    """Of a fork: what other sessions, each by id and base, wrote of its log: until which place, ascending."""
    history: dict[int, "Session"] = field(default_factory=dict)
    """How it was after each command, by version."""
    summaries: list[tuple[int, int, str]] = field(default_factory=list)
    """(seq, through_seq, text), as they were written."""
    hidden: list[Message] = field(default_factory=list)
    """Messages that a rewind has hidden: none of `messages`."""
    hidden_summaries: list[tuple[int, int, str]] = field(default_factory=list)
    hidden_runs: set[str] = field(default_factory=set)
    hidden_calls: set[str] = field(default_factory=set)

    def all_messages(self) -> list[Message]:
        return sorted([*self.messages, *self.hidden], key=lambda message: message.seq)

    def open_calls(self) -> list[Call]:
        return [call for call in self.calls.values() if call.status in ("PENDING", "APPROVED", "RUNNING")]


Answer = tuple[object, ...]
"""("error", class name), ("session", version, status, name, state, reason), ("appended", ...), ("redacted", ...) ..."""


def _merged(target: object, patch: dict[str, object]) -> dict[str, object]:
    """RFC 7396, of objects."""
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value) if isinstance(value, dict) else value
    return result


class Model:
    def __init__(self) -> None:
        self.now = 0.0
        self.sessions: dict[str, Session] = {}
        self.documents: dict[tuple[str, str], Document] = {}
        """(owner, key): the owner is `agent`, `alice` or the id of a session."""
        self.written: dict[tuple[str, str], tuple[object, Answer]] = {}
        """(owner, request id): what was asked and answered, for documents that belong to no session."""

    def fence_of(self, session_id: str, run_id: str) -> int:
        """What the holder of the run knows; any number before it has started."""
        session = self.sessions.get(session_id)
        return session.runs[run_id].fence or 99 if session is not None and run_id in session.runs else 99

    def live(self, session_id: str) -> str:
        """The run that is live; any other while there is none."""
        session = self.sessions.get(session_id)
        return session.live.run_id if session is not None and session.live else "r1"

    def do(
        self, kind: str, session_id: str, args: Answer, request_id: str, expected: int, user_id: str, run_id: str = ""
    ) -> Answer:
        """One command. `args` is its whole content; `run_id` the run whose fence it carries."""
        answer = self._do(kind, session_id, args, request_id, expected, user_id, run_id)
        self._remember()
        return answer

    def _do(
        self, kind: str, session_id: str, args: Answer, request_id: str, expected: int, user_id: str, run_id: str
    ) -> Answer:
        if kind in ("put_document", "end_document") and args[0] != "session":
            return self._write_document(kind, args, request_id, expected)
        session = self.sessions.get(session_id)
        visible = session is not None and user_id in ("", session.user_id)
        if session is not None and visible and request_id in session.done:
            content, outcome = session.done[request_id]
            assert isinstance(outcome, tuple)
            return outcome if content == (kind, args, expected) else ("error", "RequestIdReused")
        if kind == "create":
            *args_of_new, reuses = args
            before = session
            if before is not None and not (reuses and before.deleted and before.user_id == args[0]):
                return ("error", "SessionAlreadyExists")
            session, outcome = self._create(session_id, tuple(args_of_new), before)
            session.former[request_id] = ((kind, args, expected), ("error", "SessionAlreadyExists"))
        elif kind == "fork":
            if session is not None:
                return ("error", "SessionAlreadyExists")
            outcome = self._fork(session_id, str(args[0]), args[1], user_id)
            if outcome[0] == "error":
                return outcome
            session = self.sessions[session_id]
        else:
            if session is None or not visible or session.deleted:
                return ("error", "SessionNotFound")
            if kind in SETTLING or args == ("suspend",):
                self._settle(session)
            if kind == "on_call":
                self._settle(session, str(args[0]))
            if expected not in (0, session.version):
                return ("error", "VersionMismatch")
            live = session.live is not None and session.live.run_id == run_id and session.lease > self.now
            if run_id and not live:
                return ("error", "RunFenced")
            version = session.version
            rule: Callable[..., Answer] = getattr(self, f"_{kind}")
            extra = (run_id,) if kind in ("request", "on_call", "rewind") else ()
            outcome = rule(session, *args, *extra)
            if session.version == version:
                return outcome
            session.requests += 1
            self._slide(session)
        session.done[request_id] = ((kind, args, expected), outcome)
        return outcome

    def _remember(self) -> None:
        for s in self.sessions.values():
            if s.version not in s.history:
                s.history[s.version] = deepcopy(replace(s, history={}, done={}, former={}))

    def _fork(self, session_id: str, parent_id: str, place: object, user_id: str) -> Answer:
        """The parent as it was, without what was deleted or redacted since."""
        parent = self.sessions.get(parent_id)
        if parent is None or parent.deleted or user_id not in ("", parent.user_id):
            return ("error", "SessionNotFound")
        assert isinstance(place, int)
        if not parent.base < place <= parent.version:
            return ("error", "InvalidFields")
        s = deepcopy(parent.history[place])
        s.session_id, s.status, s.reason, s.uploads = session_id, "ACTIVE", "", {}
        now = {message.origin: message for message in parent.all_messages()}
        for message in s.all_messages():
            present = now.get(message.origin)
            if present is None and message in s.hidden:
                s.hidden.remove(message)
            elif present is None:
                s.messages.remove(message)
                s.appended -= 1
            else:
                message.text, message.reason = present.text, present.reason
            if s.named_by == message.message_id and (present is None or present.text is None):
                s.name, s.named_by = "", ""
        for name, file in s.files.items():
            file.there = file.there and parent.files[name].there
        own = [((parent.session_id, parent.base), place)] if place > parent.fork_seq else []
        first, shared = parent.base + 1, []
        for owner, last in parent.segments:
            if first <= place:
                shared.append((owner, min(last, place)))
            first = last + 1
        s.segments, s.fork_seq = shared + own, place
        s.history = {version: then for version, then in parent.history.items() if version <= place}
        self._event(s, "SESSION_FORKED")
        s.requests += 1
        self._cancel_all(s, "SESSION_FORKED")
        assert s.ttl is not None
        s.expires = self.now + s.ttl
        self.sessions[session_id] = s
        return self._seen(s)

    def _write_document(self, kind: str, args: Answer, request_id: str, expected: int) -> Answer:
        """Writes a document that belongs to no session."""
        request, content = (str(args[0]), request_id), (kind, args, expected)
        if request in self.written:
            asked, outcome = self.written[request]
            return outcome if asked == content else ("error", "RequestIdReused")
        owner, key, value, version, ttl = args
        refusal = self._refuse(str(owner), str(key), version, must_exist=value is None)
        if refusal:
            return refusal
        outcome = ("document", 0, self._set(str(owner), str(key), value, ttl, 0))
        self.written[request] = (content, outcome)
        return outcome

    def document(self, owner: str, key: str) -> Document | None:
        """The document, if it is there now."""
        document = self.documents.get((owner, key))
        if document is None or document.value is None:
            return None
        return document if document.expires is None or document.expires > self.now else None

    def _refuse(self, owner: str, key: str, version: object, *, must_exist: bool) -> Answer | None:
        found = self.document(owner, key)
        if must_exist and found is None:
            return ("error", "DocumentNotFound")
        now = found.version if found is not None else 0
        return ("error", "DocumentVersionMismatch") if version not in (None, now) else None

    def _set(self, owner: str, key: str, value: object, ttl: object, seq: int) -> int:
        """Puts a document, or deletes it where the value is None; the version of which the answer speaks."""
        if value is None:
            found = self.document(owner, key)
            if found is None:
                return 0
            found.value = None
            return found.version
        before = self.documents.get((owner, key))
        version = before.version + 1 if before else 1
        expires = self.now + ttl if isinstance(ttl, int) else None
        self.documents[owner, key] = Document(version, str(value), expires, seq)
        return version

    def _put_document(
        self, s: Session, owner: str, key: str, value: str | None, version: object, ttl: object
    ) -> Answer:
        """Of the session itself; deletes it where the value is None."""
        if closed := self._closed(s):
            return closed
        if refusal := self._refuse(s.session_id, key, version, must_exist=value is None):
            return refusal
        self._event(s, "DOCUMENT_DELETED" if value is None else "DOCUMENT_PUT")
        return ("document", s.version, self._set(s.session_id, key, value, ttl, s.version))

    _end_document = _put_document

    def _append_and_put(
        self, s: Session, messages: tuple[tuple[str, str, str], ...], writes: tuple[Answer, ...]
    ) -> Answer:
        """Appends, and writes documents of the agent, of alice and of the session; all or nothing."""
        named = [(s.session_id if owner == "session" else str(owner), write) for owner, *write in writes]
        # What refuses the messages alone does so first.
        version, log, kept = s.version, list(s.log), list(s.messages)
        before = (s.appended, s.name, s.named_by)
        answer = self._append(s, messages)
        if answer[0] == "error":
            return answer
        for owner, (key, _, wanted, _) in named:
            refusal: Answer | None = None
            if owner == "alice" and s.user_id != "alice":
                refusal = ("error", "InvalidFields")
            refusal = refusal or self._refuse(owner, str(key), wanted, must_exist=False)
            if refusal:
                s.version, s.log, s.messages = version, log, kept
                s.appended, s.name, s.named_by = before
                return refusal
        versions = [
            self._set(owner, str(key), value, ttl, version + 1 if owner == s.session_id else 0)
            for owner, (key, value, _, ttl) in named
        ]
        return (*answer, tuple(versions))

    def _slide(self, s: Session) -> None:
        if s.ttl is not None and s.status != "ENDED" and not s.deleted:
            s.expires = max(s.expires or 0, self.now + s.ttl)

    def _settle(self, s: Session, call_id: str = "") -> None:
        """What the sweeper does about a lease that has run out and about overdue approvals; of one call only that."""
        if self._closed(s):
            return
        version = s.version
        if not call_id and s.live is not None and s.lease <= self.now:
            self._end_live(s, "FAILED", "LEASE_EXPIRED", "LEASE_EXPIRED")
            self._start_next(s)
        for call in sorted(s.calls.values(), key=lambda call: call.seq):
            if call_id in ("", call.call_id) and self.overdue(call):
                call.status = "FAILED" if call.fails else "REJECTED"
                call.decided = "" if call.fails else "expired"
                self._event(s, "TOOL_CALL_EXPIRED")
        if s.version > version:
            s.requests += 1
            self._slide(s)

    def overdue(self, call: Call) -> bool:
        """Whether its approval did not come in time."""
        waits = call.approval and call.status == "PENDING"
        return waits and call.expires is not None and call.expires <= self.now

    def expire(self) -> set[str]:
        """Ends what is due; which sessions."""
        for s in self.sessions.values():
            if not s.deleted:
                self._settle(s)
        due = {
            session_id
            for session_id, s in self.sessions.items()
            if not s.deleted and s.status != "ENDED" and s.expires is not None and s.expires <= self.now
        }
        for session_id in due:
            self._finish(self.sessions[session_id], "EXPIRED")
            self.sessions[session_id].requests += 1
        self._remember()
        return due

    def _create(self, session_id: str, args: Answer, before: Session | None) -> tuple[Session, Answer]:
        user_id, status, name, ttl, limit = args
        assert isinstance(user_id, str)
        assert isinstance(status, str)
        assert isinstance(name, str)
        assert isinstance(limit, int)
        life = ttl if isinstance(ttl, int) else DAY
        session = Session(user_id, status, name, life, self.now + life, limit, session_id=session_id)
        if before is not None:
            session.base, session.former = before.version, dict(before.done)
            session.version += before.version
            session.done = dict(before.done)
        self.sessions[session_id] = session
        return session, self._seen(session)

    def _seen(self, s: Session) -> Answer:
        return ("session", s.version, s.status, s.name, tuple(sorted(s.state.items())), s.reason)

    def _closed(self, s: Session) -> Answer | None:
        if s.status == "ENDED" or (s.expires is not None and s.expires <= self.now):
            return ("error", "SessionEnded")
        return None

    def _event(self, s: Session, kind: str) -> None:
        s.version += 1
        s.log.append(kind)

    def _move(self, s: Session, verb: str) -> Answer:
        sources, target, event = {
            "activate": (("CREATED", "SUSPENDED"), "ACTIVE", "SESSION_ACTIVATED"),
            "suspend": (("ACTIVE",), "SUSPENDED", "SESSION_SUSPENDED"),
            "resume": (("SUSPENDED",), "ACTIVE", "SESSION_RESUMED"),
        }[verb]
        if closed := self._closed(s):
            return closed
        if s.status not in sources:
            return ("error", "IllegalTransition")
        if verb == "suspend":
            self._cancel_all(s, "SESSION_SUSPENDED", suspends=True)
        s.status = target
        self._event(s, event)
        return self._seen(s)

    def _end(self, s: Session, reason: str) -> Answer:
        if s.status != "ENDED":
            self._finish(s, "EXPIRED" if self._closed(s) else reason)
        return self._seen(s)

    def _finish(self, s: Session, reason: str) -> None:
        self._cancel_all(s, "SESSION_EXPIRED" if reason == "EXPIRED" else "SESSION_ENDED")
        s.status, s.reason = "ENDED", reason
        self._event(s, "SESSION_EXPIRED" if reason == "EXPIRED" else "SESSION_ENDED")

    def _touch(self, s: Session, extend: int) -> Answer:
        if closed := self._closed(s):
            return closed
        if extend and s.expires is not None:
            s.expires = max(s.expires, self.now + extend)
        self._event(s, "SESSION_TOUCHED")
        return self._seen(s)

    def _rename(self, s: Session, name: str) -> Answer:
        if closed := self._closed(s):
            return closed
        s.name, s.named_by = name, ""
        self._event(s, "SESSION_UPDATED")
        return self._seen(s)

    def _merge(self, s: Session, changes: tuple[tuple[str, object], ...]) -> Answer:
        """JSON merge patch of the state; None removes."""
        if closed := self._closed(s):
            return closed
        s.state = _merged(s.state, dict(changes))
        self._event(s, "SESSION_UPDATED")
        return self._seen(s)

    def _set_keys(self, s: Session, changes: tuple[tuple[str, object], ...], full: bool) -> Answer:
        """Sets members of the state (REMOVED removes one); the answer has the state only if `full`."""
        if closed := self._closed(s):
            return closed
        s.state = {key: value for key, value in {**s.state, **dict(changes)}.items() if value != REMOVED}
        self._event(s, "SESSION_UPDATED")
        answer = self._seen(s)
        return answer if full else (*answer[:4], (), answer[5])

    def _append(self, s: Session, messages: tuple[tuple[str, str, str], ...]) -> Answer:
        if closed := self._closed(s):
            return closed
        if s.status != "ACTIVE":
            return ("error", "SessionNotActive")
        if s.limit and s.appended + len(messages) > s.limit:
            return ("error", "MessageLimitReached")
        ids = [message_id for message_id, _, _ in messages]
        if len(set(ids)) < len(ids) or {m.message_id for m in s.all_messages()} & set(ids):
            return ("error", "MessageAlreadyExists")
        for message_id, role, text in messages:
            self._event(s, "MESSAGE_APPENDED")
            s.appended += 1
            origin = (s.session_id, s.base, s.version)
            s.messages.append(Message(message_id, role, text, s.version, origin=origin))
            if not s.name and role == "USER" and text.strip():
                s.name, s.named_by = " ".join(text.split())[:50], message_id
        return ("appended", s.version, s.version - len(ids) + 1, tuple(ids))

    def _update_and_append(
        self, s: Session, changes: tuple[tuple[str, object], ...], messages: tuple[tuple[str, str, str], ...]
    ) -> Answer:
        """Sets members of the state (REMOVED removes one), then appends; both or neither."""
        version, state, log = s.version, s.state, list(s.log)
        s.state = {**state, **dict(changes)}
        for key, value in changes:
            if value == REMOVED:
                del s.state[key]
        self._event(s, "SESSION_UPDATED")
        answer = self._append(s, messages)
        if answer[0] == "error":
            s.version, s.state, s.log = version, state, log
        return answer

    def _redact(self, s: Session, message_id: str, reason: str) -> Answer:
        if closed := self._closed(s):
            return closed
        message = next((m for m in s.all_messages() if m.message_id == message_id), None)
        if message is None:
            return ("error", "MessageNotFound")
        message.text, message.reason = None, reason
        if s.named_by == message_id:
            s.name, s.named_by = "", ""
        self._event(s, "MESSAGE_REDACTED")
        for other in self.sessions.values():
            same = [m for m in other.all_messages() if m.origin == message.origin]
            if same and other is not s and not other.deleted:
                same[0].text, same[0].reason = None, reason
                if other.named_by == message_id:
                    other.name, other.named_by = "", ""
                self._event(other, "MESSAGE_REDACTED")
                other.requests += 1
                self._slide(other)
        return ("redacted", s.version, message_id, reason)

    def _summarise(self, s: Session, through_seq: int, text: str) -> Answer:
        if closed := self._closed(s):
            return closed
        if not s.base < through_seq <= s.version:
            return ("error", "InvalidFields")
        self._event(s, "SUMMARY_CREATED")
        s.summaries.append((s.version, through_seq, text))
        return ("summary", s.version, *s.summaries[-1])

    def _drop(self, s: Session, how: str, what: tuple[object, ...], returned: bool) -> Answer:
        """Deletes the messages with these ids, between these two places, or so many of the newest."""
        if closed := self._closed(s):
            return closed
        own = [m for m in s.all_messages() if m.seq > s.fork_seq]
        if how == "ids":
            gone = [m for m in own if m.message_id in what]
            for message_id in what:
                if message_id not in [m.message_id for m in gone]:
                    inherited = message_id in [m.message_id for m in s.all_messages()]
                    return ("error", "MessageShared" if inherited else "MessageNotFound")
        elif how == "range":
            first, last = what
            assert isinstance(first, int)
            assert isinstance(last, int)
            if first <= s.fork_seq:
                return ("error", "MessageShared")
            gone = [m for m in own if first <= m.seq <= last]
        else:
            (count,) = what
            assert isinstance(count, int)
            visible = [m for m in own if m not in s.hidden]
            gone = visible[-count:]
            if len(gone) < count and len(s.messages) > len(visible):
                return ("error", "MessageShared")
        shown = [
            last
            for other in self.sessions.values()
            for owner, last in other.segments
            if not other.deleted and owner == (s.session_id, s.base)
        ]
        if any(m.seq <= max(shown, default=0) for m in gone):
            return ("error", "MessageShared")
        s.messages = [m for m in s.messages if m not in gone]
        s.hidden = [m for m in s.hidden if m not in gone]
        s.appended = len(s.messages)
        if s.named_by in [m.message_id for m in gone]:
            s.name, s.named_by = "", ""
        self._event(s, "MESSAGES_DELETED")
        said = tuple((m.message_id, m.text) for m in gone) if returned else ()
        return ("dropped", s.version, tuple(m.seq for m in gone), tuple(m.message_id for m in gone), said)

    def _rewind(self, s: Session, place: int, restore: bool, run_id: str) -> Answer:
        """Shows what was visible at the place."""
        if closed := self._closed(s):
            return closed
        if s.live and not run_id:
            return ("error", "RunInProgress")
        if not s.base < place <= s.version:
            return ("error", "InvalidFields")
        then = s.history[place]
        for call in s.open_calls():
            if call.seq > place:
                self._close(s, call, "SESSION_REWOUND")
        for run in [run for run in s.queue if run.seq > place]:
            s.queue.remove(run)
            run.status, run.reason = "CANCELLED", "SESSION_REWOUND"
            self._event(s, "RUN_CANCELLED")
        if s.live and s.live.seq > place:
            self._end_live(s, "CANCELLED", "SESSION_REWOUND", "SESSION_REWOUND")
            self._start_next(s)
        everything, visible = s.all_messages(), {m.seq for m in then.messages}
        s.messages = [m for m in everything if m.seq in visible]
        s.hidden = [m for m in everything if m.seq not in visible]
        s.appended = len(s.messages)
        summaries = sorted([*s.summaries, *s.hidden_summaries])
        s.summaries = [one for one in summaries if one in then.summaries]
        s.hidden_summaries = [one for one in summaries if one not in then.summaries]
        s.hidden_runs = set(s.runs) - (set(then.runs) - then.hidden_runs)
        s.hidden_calls = set(s.calls) - (set(then.calls) - then.hidden_calls)
        if restore:
            s.state = deepcopy(then.state)
        self._event(s, "SESSION_REWOUND")
        return self._seen(s)

    def _delete(self, s: Session) -> Answer:
        self._event(s, "SESSION_DELETED")
        s.deleted = True
        s.done = dict(s.former)
        for (owner, _), document in self.documents.items():
            if owner == s.session_id:
                document.value = None
        return ("deleted", s.version)

    def begin_upload(self, session_id: str, name: str, size: int) -> Answer:
        """No command: nothing happens to the session."""
        s = self.sessions.get(session_id)
        if s is None or s.deleted:
            return ("error", "SessionNotFound")
        if name in s.files:
            return ("taken",)
        if closed := self._closed(s):
            return closed
        if name in s.uploads:
            return ("taken",)
        s.uploads[name] = size
        return ("begun",)

    def _complete(self, s: Session, name: str) -> Answer:
        if closed := self._closed(s):
            return closed
        if name in s.files:
            return ("error", "AttachmentAlreadyExists")
        if name not in s.uploads:
            return ("error", "UploadSuperseded")
        self._event(s, "ATTACHMENT_UPLOADED")
        s.files[name] = File(s.version, s.uploads.pop(name))
        return ("uploaded", s.version, name, s.version)

    def _remove(self, s: Session, name: str) -> Answer:
        if closed := self._closed(s):
            return closed
        if name not in s.files or not s.files[name].there:
            return ("error", "AttachmentNotFound")
        self._event(s, "ATTACHMENT_DELETED")
        s.files[name].there = False
        return ("removed", s.version)

    def _inactive(self, s: Session) -> Answer | None:
        if closed := self._closed(s):
            return closed
        return None if s.status == "ACTIVE" else ("error", "SessionNotActive")

    def _close(self, s: Session, call: Call, reason: str) -> None:
        call.status, call.reason = "CANCELLED", reason
        self._event(s, "TOOL_CALL_CANCELLED")

    def _cancel_all(self, s: Session, reason: str, *, suspends: bool = False) -> None:
        for call in s.open_calls():
            orphaned = s.live is not None and call.run_id == s.live.run_id and not call.approval
            if not suspends or call.status == "RUNNING" or orphaned:
                self._close(s, call, reason)
        for run in ([s.live] if s.live else []) + s.queue:
            run.status, run.reason = "CANCELLED", reason
            self._event(s, "RUN_CANCELLED")
        s.live, s.queue = None, []

    def _end_live(self, s: Session, status: str, reason: str, call_reason: str) -> None:
        run = s.live
        assert run is not None
        for call in s.open_calls():
            stays = status == "COMPLETED" and call.approval and call.status != "RUNNING"
            if run.run_id in (call.run_id, call.doer) and not stays:
                self._close(s, call, call_reason)
        run.status, run.reason, s.live = status, reason, None
        self._event(s, f"RUN_{status}")

    def _start(self, s: Session, run: Run) -> None:
        self._event(s, "RUN_STARTED")
        run.status, run.fence = "RUNNING", s.version
        s.live, s.lease = run, self.now + LEASE

    def _start_next(self, s: Session) -> None:
        if s.queue:
            self._start(s, s.queue.pop(0))

    def _ran(self, s: Session, run: Run) -> Answer:
        return ("run", s.version, run.run_id, run.status, run.fence, run.reason)

    def _begin(self, s: Session, run_id: str, policy: str) -> Answer:
        if inactive := self._inactive(s):
            return inactive
        if run_id in s.runs:
            return ("error", "RunAlreadyExists")
        if s.live and policy == "REJECT":
            return ("error", "RunInProgress")
        if s.live and policy == "INTERRUPT":
            self._end_live(s, "CANCELLED", "INTERRUPTED", "RUN_CANCELLED")
        run = s.runs[run_id] = Run(run_id, s.version + 1)
        if s.live:
            s.queue.append(run)
            self._event(s, "RUN_QUEUED")
        else:
            self._start(s, run)
        return self._ran(s, run)

    def _heartbeat(self, s: Session) -> Answer:
        if inactive := self._inactive(s):
            return inactive
        s.lease = self.now + LEASE
        return ("lease", LEASE)

    def _end_run(self, s: Session, status: str) -> Answer:
        if inactive := self._inactive(s):
            return inactive
        run = s.live
        assert run is not None
        self._end_live(s, status, "", "RUN_FINISHED")
        self._start_next(s)
        return self._ran(s, run)

    def _cancel_run(self, s: Session, run_id: str) -> Answer:
        if inactive := self._inactive(s):
            return inactive
        if run_id not in s.runs:
            return ("error", "RunNotFound")
        run = s.runs[run_id]
        if run.status not in ("QUEUED", "RUNNING"):
            return ("error", "RunEnded")
        if run is s.live:
            self._end_live(s, "CANCELLED", "CLIENT", "RUN_CANCELLED")
            self._start_next(s)
        else:
            s.queue.remove(run)
            run.status, run.reason = "CANCELLED", "CLIENT"
            self._event(s, "RUN_CANCELLED")
        return self._ran(s, run)

    def _called(self, s: Session, call: Call) -> Answer:
        return ("call", s.version, call.call_id, call.status, call.run_id, call.decided, call.result, call.reason)

    def _request(self, s: Session, call_id: str, approval: bool, ttl: int, fails: bool, run_id: str) -> Answer:
        if inactive := self._inactive(s):
            return inactive
        if call_id in s.calls:
            return ("error", "ToolCallAlreadyExists")
        self._event(s, "TOOL_CALL_REQUESTED")
        call = s.calls[call_id] = Call(call_id, run_id, approval, s.version)
        call.expires, call.fails = self.now + ttl if ttl else None, fails
        return self._called(s, call)

    def _on_call(self, s: Session, call_id: str, verb: str, detail: str, run_id: str) -> Answer:
        if inactive := self._inactive(s):
            return inactive
        if call_id not in s.calls:
            return ("error", "ToolCallNotFound")
        call = s.calls[call_id]
        sources = {
            "approve": ("PENDING",),
            "reject": ("PENDING",),
            "start": ("PENDING", "APPROVED"),
            "complete": ("RUNNING",),
            "fail": ("RUNNING",),
            "cancel": ("PENDING", "APPROVED", "RUNNING"),
        }[verb]
        if call.status not in sources:
            over = call.status not in ("PENDING", "APPROVED", "RUNNING")
            if verb in ("complete", "fail") and over and call.started:
                self._event(s, "TOOL_CALL_LATE_RESULT")
                return self._called(s, call)
            expired = call.decided == "expired" or (call.status == "FAILED" and not call.started)
            return ("error", "ApprovalExpired" if expired else "IllegalToolCallTransition")
        if verb == "start" and call.approval and call.status == "PENDING":
            return ("error", "ApprovalRequired")
        if verb == "cancel":
            self._close(s, call, "CLIENT")
            return self._called(s, call)
        call.status = {
            "approve": "APPROVED",
            "reject": "REJECTED",
            "start": "RUNNING",
            "complete": "COMPLETED",
            "fail": "FAILED",
        }[verb]
        if verb in ("approve", "reject"):
            call.decided = detail
        if verb in ("complete", "fail"):
            call.result = detail
        if verb == "start":
            call.started, call.doer = True, run_id
        self._event(s, "TOOL_CALL_STARTED" if verb == "start" else f"TOOL_CALL_{call.status}")
        return self._called(s, call)
