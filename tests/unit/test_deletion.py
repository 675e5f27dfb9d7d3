"""The rule that deletes messages: what it selects, what remains, what it refuses, and what a retry gets."""

import pytest

from sessiond.v1.event_pb2 import EventType
from sessiond.v1.message_pb2 import Message, Role
from sessiond.v1.message_service_pb2 import DeleteMessagesResponse
from sessiond.v1.session_pb2 import SessionConfig
from sessiond_server.domain import commands as c
from sessiond_server.errors import DeletionTooLarge, MessageAlreadyExists, MessageNotFound, SessionEnded
from tests.support.session_log import CLIENT, KEY, REPLACE, Log, new_session, user


def log_of(*ids: str) -> Log:
    """A session with a message for each id; the first is at seq 2."""
    log = Log()
    log.create(name="named")
    for message_id in ids:
        log.append(user(f"secret of {message_id}", message_id))
    return log


def left(log: Log) -> list[str]:
    return [message.message_id for message in log.messages()]


def deleted(log: Log, action: c.DeleteMessages, **options: object) -> c.MessagesDeleted:
    outcome = log.ok(action, **options)
    assert isinstance(outcome, c.MessagesDeleted)
    assert log.folded() == log.session()
    return outcome


def returned(outcome: c.MessagesDeleted) -> list[str]:
    return [m.parts[0].text for m in DeleteMessagesResponse.FromString(outcome.messages).messages]


class TestSelection:
    def test_named_messages_go_and_are_listed_in_the_order_of_the_log(self) -> None:
        log = log_of("a", "b", "c")
        outcome = deleted(log, c.DeleteMessages(("c", "a")))
        assert (outcome.seqs, outcome.message_ids, outcome.version) == ((2, 4), ("a", "c"), 5)
        assert left(log) == ["b"]
        event = log.log()[-1]
        assert event.type == EventType.EVENT_TYPE_MESSAGES_DELETED
        assert list(event.deleted_messages.seqs) == [2, 4]
        assert list(event.deleted_messages.message_ids) == ["a", "c"]
        assert log.session().message_count == 1

    def test_one_unknown_id_refuses_the_whole_deletion(self) -> None:
        log = log_of("a", "b")
        refusal = log.do(c.DeleteMessages(("a", "x")))
        assert isinstance(refusal, MessageNotFound)
        assert refusal.metadata["message_id"] == "x"
        assert left(log) == ["a", "b"]

    def test_range_includes_both_ends_and_may_reach_beyond_the_session(self) -> None:
        log = log_of("a", "b", "c", "d")
        assert deleted(log, c.DeleteMessages(from_seq=3, to_seq=4)).message_ids == ("b", "c")
        assert deleted(log, c.DeleteMessages(from_seq=5, to_seq=1000)).message_ids == ("d",)
        assert deleted(log, c.DeleteMessages(from_seq=1, to_seq=1)).message_ids == ()
        assert left(log) == ["a"]

    def test_newest_ones_are_fewer_where_the_session_has_fewer(self) -> None:
        log = log_of("a", "b", "c")
        outcome = deleted(log, c.DeleteMessages(last_n=2, return_messages=True))
        assert (outcome.message_ids, returned(outcome)) == (("b", "c"), ["secret of b", "secret of c"])
        assert deleted(log, c.DeleteMessages(last_n=2)).message_ids == ("a",)
        nothing = deleted(log, c.DeleteMessages(last_n=2, return_messages=True))
        assert (nothing.message_ids, nothing.messages) == ((), b"")
        assert log.log()[-1].type == EventType.EVENT_TYPE_MESSAGES_DELETED, "nothing deleted is an event too"


