"""The state machine, every status against every action."""

import pytest

from sessiond.v1.event_pb2 import EventType
from sessiond.v1.session_pb2 import EndReason, SessionStatus
from sessiond_server.domain import commands as c
from sessiond_server.errors import IllegalTransition, SessionEnded, SessionNotActive
from tests.support.session_log import REPLACE, SECOND, START, Log, new_session, user

CREATED, ACTIVE, SUSPENDED, ENDED = (
    SessionStatus.SESSION_STATUS_CREATED,
    SessionStatus.SESSION_STATUS_ACTIVE,
    SessionStatus.SESSION_STATUS_SUSPENDED,
    SessionStatus.SESSION_STATUS_ENDED,
)

PATHS: dict[SessionStatus.ValueType, list[c.Action]] = {
    CREATED: [],
    ACTIVE: [c.ActivateSession()],
    SUSPENDED: [c.ActivateSession(), c.SuspendSession()],
    ENDED: [c.EndSession(EndReason.END_REASON_CLIENT)],
}
UPDATE = c.UpdateSession(new_session(name="n"), ["name"], REPLACE)
CLIENT_END = c.EndSession(EndReason.END_REASON_COMPLETED)

TABLE: list[tuple[SessionStatus.ValueType, c.Action, SessionStatus.ValueType | type[Exception]]] = [
    (CREATED, c.ActivateSession(), ACTIVE),
    (CREATED, c.SuspendSession(), IllegalTransition),
    (CREATED, c.ResumeSession(), IllegalTransition),
    (CREATED, CLIENT_END, ENDED),
    (CREATED, c.TouchSession(0), CREATED),
    (CREATED, UPDATE, CREATED),
    (CREATED, c.AppendMessages([user()]), SessionNotActive),
    (ACTIVE, c.ActivateSession(), IllegalTransition),
    (ACTIVE, c.SuspendSession(), SUSPENDED),
    (ACTIVE, c.ResumeSession(), IllegalTransition),
    (ACTIVE, CLIENT_END, ENDED),
    (ACTIVE, c.TouchSession(0), ACTIVE),
    (ACTIVE, UPDATE, ACTIVE),
    (ACTIVE, c.AppendMessages([user()]), ACTIVE),
    (SUSPENDED, c.ActivateSession(), ACTIVE),
    (SUSPENDED, c.SuspendSession(), IllegalTransition),
    (SUSPENDED, c.ResumeSession(), ACTIVE),
    (SUSPENDED, CLIENT_END, ENDED),
    (SUSPENDED, c.TouchSession(0), SUSPENDED),
    (SUSPENDED, UPDATE, SUSPENDED),
    (SUSPENDED, c.AppendMessages([user()]), SessionNotActive),
    (ENDED, c.ActivateSession(), SessionEnded),
    (ENDED, c.SuspendSession(), SessionEnded),
    (ENDED, c.ResumeSession(), SessionEnded),
    (ENDED, CLIENT_END, ENDED),
    (ENDED, c.TouchSession(0), SessionEnded),
    (ENDED, UPDATE, SessionEnded),
    (ENDED, c.AppendMessages([user()]), SessionEnded),
    (ENDED, c.RedactMessage("m", ""), SessionEnded),
]


@pytest.mark.parametrize(
    ("status", "action", "expected"),
    TABLE,
    ids=[f"{SessionStatus.Name(s)[15:]}-{type(a).__name__}" for s, a, _ in TABLE],
)
def test_every_action_from_every_status(
    status: SessionStatus.ValueType, action: c.Action, expected: SessionStatus.ValueType | type[Exception]
) -> None:
    log = Log()
    log.create(status=CREATED)
    for step in PATHS[status]:
        log.ok(step)
    before = log.session()
    assert before.status == status

    result = log.do(action)

    if isinstance(expected, int):
        assert not isinstance(result, Exception)
        assert log.session().status == expected
    else:
        assert type(result) is expected
        assert log.session() == before, "a refusal changes nothing"
    assert log.folded() == log.session()


def test_a_transition_says_what_was_illegal() -> None:
    log = Log()
    log.create(status=CREATED)
    refusal = log.do(c.SuspendSession())
    assert isinstance(refusal, IllegalTransition)
    assert refusal.message == "cannot suspend a session that is CREATED"
    assert refusal.metadata == {"session_id": "s1", "status": "CREATED", "action": "suspend"}


