"""A session service in plain Python: no protobuf, no events, no batches. What the stores are compared with.

It says what a command must answer and what must be readable afterwards, and says it in the most obvious way. The clock
is a number of seconds that only the test moves.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

DAY = 86400


@dataclass
class Message:
    message_id: str
    role: str
    text: str | None
    seq: int
    reason: str = ""


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
    appended: int = 0
    named_by: str = ""


Answer = tuple[object, ...]
"""("error", class name), ("session", version, status, name, state, reason), ("appended", ...), ("redacted", ...) ..."""


class Model:
    def __init__(self) -> None:
        self.now = 0.0
        self.sessions: dict[str, Session] = {}

    def do(self, kind: str, session_id: str, args: Answer, request_id: str, expected: int, user_id: str) -> Answer:
        """One command. `args` is its whole content."""
        session = self.sessions.get(session_id)
        visible = session is not None and user_id in ("", session.user_id)
        if session is not None and visible and request_id in session.done:
            content, outcome = session.done[request_id]
            assert isinstance(outcome, tuple)
            return outcome if content == (kind, args, expected) else ("error", "RequestIdReused")
        if kind == "create":
            if session is not None:
                return ("error", "SessionAlreadyExists")
            session, outcome = self._create(session_id, args)
        else:
            if session is None or not visible or session.deleted:
                return ("error", "SessionNotFound")
            if expected not in (0, session.version):
                return ("error", "VersionMismatch")
            version = session.version
            rule: Callable[..., Answer] = getattr(self, f"_{kind}")
            outcome = rule(session, *args)
            if session.version == version:
                return outcome
            session.requests += 1
            if session.ttl is not None and session.status != "ENDED" and not session.deleted:
                session.expires = max(session.expires or 0, self.now + session.ttl)
        session.done[request_id] = ((kind, args, expected), outcome)
        return outcome

    def expire(self) -> set[str]:
        """Ends what is due; which sessions."""
        due = {
            session_id
            for session_id, s in self.sessions.items()
            if not s.deleted and s.status != "ENDED" and s.expires is not None and s.expires <= self.now
        }
        for session_id in due:
            self._finish(self.sessions[session_id], "EXPIRED")
            self.sessions[session_id].requests += 1
        return due

    def _create(self, session_id: str, args: Answer) -> tuple[Session, Answer]:
        user_id, status, name, ttl, limit = args
        assert isinstance(user_id, str)
        assert isinstance(status, str)
        assert isinstance(name, str)
        assert isinstance(limit, int)
        life = ttl if isinstance(ttl, int) else DAY
        session = Session(user_id, status, name, life, self.now + life, limit)
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
        s.status = target
        self._event(s, event)
        return self._seen(s)

    def _end(self, s: Session, reason: str) -> Answer:
        if s.status != "ENDED":
            self._finish(s, "EXPIRED" if self._closed(s) else reason)
        return self._seen(s)

    def _finish(self, s: Session, reason: str) -> None:
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
        """JSON merge patch of the state with flat changes; None removes."""
        if closed := self._closed(s):
            return closed
        for key, value in changes:
            if value is None:
                s.state.pop(key, None)
            else:
                s.state[key] = value
        self._event(s, "SESSION_UPDATED")
        return self._seen(s)

    def _append(self, s: Session, messages: tuple[tuple[str, str, str], ...]) -> Answer:
        if closed := self._closed(s):
            return closed
        if s.status != "ACTIVE":
            return ("error", "SessionNotActive")
        if s.limit and s.appended + len(messages) > s.limit:
            return ("error", "MessageLimitReached")
        ids = [message_id for message_id, _, _ in messages]
        if len(set(ids)) < len(ids) or {m.message_id for m in s.messages} & set(ids):
            return ("error", "MessageAlreadyExists")
        for message_id, role, text in messages:
            self._event(s, "MESSAGE_APPENDED")
            s.appended += 1
            s.messages.append(Message(message_id, role, text, s.version))
            if not s.name and role == "USER" and text.strip():
                s.name, s.named_by = " ".join(text.split())[:50], message_id
        return ("appended", s.version, s.version - len(ids) + 1, tuple(ids))

    def _redact(self, s: Session, message_id: str, reason: str) -> Answer:
        if closed := self._closed(s):
            return closed
        message = next((m for m in s.messages if m.message_id == message_id), None)
        if message is None:
            return ("error", "MessageNotFound")
        message.text, message.reason = None, reason
        if s.named_by == message_id:
            s.name, s.named_by = "", ""
        self._event(s, "MESSAGE_REDACTED")
        return ("redacted", s.version, message_id, reason)

    def _delete(self, s: Session) -> Answer:
        self._event(s, "SESSION_DELETED")
        s.deleted = True
        s.done.clear()
        return ("deleted", s.version)
