"""What commands do to a session: defaults, limits, merges, ids, versions, isolation, deletion, redaction."""

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from sessiond.patches import merge_patch
from sessiond.v1.event_pb2 import EventType
from sessiond.v1.message_pb2 import Message, Part, Role, ToolCallPart
from sessiond.v1.session_pb2 import Session, SessionConfig, SessionView, TokenUsage
from sessiond_server.domain import commands as c
from sessiond_server.domain.messages.titles import title
from sessiond_server.domain.rows import Policy
from sessiond_server.domain.tool_calls.tools import tool_allowed
from sessiond_server.errors import (
    InvalidFields,
    MessageAlreadyExists,
    MessageLimitReached,
    MessageNotFound,
    SessionAlreadyExists,
    SessionNotFound,
    SessionQuotaReached,
    ToolBlocked,
    VersionMismatch,
)
from tests.support.session_log import CLIENT, KEY, MERGE, REPLACE, SECOND, START, Log, new_session, text, user


def struct(value: dict[str, object]) -> Struct:
    return json_format.ParseDict(value, Struct())


class TestCreation:
    def test_a_session_starts_at_version_one_with_its_counters(self) -> None:
        session = Log().create(user_id="u", name="n", labels={"a": "b"}, metadata=struct({"k": 1}))
        assert (session.version, session.content_version, session.request_count) == (1, 1, 1)
        assert session.create_time == session.update_time == session.last_activity_time
        assert session.create_time.seconds == START // SECOND
        assert json_format.MessageToDict(session.metadata) == {"k": 1}

    def test_the_system_prompt_is_stored(self) -> None:
        """Defect 5."""
        session = Log().create(config=SessionConfig(system_prompt="Be brief.", max_messages=5))
        assert session.config.system_prompt == "Be brief."
        assert session.config.max_messages == 5

    def test_taken_id_is_refused_for_every_owner(self) -> None:
        log = Log()
        log.create(user_id="alice")
        texts = set()
        for user_id in ("alice", "bob"):
            refusal = log.do(c.CreateSession(new_session(user_id=user_id)), scope=c.Scope("tenant", user_id))
            assert isinstance(refusal, SessionAlreadyExists)
            texts.add((refusal.message, str(refusal.metadata)))
        assert len(texts) == 1

    def test_an_expiry_in_the_past_is_refused(self) -> None:
        log = Log()
        refusal = log.do(c.CreateSession(new_session(expire_time={"seconds": START // SECOND})))
        assert isinstance(refusal, InvalidFields)
        assert refusal.violations[0].field == "session.expire_time"
        assert log.heads == {}

    def test_the_quota_counts_sessions_that_live(self) -> None:
        log = Log(Policy(max_live_sessions=2))
        create = c.CreateSession(new_session())
        first = [log.command(create, session_id=s) for s in ("a", "b", "c")]
        assert [type(r) for r in log.apply(*first)] == [c.SessionWritten, c.SessionWritten, SessionQuotaReached]
        assert isinstance(log.do(create, session_id="c"), SessionQuotaReached)
        log.ok(c.EndSession(CLIENT), session_id="a")
        log.ok(create, session_id="c")
        swap = [log.command(c.DeleteSession(), session_id="b"), log.command(create, session_id="d")]
        assert [type(r) for r in log.apply(*swap)] == [c.SessionDeleted, c.SessionWritten]


class TestAppend:
    def test_messages_get_consecutive_places_and_are_the_log(self) -> None:
        log = Log()
        log.create()
        outcome = log.append(user("one", "m1"), text(Role.ROLE_ASSISTANT, "two"), user("three"))
        assert (outcome.first_seq, outcome.version) == (2, 4)
        assert outcome.message_ids[0] == "m1"
        assert len(set(outcome.message_ids)) == 3
        assert [m.seq for m in log.messages()] == [2, 3, 4]
        assert [m.parts[0].text for m in log.messages()] == ["one", "two", "three"]
        assert {m.session_id for m in log.messages()} == {"s1"}
        assert [e.index_in_request for e in log.log()[1:]] == [0, 1, 2]
        session = log.session()
        assert (session.message_count, session.request_count, session.version) == (3, 2, 4)
        assert log.folded() == session

    def test_commands_do_not_mutate_their_arguments(self) -> None:
        log = Log()
        log.create()
        given = user()
        log.append(given)
        assert given == user()

    def test_output_only_fields_of_the_caller_are_ignored(self) -> None:
        log = Log()
        log.create()
        forged = user()
        forged.seq, forged.session_id, forged.redact_reason = 99, "other", "because"
        forged.redact_time.seconds = forged.create_time.seconds = 1
        log.append(forged)
        stored = log.messages()[0]
        assert (stored.seq, stored.session_id, stored.redact_reason) == (2, "s1", "")
        assert not stored.HasField("redact_time")
        assert stored.create_time.seconds == START // SECOND

    def test_usage_adds_up_and_a_missing_total_is_filled_in(self) -> None:
        log = Log()
        log.create()
        first, second = user(), user()
        first.usage.CopyFrom(TokenUsage(input_tokens=3, output_tokens=4, cached_tokens=1))
        second.usage.CopyFrom(TokenUsage(input_tokens=1, total_tokens=10, reasoning_tokens=2))
        log.append(first, second)
        expected = TokenUsage(input_tokens=4, output_tokens=4, total_tokens=17, cached_tokens=1, reasoning_tokens=2)
        assert log.session().usage == expected
        assert log.folded() == log.session()

    def test_token_totals_stop_at_their_bound(self) -> None:
        log = Log()
        log.create()
        most = 2**53 - 1
        many = user()
        many.usage.CopyFrom(TokenUsage(input_tokens=2**53 - 1, output_tokens=2**53 - 1))
        log.append(many, many, many)
        assert log.messages()[0].usage.total_tokens == 2**53 - 1
        assert log.session().usage == TokenUsage(input_tokens=most, output_tokens=most, total_tokens=most)
        assert log.folded() == log.session()

    def test_all_or_nothing_at_the_limit(self) -> None:
        log = Log()
        log.create(config=SessionConfig(max_messages=3))
        log.append(user(), user())
        refusal = log.do(c.AppendMessages([user(), user()]))
        assert isinstance(refusal, MessageLimitReached)
        assert refusal.metadata["limit"] == "3"
        assert log.session().message_count == 2
        log.append(user())
        assert isinstance(log.do(c.AppendMessages([user()])), MessageLimitReached)

    @pytest.mark.parametrize(
        ("allowed", "blocked", "tool", "fine"),
        [
            ([], [], "search", True),
            (["search"], [], "search", True),
            (["search"], [], "Search", False),
            (["search"], [], "book", False),
            ([], ["book"], "search", True),
            ([], ["book"], "book", False),
            (["book"], ["book"], "book", False),
        ],
    )
    def test_tools(self, allowed: list[str], blocked: list[str], tool: str, fine: bool) -> None:
        config = SessionConfig(allowed_tools=allowed, blocked_tools=blocked)
        assert tool_allowed(config, tool) is fine
        log = Log()
        log.create(config=config)
        call = Message(role=Role.ROLE_ASSISTANT, parts=[Part(text="x"), Part(tool_call=ToolCallPart(name=tool))])
        result = log.do(c.AppendMessages([user(), call]))
        if fine:
            assert isinstance(result, c.MessagesAppended)
        else:
            assert isinstance(result, ToolBlocked)
            assert result.field == "messages[1].parts[1].tool_call.name"
            assert log.session().message_count == 0

    def test_a_message_id_is_taken_once(self) -> None:
        log = Log()
        log.create()
        assert isinstance(log.do(c.AppendMessages([user("a", "m"), user("b", "m")])), MessageAlreadyExists)
        log.append(user("a", "m"))
        assert isinstance(log.do(c.AppendMessages([user("b", "m")])), MessageAlreadyExists)
        pair = [log.command(c.AppendMessages([user("c", "n")])) for _ in range(2)]
        assert [type(r) for r in log.apply(*pair)] == [c.MessagesAppended, MessageAlreadyExists]
        assert [m.message_id for m in log.messages()] == ["m", "n"]


class TestName:
    """Defect 7: the first user message names the session."""

    @pytest.mark.parametrize(
        ("message", "expected"),
        [
            (user("Hello there"), "Hello there"),
            (user("  Hello\n\n  there\t! "), "Hello there !"),
            (user("x" * 51), "x" * 50),
            (user("\u4f60\u597d" * 40), "\u4f60\u597d" * 25),
            (user("a" * 49 + " b"), "a" * 49),
            (text(Role.ROLE_ASSISTANT, "Hi"), ""),
            (text(Role.ROLE_SYSTEM, "Be brief."), ""),
            (Message(role=Role.ROLE_USER, parts=[Part(text=" "), Part(text="second")]), "second"),
            (Message(role=Role.ROLE_USER), ""),
        ],
    )
    def test_title(self, message: Message, expected: str) -> None:
        assert title(message) == expected

    def test_the_first_user_message_names_the_session_once(self) -> None:
        log = Log()
        log.create()
        log.append(text(Role.ROLE_SYSTEM, "policy"), user("My flight"), user("Another"))
        assert log.session().name == "My flight"
        assert [e.session_name for e in log.log() if e.HasField("session_name")] == ["My flight"]
        assert log.folded() == log.session()

    def test_a_given_name_stays(self) -> None:
        log = Log()
        log.create(name="Mine")
        log.append(user("My flight"))
        assert log.session().name == "Mine"


class TestVersions:
    """Defect 12: no lost updates."""

    def test_a_stale_expected_version_is_refused_with_the_current_one(self) -> None:
        log = Log()
        log.create()
        update = c.UpdateSession(new_session(name="a"), ["name"], REPLACE)
        log.ok(update, expected_version=1)
        refusal = log.do(c.UpdateSession(new_session(name="b"), ["name"], REPLACE), expected_version=1)
        assert isinstance(refusal, VersionMismatch)
        assert refusal.metadata["current_version"] == "2"
        assert log.session().name == "a"

    @pytest.mark.parametrize(
        "action",
        [
            c.UpdateSession(new_session(name="n"), ["name"], REPLACE),
            c.SuspendSession(),
            c.EndSession(CLIENT),
            c.TouchSession(0),
            c.DeleteSession(),
            c.AppendMessages([user()]),
            c.RedactMessage("m", ""),
        ],
        ids=lambda action: type(action).__name__,
    )
    def test_every_write_honours_it(self, action: c.Action) -> None:
        log = Log()
        log.create()
        log.append(user("x", "m"))
        assert isinstance(log.do(action, expected_version=1), VersionMismatch)
        assert isinstance(log.do(action, expected_version=3), VersionMismatch)
        assert log.session().version == 2
        log.ok(action, expected_version=2)

    def test_only_one_of_two_in_a_batch_wins(self) -> None:
        log = Log()
        log.create()
        both = [
            log.command(c.UpdateSession(new_session(name=n), ["name"], REPLACE), expected_version=1) for n in ("a", "b")
        ]
        assert [type(r) for r in log.apply(*both)] == [c.SessionWritten, VersionMismatch]
        assert log.session().name == "a"


class TestUpdate:
    def test_only_named_fields_change(self) -> None:
        log = Log()
        log.create(name="n", agent_id="a", labels={"x": "1"}, metadata=struct({"k": 1}), summary="s")
        before = log.session()
        log.ok(c.UpdateSession(new_session(name="new", agent_id="other", summary="other"), ["name"], REPLACE))
        after = log.session()
        assert after.name == "new"
        assert (after.agent_id, after.summary, after.metadata) == ("a", "s", before.metadata)
        assert after.content_version == 1, "the content was not written"
        event = log.log()[-1]
        assert event.session_view == SessionView.SESSION_VIEW_BASIC
        assert not event.session.HasField("metadata")
        assert log.folded() == after

    def test_content_is_written_with_its_event_and_keeps_the_rest(self) -> None:
        log = Log()
        log.create(metadata=struct({"k": 1}), config=SessionConfig(system_prompt="p", max_messages=9))
        log.ok(c.UpdateSession(new_session(summary="short"), ["summary"], REPLACE))
        session = log.session()
        assert (session.summary, session.config.system_prompt, session.content_version) == ("short", "p", 2)
        assert log.log()[-1].session_view == SessionView.SESSION_VIEW_FULL
        assert log.folded() == session

    def test_an_append_never_carries_the_content(self) -> None:
        log = Log()
        log.create(state=struct({"big": "x" * 200_000}))
        log.append(user())
        event = log.events[KEY][-1]
        assert event.content is None
        assert len(event.head) + len(event.body) + len(log.heads[KEY].core) < 1000

    def test_one_field_of_the_config(self) -> None:
        log = Log()
        log.create(config=SessionConfig(system_prompt="p", blocked_tools=["a"]))
        given = new_session(config=SessionConfig(max_messages=1, blocked_tools=["b", "c"], system_prompt="ignored"))
        log.ok(c.UpdateSession(given, ["config.max_messages", "config.blocked_tools"], REPLACE))
        config = log.session().config
        assert config == SessionConfig(system_prompt="p", max_messages=1, blocked_tools=["b", "c"])
        log.append(user())
        assert isinstance(log.do(c.AppendMessages([user()])), MessageLimitReached)

    def test_merge_and_replace(self) -> None:
        log = Log()
        log.create(metadata=struct({"a": 1, "b": {"c": 2, "d": 3}}))
        patch = new_session(metadata=struct({"b": {"c": None, "e": 4}, "f": [1]}))
        log.ok(c.UpdateSession(patch, ["metadata"], MERGE))
        assert json_format.MessageToDict(log.session().metadata) == {"a": 1, "b": {"d": 3, "e": 4}, "f": [1]}
        log.ok(c.UpdateSession(patch, ["metadata"], REPLACE))
        assert json_format.MessageToDict(log.session().metadata) == {"b": {"c": None, "e": 4}, "f": [1]}
        log.ok(c.UpdateSession(new_session(), ["metadata"], REPLACE))
        assert not log.session().HasField("metadata")

    def test_a_merge_may_not_pass_the_bounds(self) -> None:
        log = Log()
        log.create(metadata=struct({"a": "x" * 40_000}))
        refusal = log.do(c.UpdateSession(new_session(metadata=struct({"b": "x" * 40_000})), ["metadata"], MERGE))
        assert isinstance(refusal, InvalidFields)
        assert refusal.violations[0].field == "session.metadata"
        assert log.session().version == 1

    def test_ttl_and_expiry_exclude_each_other(self) -> None:
        log = Log()
        log.create(ttl={"seconds": 1000})
        at = START // SECOND + 5000
        log.ok(c.UpdateSession(new_session(expire_time={"seconds": at}), ["expire_time"], REPLACE))
        assert (log.session().HasField("ttl"), log.session().expire_time.seconds) == (False, at)
        log.ok(c.UpdateSession(new_session(ttl={"seconds": 10}), ["ttl"], REPLACE))
        assert (log.session().ttl.seconds, log.session().expire_time.seconds) == (10, START // SECOND + 10)
        refusal = log.do(c.UpdateSession(new_session(expire_time={"seconds": 1}), ["expire_time"], REPLACE))
        assert isinstance(refusal, InvalidFields)


class TestIsolation:
    """Defect 11: what is not the caller's does not exist."""

    @pytest.mark.parametrize("scope", [c.Scope("other"), c.Scope("tenant", "bob")], ids=["tenant", "owner"])
    def test_session_of_another_user_is_not_found(self, scope: c.Scope) -> None:
        log = Log()
        log.create(user_id="alice")
        actions: list[c.Action] = [
            c.TouchSession(0),
            c.DeleteSession(),
            c.AppendMessages([user()]),
            c.EndSession(CLIENT),
        ]
        for action in actions:
            foreign = log.do(action, scope=scope, expected_version=9)
            unknown = log.do(action, scope=scope, session_id="s2")
            assert isinstance(foreign, SessionNotFound)
            assert isinstance(unknown, SessionNotFound)
            assert foreign.message == unknown.message
        assert log.session().version == 1


class TestDeletion:
    def test_what_remains_is_the_id_and_the_final_event(self) -> None:
        log = Log()
        log.create(name="secret")
        log.append(user("secret"))
        assert log.ok(c.DeleteSession()) == c.SessionDeleted(3)
        head = log.heads[KEY]
        assert (head.deleted, head.version, head.core, head.limits, head.content_version) == (True, 3, b"", b"", 0)
        final = log.log()[-1]
        assert final.type == EventType.EVENT_TYPE_SESSION_DELETED
        assert final.session == Session(session_id="s1", version=3)
        for action in (c.TouchSession(0), c.DeleteSession(), c.AppendMessages([user()]), c.EndSession(CLIENT)):
            assert isinstance(log.do(action), SessionNotFound)
        assert isinstance(log.do(c.CreateSession(new_session())), SessionAlreadyExists)

    def test_session_created_used_and_deleted_in_one_batch(self) -> None:
        log = Log()
        results = log.apply(
            log.command(c.CreateSession(new_session()), request_id="r1"),
            log.command(c.AppendMessages([user()]), request_id="r2"),
            log.command(c.DeleteSession(), request_id="r3"),
            log.command(c.AppendMessages([user()]), request_id="r2"),
            log.command(c.DeleteSession(), request_id="r3"),
        )
        assert [type(r) for r in results] == [
            c.SessionWritten, c.MessagesAppended, c.SessionDeleted, SessionNotFound, c.SessionDeleted,
        ]  # fmt: skip
        assert log.heads[KEY].deleted
        assert log.do(c.DeleteSession(), request_id="r3") == c.SessionDeleted(3)


class TestRedaction:
    def test_the_content_is_gone_from_message_and_log(self) -> None:
        log = Log()
        log.create()
        secret = user("my password", "m")
        secret.metadata.update({"password": "x"})
        secret.usage.input_tokens = 7
        log.append(secret)
        assert log.session().name == "my password"
        outcome = log.ok(c.RedactMessage("m", "asked for"))
        assert isinstance(outcome, c.MessageRedacted)
        for message in (Message.FromString(outcome.message), log.messages()[0], log.log()[-1].message):
            assert (message.message_id, message.seq, message.role) == ("m", 2, Role.ROLE_USER)
            assert (list(message.parts), message.HasField("metadata")) == ([], False)
            assert (message.redact_reason, message.usage.input_tokens) == ("asked for", 7)
        assert log.session().name == ""
        assert b"password" not in b"".join(e.head + e.body + (e.content or b"") for e in log.events[KEY])
        assert log.folded() == log.session()

    def test_a_name_that_someone_else_gave_stays(self) -> None:
        log = Log()
        log.create()
        log.append(user("my password", "m"))
        log.ok(c.UpdateSession(new_session(name="chosen"), ["name"], REPLACE))
        log.ok(c.RedactMessage("m", ""))
        assert log.session().name == "chosen"
        assert log.folded() == log.session()

    def test_unknown_messages_and_messages_of_the_same_batch(self) -> None:
        log = Log()
        log.create()
        assert isinstance(log.do(c.RedactMessage("m", "")), MessageNotFound)
        log.apply(
            log.command(c.AppendMessages([user("secret", "m")])),
            log.command(c.RedactMessage("m", "one")),
            log.command(c.RedactMessage("m", "two")),
        )
        assert log.messages()[0].redact_reason == "two"
        assert b"secret" not in b"".join(e.head + e.body for e in log.events[KEY])


class TestClock:
    def test_time_never_runs_backwards_within_a_session(self) -> None:
        log = Log()
        log.create()
        log.now -= 5 * SECOND
        log.append(user())
        assert log.session().update_time == log.session().create_time
        assert log.log()[1].create_time == log.log()[0].create_time


VALUES: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("abc", max_size=1), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text("abc", max_size=1), VALUES, max_size=3)


def rfc7396(target: object, patch: object) -> object:
    """The RFC's own pseudo code."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = rfc7396(result.get(name), value)
    return result


@given(target=OBJECTS, patch=OBJECTS)
def test_merge_follows_rfc_7396(target: dict[str, object], patch: dict[str, object]) -> None:
    merged, original = struct(target), struct(patch)
    merge_patch(merged, original)
    assert merged == struct(rfc7396(target, patch))  # type: ignore[arg-type]
    assert original == struct(patch)