class TestWhatRemains:
    def test_content_is_gone_and_the_log_still_folds(self) -> None:
        log = Log()
        log.create(name="")
        said = user("my password", "m")
        said.metadata.update({"password": "x"})
        said.labels["password"] = "password"
        said.client_time.seconds = 77
        said.name = "password"
        said.usage.input_tokens = 7
        log.append(said)
        outcome = deleted(log, c.DeleteMessages(last_n=1))
        (stored,) = [e for e in log.events[KEY] if e.type == EventType.EVENT_TYPE_MESSAGE_APPENDED]
        remains = Message.FromString(stored.body)
        assert {field.name for field, _ in remains.ListFields()} == {
            "message_id", "seq", "session_id", "role", "usage", "create_time", "delete_time",
        }  # fmt: skip
        assert (remains.message_id, remains.seq, remains.role) == ("m", 2, Role.ROLE_USER)
        assert remains.delete_time.ToMicroseconds() == outcome.delete_time_us
        assert b"password" not in b"".join(e.head + e.body + (e.content or b"") for e in log.events[KEY])
        assert (log.session().name, log.session().usage.input_tokens, log.session().message_count) == ("", 7, 0)

    def test_name_that_a_caller_gave_stays(self) -> None:
        log = log_of("a")
        log.ok(c.UpdateSession(new_session(name="chosen"), ["name"], REPLACE))
        deleted(log, c.DeleteMessages(last_n=1))
        assert log.session().name == "chosen"

    def test_deleted_message_is_found_by_neither_redaction_nor_deletion(self) -> None:
        log = log_of("a")
        deleted(log, c.DeleteMessages(("a",)))
        assert isinstance(log.do(c.RedactMessage("a", "")), MessageNotFound)
        assert isinstance(log.do(c.DeleteMessages(("a",))), MessageNotFound)

    def test_a_redacted_message_can_be_deleted(self) -> None:
        log = log_of("a")
        log.ok(c.RedactMessage("a", "why"))
        outcome = deleted(log, c.DeleteMessages(last_n=1, return_messages=True))
        assert DeleteMessagesResponse.FromString(outcome.messages).messages[0].redact_reason == "why"
        assert left(log) == []

    def test_the_id_is_free_again_and_the_limit_counts_what_is_left(self) -> None:
        log = Log()
        log.create(name="n", config=SessionConfig(max_messages=1))
        log.append(user("one", "a"))
        deleted(log, c.DeleteMessages(("a",)))
        log.append(user("two", "a"))
        assert isinstance(log.do(c.AppendMessages([user("three", "b")])), Exception)
        assert [m.parts[0].text for m in log.messages()] == ["two"]

    def test_output_only_delete_time_of_a_caller_is_ignored(self) -> None:
        log = log_of()
        forged = user("text", "a")
        forged.delete_time.seconds = 1
        log.append(forged)
        assert not log.messages()[0].HasField("delete_time")


class TestOneBatch:
    def test_two_pops_take_two_different_messages(self) -> None:
        log = log_of("a", "b", "c")
        pop = c.DeleteMessages(last_n=1, return_messages=True)
        first, second = log.apply(log.command(pop), log.command(pop))
        assert isinstance(first, c.MessagesDeleted)
        assert isinstance(second, c.MessagesDeleted)
        assert (first.message_ids, second.message_ids) == (("c",), ("b",))
        assert left(log) == ["a"]

    def test_messages_of_the_batch_itself_are_deleted(self) -> None:
        log = log_of("a")
        results = log.apply(
            log.command(c.AppendMessages([user("secret of b", "b"), user("secret of x", "x")])),
            log.command(c.RedactMessage("x", "asked")),
            log.command(c.DeleteMessages(last_n=3)),
            log.command(c.AppendMessages([user("again", "a"), user("again", "b")])),
            log.command(c.RedactMessage("x", "again")),
            log.command(c.AppendMessages([user("twice", "b")])),
        )
        assert [type(result) for result in results] == [
            c.MessagesAppended, c.MessageRedacted, c.MessagesDeleted, c.MessagesAppended, MessageNotFound,
            MessageAlreadyExists,
        ]  # fmt: skip
        assert [(m.message_id, m.parts[0].text) for m in log.messages()] == [("a", "again"), ("b", "again")]
        assert b"secret" not in b"".join(e.head + e.body for e in log.events[KEY])
        assert log.folded() == log.session()
        assert (log.written.redactions, [m.seq for _, m in log.written.removals]) == ([], [2])

    def test_a_session_of_the_batch_itself(self) -> None:
        log = Log()
        log.apply(
            log.command(c.CreateSession(new_session(name=""))),
            log.command(c.AppendMessages([user("secret", "a")])),
            log.command(c.DeleteMessages(("a",))),
            log.command(c.DeleteMessages(from_seq=1, to_seq=9)),
        )
        assert (left(log), log.session().name) == ([], "")
        assert log.folded() == log.session()


