"""What a filter of messages selects, and the marks that find messages: each field, alone and together."""

from itertools import pairwise

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from sessiond.v1.message_pb2 import Message, Role
from sessiond.v1.message_service_pb2 import MessageFilter
from sessiond_server.domain import commands as c
from sessiond_server.domain.messages import marks
from sessiond_server.domain.messages.selection import Selection
from sessiond_server.store.session_reads import selected
from tests.support.session_log import KEY, Log, user

USER, TOOL = Role.ROLE_USER, Role.ROLE_TOOL


def message(**fields: object) -> Message:
    return Message(role=USER, **fields)  # type: ignore[arg-type]


def at(seconds: int, nanos: int = 0) -> Timestamp:
    return Timestamp(seconds=seconds, nanos=nanos)


@pytest.mark.parametrize(("where", "given_message", "selects"), [
    (MessageFilter(labels={"a": "1"}), message(labels={"a": "1", "b": "2"}), True),
    (MessageFilter(labels={"a": "1"}), message(labels={"a": "2"}), False),
    (MessageFilter(labels={"a": ""}), message(), False),
    (MessageFilter(labels={"a": ""}), message(labels={"a": ""}), True),
    (MessageFilter(labels={"a": "1", "b": "2"}), message(labels={"a": "1"}), False),
    (MessageFilter(roles=[TOOL]), message(), False),
    (MessageFilter(roles=[TOOL, USER]), message(), True),
    (MessageFilter(name="ada"), message(name="ada"), True),
    (MessageFilter(name="ada"), message(name="Ada"), False),
    (MessageFilter(run_id="r"), message(run_id="r"), True),
    (MessageFilter(run_id="r"), message(), False),
    (MessageFilter(client_time_from=at(5)), message(client_time=at(5)), True),
    (MessageFilter(client_time_from=at(5, 1)), message(client_time=at(5)), False),
    (MessageFilter(client_time_until=at(5)), message(client_time=at(5)), False),
    (MessageFilter(client_time_until=at(5, 1)), message(client_time=at(5)), True),
    (MessageFilter(client_time_until=at(5)), message(), False),
    (MessageFilter(client_time_from=at(0)), message(client_time=at(-5)), False),
    (MessageFilter(roles=[USER], name="ada", labels={"a": "1"}), message(name="ada", labels={"a": "1"}), True),
    (MessageFilter(roles=[USER], name="ada", labels={"a": "1"}), message(labels={"a": "1"}), False),
])  # fmt: skip
def test_a_message_is_selected_if_it_fulfils_every_field(
    where: MessageFilter, given_message: Message, selects: bool
) -> None:
    assert Selection(where).selects(given_message) is selects


@given(st.lists(st.tuples(st.integers(-62_135_596_800, 253_402_300_799), st.integers(0, 999_999_999)), max_size=20))
def test_marks_of_times_sort_as_the_times(times: list[tuple[int, int]]) -> None:
    found = [marks.of_time(at(*time)) for time in sorted(times)]
    assert all(one <= other for one, other in pairwise(found))
    assert len(set(found)) == len(set(times))
    assert all(marks.EARLIEST < mark < marks.LATEST for mark in found)


def test_which_selections_need_no_comparison() -> None:
    one = Selection(MessageFilter(labels={"a": "1"}))
    assert (one.is_one_label, one.label_marks) == (True, ["la=1"])
    times = Selection(MessageFilter(client_time_from=at(1)))
    assert (times.is_times, times.until_mark) == (True, marks.LATEST)
    for more in (MessageFilter(roles=[USER]), MessageFilter(name="n"), MessageFilter(run_id="r")):
        more.labels["a"] = "1"
        assert not Selection(more).is_one_label
        more.client_time_from.seconds = 1
        assert not Selection(more).is_times
    assert not Selection(MessageFilter(labels={"a": "1", "b": "2"})).is_one_label


def test_marks_are_written_and_removed_with_their_message() -> None:
    log = Log()
    log.create(name="n")
    log.append(user("plain"))
    assert (log.written.marks, log.written.unmarks) == ([], [])
    log.append(message(message_id="m", labels={"a": "1", "b": "2"}, client_time=at(0)))
    assert sorted(log.written.marks) == [(KEY, "la=1", 3), (KEY, "lb=2", 3), (KEY, "t062135596800000000000", 3)]
    log.ok(c.RedactMessage("m", ""))
    assert sorted(log.written.unmarks) == [(KEY, "la=1", 3), (KEY, "lb=2", 3)]
    assert not log.messages()[1].labels
    assert log.messages()[1].HasField("client_time")
    log.ok(c.DeleteMessages(("m",)))
    assert log.written.unmarks == [(KEY, "t062135596800000000000", 3)]


def test_message_that_is_deleted_in_its_batch_leaves_no_marks() -> None:
    log = Log()
    log.create(name="n")
    log.apply(
        log.command(c.AppendMessages([message(labels={"a": "1"}), message(labels={"a": "2"})])),
        log.command(c.DeleteMessages(last_n=1)),
    )
    assert (log.written.marks, log.written.unmarks) == ([(KEY, "la=1", 2)], [])


def test_page_says_how_far_it_was_read() -> None:
    looked_at = [(seq, message(name="x" if seq % 2 else "y").SerializeToString()) for seq in range(1, 8)]
    odd, none = Selection(MessageFilter(name="x")), Selection(MessageFilter(name="z"))
    full = selected(9, looked_at, odd, 2, more=False)
    assert (len(full.messages), full.first_seq, full.last_seq, full.more) == (2, 1, 3, True)
    last = selected(9, looked_at, odd, 4, more=False)
    assert (len(last.messages), last.last_seq, last.more) == (4, 7, False)
    short = selected(9, looked_at, none, 2, more=True)
    assert (len(short.messages), short.first_seq, short.last_seq, short.more) == (0, 1, 7, True)
    empty = selected(9, [], none, 2, more=False)
    assert (empty.first_seq, empty.more) == (0, False)
