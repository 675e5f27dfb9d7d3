"""The life cycle of a session: CREATED -> ACTIVE <-> SUSPENDED -> ENDED. Any status can change to ENDED."""

from typing import Final

from sessiond.v1.event_pb2 import EventType
from sessiond.v1.session_pb2 import EndReason, Session, SessionStatus
from sessiond_server.domain.commands import ActivateSession, ResumeSession, SuspendSession
from sessiond_server.domain.times import microseconds
from sessiond_server.errors import IllegalTransition, SessionEnded, SessionNotActive

Transition = ActivateSession | SuspendSession | ResumeSession

CREATED: Final = SessionStatus.SESSION_STATUS_CREATED
ACTIVE: Final = SessionStatus.SESSION_STATUS_ACTIVE
SUSPENDED: Final = SessionStatus.SESSION_STATUS_SUSPENDED
ENDED: Final = SessionStatus.SESSION_STATUS_ENDED

TRANSITIONS: Final[dict[type[Transition], tuple[str, frozenset[int], SessionStatus.ValueType, EventType.ValueType]]] = {
    ActivateSession: (
        "activate",
        frozenset({CREATED, SUSPENDED}),
        ACTIVE,
        EventType.EVENT_TYPE_SESSION_ACTIVATED,
    ),
    SuspendSession: ("suspend", frozenset({ACTIVE}), SUSPENDED, EventType.EVENT_TYPE_SESSION_SUSPENDED),
    ResumeSession: ("resume", frozenset({SUSPENDED}), ACTIVE, EventType.EVENT_TYPE_SESSION_RESUMED),
}
"""Action -> (verb, allowed source statuses, target status, event type)."""


def status_name(session: Session) -> str:
    """The status without its prefix, for error texts."""
    return SessionStatus.Name(session.status).removeprefix("SESSION_STATUS_")


def is_expired(session: Session, now_us: int) -> bool:
    """Whether `expire_time` has been reached, whether the session has ended or not. Inclusive."""
    return session.HasField("expire_time") and microseconds(session.expire_time) <= now_us


def check_open(session: Session, now_us: int) -> None:
    """Raises SessionEnded if the session has ended, or has expired although the sweeper has not ended it yet."""
    if session.status == ENDED:
        raise SessionEnded(session.session_id, EndReason.Name(session.end_reason).removeprefix("END_REASON_"))
    if is_expired(session, now_us):
        raise SessionEnded(session.session_id, "EXPIRED")


def check_active(session: Session, now_us: int) -> None:
    """Raises SessionEnded or SessionNotActive unless the session is ACTIVE and has not expired."""
    check_open(session, now_us)
    if session.status != ACTIVE:
        raise SessionNotActive(session.session_id, status_name(session))


def transition(
    session: Session, action: Transition, now_us: int
) -> tuple[SessionStatus.ValueType, EventType.ValueType]:
    """Returns the target status and the event type of the action. Raises SessionEnded or IllegalTransition."""
    check_open(session, now_us)
    verb, sources, target, event = TRANSITIONS[type(action)]
    if session.status not in sources:
        raise IllegalTransition(session.session_id, status_name(session), verb)
    return target, event
