"""An append that changes the session too: both or neither, the change first. And updates that set single members."""

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from sessiond.v1.event_pb2 import EventType
from sessiond.v1.message_pb2 import Message, Part, Role, ToolCallPart
from sessiond.v1.session_pb2 import SessionConfig
from sessiond.v1.session_service_pb2 import StructUpdate
from sessiond_server.domain import commands as c
from sessiond_server.errors import (
    InvalidFields,
    MessageAlreadyExists,
    MessageLimitReached,
    SessiondError,
    SessionNotActive,
    ToolBlocked,
)
from tests.support.session_log import MERGE, REPLACE, START, Log, new_session, user

SET_KEYS = StructUpdate.STRUCT_UPDATE_SET_KEYS


def struct(value: dict[str, object]) -> Struct:
    return json_format.ParseDict(value, Struct())


def set_state(*removed: str, **members: object) -> c.UpdateSession:
    return c.UpdateSession(new_session(state=struct(members)), ["state"], SET_KEYS, removed, "update.")


def state_of(log: Log) -> object:
    return json_format.MessageToDict(log.session().state)


def test_members_replace_whole_and_null_is_a_value() -> None:
    log = Log()
    log.create(state=struct({"kept": 1, "object": {"a": 1, "b": 2}, "gone": 3}))
    log.ok(set_state("state.gone", "state.never there", object={"c": None}, nothing=None))
    assert state_of(log) == {"kept": 1, "object": {"c": None}, "nothing": None}
    assert log.folded() == log.session()


def test_member_whose_name_has_dots_is_removed() -> None:
    log = Log()
    log.create(metadata=struct({"a.b": 1, "a": 2}))
    log.ok(c.UpdateSession(new_session(), ["metadata"], SET_KEYS, ["metadata.a.b"]))
    assert json_format.MessageToDict(log.session().metadata) == {"a": 2}


def test_members_set_may_not_pass_the_bounds_of_the_field() -> None:
    log = Log()
    log.create(metadata=struct({"a": "x" * 40_000}))
    too_much = new_session(metadata=struct({"b": "x" * 40_000}))
    refusal = log.do(c.UpdateSession(too_much, ["metadata"], SET_KEYS))
    assert isinstance(refusal, InvalidFields)
    assert refusal.violations[0].field == "session.metadata"
    instead = c.UpdateSession(too_much, ["metadata"], SET_KEYS, ["metadata.a"])
    log.ok(instead)
    assert log.session().version == 2


class TestUpdateAndAppend:
    def test_update_comes_first_and_both_are_one_request(self) -> None:
        log = Log()
        log.create(state=struct({"step": 1, "draft": "x"}))
        action = c.UpdateAndAppend([user("one", "m1"), user("two")], set_state("state.draft", step=2))
        outcome = log.ok(action)
        assert isinstance(outcome, c.MessagesAppended)
        assert (outcome.first_seq, outcome.version, outcome.message_ids[0]) == (3, 4, "m1")
        events = log.log()[1:]
        appended = EventType.EVENT_TYPE_MESSAGE_APPENDED
        assert [e.type for e in events] == [EventType.EVENT_TYPE_SESSION_UPDATED, appended, appended]
        assert [e.index_in_request for e in events] == [0, 1, 2]
        assert [m.seq for m in log.messages()] == [3, 4]
        session = log.session()
        assert state_of(log) == {"step": 2}
        assert (session.request_count, session.message_count, session.content_version) == (2, 2, 2)
        assert session.last_activity_time == session.update_time
        assert log.folded() == session

    def test_title_is_taken_from_the_message_unless_the_update_names_the_session(self) -> None:
        log = Log()
        log.create()
        log.ok(c.UpdateAndAppend([user("hello")], c.UpdateSession(new_session(name="given"), ["name"], REPLACE)))
        assert log.session().name == "given"
        assert not log.log()[-1].HasField("session_name")
        log.ok(c.UpdateAndAppend([user("hello")], c.UpdateSession(new_session(), ["name"], REPLACE)))
        assert log.session().name == "hello"
        assert log.log()[-1].session_name == "hello"
        assert log.folded() == log.session()

    def test_limits_and_tools_of_the_new_config_hold(self) -> None:
        log = Log()
        log.create(config=SessionConfig(max_messages=1))
        both = [user("one"), user("two")]
        wider = c.UpdateSession(new_session(config=SessionConfig(max_messages=2)), ["config.max_messages"], REPLACE)
        log.ok(c.UpdateAndAppend(both, wider))
        call = Message(role=Role.ROLE_ASSISTANT, parts=[Part(tool_call=ToolCallPart(name="rm"))])
        blocks = c.UpdateSession(new_session(config=SessionConfig(blocked_tools=["rm"])), ["config"], REPLACE)
        assert isinstance(log.do(c.UpdateAndAppend([call], blocks)), ToolBlocked)
        assert log.session().config.max_messages == 2

    @pytest.mark.parametrize(
        ("messages", "update", "refusal"),
        [
            ([user("x", "taken")], set_state(step=2), MessageAlreadyExists),
            ([user(), user()], set_state(step=2), MessageLimitReached),
            ([user("x")], set_state(step="x" * 2**20), InvalidFields),
            (
                [user("x")],
                c.UpdateSession(new_session(expire_time={"seconds": 1}), ["expire_time"], MERGE, (), "update."),
                InvalidFields,
            ),
        ],
        ids=["taken id", "message limit", "state too large", "expiry in the past"],
    )
    def test_neither_is_done_where_one_is_refused(
        self, messages: list[Message], update: c.UpdateSession, refusal: type[SessiondError]
    ) -> None:
        log = Log()
        log.create(state=struct({"step": 1}), config=SessionConfig(max_messages=2))
        log.append(user("first", "taken"))
        before = log.session()
        result = log.do(c.UpdateAndAppend(messages, update))
        assert isinstance(result, refusal)
        if isinstance(result, InvalidFields):
            assert result.violations[0].field.startswith("update.session.")
        assert log.session() == before
        assert len(log.log()) == before.version

    def test_session_that_is_not_active_refuses(self) -> None:
        log = Log()
        log.create()
        log.ok(c.SuspendSession())
        assert isinstance(log.do(c.UpdateAndAppend([user()], set_state(step=2))), SessionNotActive)
        assert not log.session().HasField("state")

    def test_sliding_expiry_follows_the_new_ttl(self) -> None:
        log = Log()
        log.create(ttl={"seconds": 1000})
        ttl = c.UpdateSession(new_session(ttl={"seconds": 10}), ["ttl"], REPLACE)
        log.ok(c.UpdateAndAppend([user()], ttl))
        assert log.session().expire_time.seconds == START // 1_000_000 + 10
        assert log.folded() == log.session()