def test_transitions_have_their_events() -> None:
    log = Log()
    log.create(status=CREATED)
    for action in (c.ActivateSession(), c.SuspendSession(), c.ResumeSession(), CLIENT_END):
        log.ok(action)
    assert [event.type for event in log.log()] == [
        EventType.EVENT_TYPE_SESSION_CREATED,
        EventType.EVENT_TYPE_SESSION_ACTIVATED,
        EventType.EVENT_TYPE_SESSION_SUSPENDED,
        EventType.EVENT_TYPE_SESSION_RESUMED,
        EventType.EVENT_TYPE_SESSION_ENDED,
    ]
    assert log.session().end_reason == EndReason.END_REASON_COMPLETED
    assert log.session().end_time.seconds == START // SECOND


def test_ending_twice_changes_nothing_and_keeps_the_first_reason() -> None:
    log = Log()
    log.create()
    log.ok(CLIENT_END)
    before = log.session()
    outcome = log.ok(c.EndSession(EndReason.END_REASON_FAILED))
    assert isinstance(outcome, c.SessionWritten)
    assert outcome.session.version == before.version
    assert log.session() == before


class TestExpiry:
    """Defect 7: messages extend the expiry. Defect 8: instants are integers of one clock, never naive local times."""

    def test_default_life_time_is_the_rules(self) -> None:
        log = Log()
        session = log.create()
        assert session.ttl.seconds == 24 * 3600
        assert session.expire_time.seconds == START // SECOND + 24 * 3600

    def test_every_write_extends_a_sliding_life(self) -> None:
        log = Log()
        log.create(ttl={"seconds": 100})
        writes: list[c.Action] = [c.AppendMessages([user()]), UPDATE, c.SuspendSession(), c.ResumeSession()]
        for number, action in enumerate([*writes, c.TouchSession(0)], start=1):
            log.now = START + number * 10 * SECOND
            log.ok(action)
            assert log.session().expire_time.seconds == log.now // SECOND + 100
        assert log.folded() == log.session()

    def test_an_absolute_expiry_is_not_extended_by_writes(self) -> None:
        log = Log()
        log.create(expire_time={"seconds": START // SECOND + 50})
        log.now += 10 * SECOND
        log.append()
        log.ok(c.TouchSession(0))
        assert log.session().expire_time.seconds == START // SECOND + 50
        log.ok(c.TouchSession(300 * SECOND))
        assert log.session().expire_time.seconds == START // SECOND + 10 + 300

    def test_touch_never_shortens_and_gives_no_end_to_an_endless_session(self) -> None:
        log = Log()
        log.create(ttl={"seconds": 1000})
        log.ok(c.TouchSession(1 * SECOND))
        assert log.session().expire_time.seconds == START // SECOND + 1000
        log.ok(c.UpdateSession(new_session(), ["ttl"], REPLACE))
        assert not log.session().HasField("expire_time")
        log.ok(c.TouchSession(5 * SECOND))
        assert not log.session().HasField("expire_time")

    @pytest.mark.parametrize("late", [0, 1, 3600 * SECOND])
    def test_an_expired_session_takes_no_writes_even_before_it_is_swept(self, late: int) -> None:
        log = Log()
        log.create(ttl={"seconds": 100})
        log.now = START + 100 * SECOND + late
        for action in (c.AppendMessages([user()]), UPDATE, c.TouchSession(0), c.SuspendSession()):
            refusal = log.do(action)
            assert isinstance(refusal, SessionEnded)
            assert refusal.metadata["end_reason"] == "EXPIRED"
        assert log.session().version == 1

    def test_it_lives_until_the_last_microsecond(self) -> None:
        log = Log()
        log.create(ttl={"seconds": 100})
        log.now = START + 100 * SECOND - 1
        log.append()

    def test_the_sweeper_ends_only_what_is_due_and_only_once(self) -> None:
        log = Log()
        log.create(ttl={"seconds": 100})
        assert log.ok(c.ExpireSession()) == c.NothingToDo(1)
        log.now += 100 * SECOND
        log.ok(c.ExpireSession())
        assert log.ok(c.ExpireSession()) == c.NothingToDo(2)
        session = log.session()
        assert (session.status, session.end_reason) == (ENDED, EndReason.END_REASON_EXPIRED)
        assert [event.type for event in log.log()][1:] == [EventType.EVENT_TYPE_SESSION_EXPIRED]
        assert session.expire_time.seconds == START // SECOND + 100, "the end does not extend the life"
        assert log.folded() == session

    def test_ending_what_has_expired_says_expired(self) -> None:
        log = Log()
        log.create(ttl={"seconds": 100})
        log.now += 200 * SECOND
        log.ok(CLIENT_END)
        assert log.session().end_reason == EndReason.END_REASON_EXPIRED

    def test_an_expired_session_can_be_deleted(self) -> None:
        log = Log()
        log.create(ttl={"seconds": 100})
        log.now += 200 * SECOND
        assert log.ok(c.DeleteSession()) == c.SessionDeleted(2)