class TestBounds:
    @pytest.mark.parametrize(("action", "accepted"), [
        (c.DeleteMessages(last_n=1000), True),
        (c.DeleteMessages(from_seq=2, to_seq=1001), True),
        (c.DeleteMessages(from_seq=2, to_seq=1002), False),
    ])  # fmt: skip
    def test_a_thousand_messages_at_once(self, action: c.DeleteMessages, accepted: bool) -> None:
        log = log_of()
        for start in range(0, 1001, 143):
            log.append(*(user("x") for _ in range(start, min(start + 143, 1001))))
        result = log.do(action)
        assert isinstance(result, c.MessagesDeleted if accepted else DeletionTooLarge)
        assert len(left(log)) == (1 if accepted else 1001)

    @pytest.mark.parametrize("action", [
        c.DeleteMessages(last_n=4, return_messages=True),
        c.DeleteMessages(from_seq=2, to_seq=5, return_messages=True),
        c.DeleteMessages(("a", "b", "c", "d"), return_messages=True),
    ])  # fmt: skip
    def test_bytes_of_returned_messages(self, action: c.DeleteMessages) -> None:
        log = log_of()
        for message_id in "abcd":
            log.append(user("x" * 1_000_000, message_id))
        refusal = log.do(action)
        assert isinstance(refusal, DeletionTooLarge)
        assert refusal.metadata["limit_bytes"] == str(3 * 1024 * 1024)
        assert left(log) == ["a", "b", "c", "d"]
        assert len(deleted(log, c.DeleteMessages(last_n=3, return_messages=True)).seqs) == 3
        assert len(deleted(log, c.DeleteMessages(last_n=1)).seqs) == 1

    def test_an_earlier_refused_pop_does_not_narrow_a_later_one(self) -> None:
        log = log_of()
        for message_id in "abcd":
            log.append(user("x" * 1_000_000, message_id))
        big, small = c.DeleteMessages(last_n=4, return_messages=True), c.DeleteMessages(last_n=3, return_messages=True)
        refusal, done = log.apply(log.command(big), log.command(small))
        assert isinstance(refusal, DeletionTooLarge)
        assert isinstance(done, c.MessagesDeleted)
        assert done.message_ids == ("b", "c", "d")

    def test_a_session_that_has_ended_refuses(self) -> None:
        log = log_of("a")
        log.ok(c.EndSession(CLIENT))
        assert isinstance(log.do(c.DeleteMessages(("a",))), SessionEnded)


class TestRetries:
    def test_a_retried_pop_returns_the_same_messages_and_pops_once(self) -> None:
        log = log_of("a", "b")
        pop = c.DeleteMessages(last_n=1, return_messages=True)
        first = deleted(log, pop, request_id="r")
        assert returned(first) == ["secret of b"]
        assert log.ok(pop, request_id="r") == first
        assert left(log) == ["a"]

    def test_a_retried_append_names_messages_that_were_deleted_since(self) -> None:
        log = log_of()
        append = c.AppendMessages([user("one", "a"), user("two", "b")])
        first = log.ok(append, request_id="r")
        deleted(log, c.DeleteMessages(("a",)))
        assert log.ok(append, request_id="r") == first
        assert left(log) == ["b"]
