"""Idempotency: a retry has no second effect and gets the first outcome (G4)."""

import pytest
from google.protobuf.struct_pb2 import Struct

from sessiond.v1.session_pb2 import Session, SessionStatus
from sessiond_server.domain import commands as c
from sessiond_server.domain import ids
from sessiond_server.errors import RequestIdReused, SessionNotFound, VersionMismatch
from tests.support.session_log import CLIENT, REPLACE, SECOND, Log, new_session, user


def big_state() -> Struct:
    state = Struct()
    state.update({"a": "x"})
    return state


ACTIONS: list[c.Action] = [
    c.UpdateSession(new_session(summary="later", name="n"), ["summary", "name"], REPLACE),
    c.UpdateSession(new_session(name="n"), ["name"], REPLACE),
    c.SuspendSession(),
    c.EndSession(CLIENT),
    c.TouchSession(5 * SECOND),
    c.AppendMessages([user("a"), user("b", "chosen")]),
    c.RedactMessage("m", "reason"),
]


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: type(action).__name__)
class TestRetry:
    def first(self, log: Log, action: c.Action) -> c.Outcome:
        log.create(state=big_state())
        log.append(user("x", "m"))
        return log.ok(action, request_id="r")

    def test_retry_gets_the_first_outcome_and_has_no_effect(self, action: c.Action) -> None:
        log = Log()
        first = self.first(log, action)
        before = log.session(), len(log.log())
        log.now += SECOND
        assert log.ok(action, request_id="r") == first
        assert (log.session(), len(log.log())) == before

    def test_retry_after_later_changes_gets_the_first_outcome(self, action: c.Action) -> None:
        log = Log()
        first = self.first(log, action)
        if log.session().status != SessionStatus.SESSION_STATUS_ENDED:
            log.ok(c.UpdateSession(new_session(summary="other", name="other"), ["summary", "name"], REPLACE))
        assert log.ok(action, request_id="r") == first

    def test_retry_within_one_batch_gets_the_first_outcome(self, action: c.Action) -> None:
        log = Log()
        log.create()
        log.append(user("x", "m"))
        twice = [log.command(action, request_id="r") for _ in range(2)]
        first, second = log.apply(*twice)
        assert not isinstance(first, Exception)
        assert first == second

    def test_retry_ignores_an_expected_version_that_has_passed(self, action: c.Action) -> None:
        log = Log()
        log.create()
        log.append(user("x", "m"))
        first = log.ok(action, request_id="r", expected_version=2)
        assert log.ok(action, request_id="r", expected_version=2) == first

    def test_request_id_with_other_content_is_refused(self, action: c.Action) -> None:
        log = Log()
        self.first(log, action)
        version = log.session().version
        for result in (
            log.do(action, request_id="r", fingerprint=b"other"),
            log.do(c.TouchSession(7), request_id="r", fingerprint=b"other"),
        ):
            assert isinstance(result, RequestIdReused)
        assert log.session().version == version


def test_creation_is_retried_to_the_same_session() -> None:
    log = Log()
    create = c.CreateSession(new_session(state=big_state()))
    first = log.ok(create, request_id="r")
    log.append(user())
    assert log.ok(create, request_id="r") == first
    assert isinstance(first, c.SessionWritten)
    assert Session.FromString(first.session.core + first.session.content).state == big_state()


def test_deletion_is_retried_and_forgets_all_other_requests() -> None:
    log = Log()
    log.create()
    append = c.AppendMessages([user()])
    log.ok(append, request_id="a")
    assert log.ok(c.DeleteSession(), request_id="r") == c.SessionDeleted(3)
    assert log.ok(c.DeleteSession(), request_id="r") == c.SessionDeleted(3)
    assert isinstance(log.do(append, request_id="a"), SessionNotFound)


def test_a_refusal_is_not_remembered() -> None:
    log = Log()
    log.create()
    assert isinstance(log.do(c.SuspendSession(), request_id="r", expected_version=9), VersionMismatch)
    assert isinstance(log.ok(c.SuspendSession(), request_id="r"), c.SessionWritten)


def test_caller_of_another_user_gets_no_outcome_of_a_retry() -> None:
    log = Log()
    log.create(user_id="alice")
    log.ok(c.TouchSession(0), request_id="r")
    assert isinstance(log.do(c.TouchSession(0), request_id="r", scope=c.Scope("tenant", "bob")), SessionNotFound)


def test_ids() -> None:
    made = [ids.uuid7() for _ in range(1000)]
    assert len(set(made)) == 1000
    assert all(value[14] == "7" and value[19] in "89ab" and len(value) == 36 for value in made)
    request = made[0]
    derived = ids.derived("t", "u", request)
    assert derived == ids.derived("t", "u", request) != request
    assert derived[:13] == request[:13]
    assert derived[14] == "7"
    assert ids.derived("t", "u", "any")[14] == "8"
    assert len({ids.derived(t, u, r) for t in "ab" for u in "ab" for r in "ab"}) == 8
