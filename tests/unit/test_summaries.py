"""Summaries: what a valid one is, what its event does to the session, and what it leaves alone."""

from typing import Any

import pytest

from sessiond.v1.context_service_pb2 import CreateSummaryRequest, ListSummariesRequest
from sessiond.v1.session_pb2 import TokenUsage
from sessiond.v1.summary_pb2 import Summary
from sessiond_server.domain import commands as c
from sessiond_server.errors import InvalidFields, RunFenced, SessionEnded
from sessiond_server.rpc.context import checks
from tests.support.run_actions import begun, kinds
from tests.support.session_log import CLIENT, START, Log, new_session, user


def summary(through_seq: int, text: str = "so far", **fields: Any) -> c.CreateSummary:
    return c.CreateSummary(Summary(through_seq=through_seq, text=text, **fields))


@pytest.fixture
def log() -> Log:
    log = Log()
    log.create(summary="a field of its own")
    log.append(user("one"), user("two"))
    return log


def test_summary_is_an_event_with_what_was_given_and_who_made_it(log: Log) -> None:
    fence = begun(log, "r1")
    before = log.session()
    given = summary(3, model="m", author="Ada", usage=TokenUsage(input_tokens=7, output_tokens=2), token_count=4)
    given.summary.actor = given.summary.summary_id = given.summary.run_id = "forged"
    outcome = log.ok(given, fence=fence, request_id="r")
    assert isinstance(outcome, c.SummaryCreated)
    (event,) = log.log()[-1:]
    made = Summary.FromString(outcome.summary)
    assert (kinds([event]), event.summary, event.seq) == (["SUMMARY_CREATED"], made, outcome.version)
    assert (made.seq, made.through_seq, made.text, made.model, made.author) == (5, 3, "so far", "m", "Ada")
    assert (made.actor, made.session_id, made.run_id, made.token_count) == ("test", "s1", "r1", 4)
    assert made.summary_id not in ("", "forged")
    assert (made.usage.total_tokens, made.create_time.seconds) == (9, START // 1_000_000)
    after = log.session()
    assert log.folded() == after
    assert (after.summary_seq, after.usage.total_tokens) == (5, before.usage.total_tokens + 9)
    assert (after.message_count, after.summary) == (before.message_count, "a field of its own")
    assert after.last_activity_time == before.last_activity_time
    assert log.ok(given, fence=fence, request_id="r") == outcome, "a retry gets the first outcome"


def test_newest_summary_is_the_one_written_last_whatever_it_covers(log: Log) -> None:
    log.ok(summary(3))
    log.ok(summary(2))
    log.ok(c.SuspendSession())
    assert log.session().summary_seq == 5
    assert [event.summary.through_seq for event in log.log() if event.HasField("summary")] == [3, 2]


@pytest.mark.parametrize(("through", "valid"), [(1, True), (3, True), (4, False)])
def test_summary_covers_what_is_there(log: Log, through: int, valid: bool) -> None:
    result = log.do(summary(through))
    assert isinstance(result, c.SummaryCreated if valid else InvalidFields)
    if isinstance(result, InvalidFields):
        assert result.violations[0].field == "summary.through_seq"
        assert log.session().version == 3


def test_summary_of_a_former_session_with_the_id_is_refused(log: Log) -> None:
    state = log.heads[("tenant", "s1")]
    log.ok(c.DeleteSession())
    log.ok(c.CreateSession(new_session(), reuse_deleted=True))
    base = log.session().base_version
    assert base == state.version + 1
    assert isinstance(log.do(summary(base)), InvalidFields)
    assert log.session().summary_seq == 0
    log.ok(summary(base + 1))


def test_ended_session_and_stale_run_write_no_summary(log: Log) -> None:
    assert isinstance(log.do(summary(1), fence=c.Fence("r0", 1)), RunFenced)
    log.ok(c.EndSession(CLIENT))
    assert isinstance(log.do(summary(1)), SessionEnded)


def faults(**fields: Any) -> list[str]:
    given: dict[str, Any] = {"through_seq": 1, "text": "x"} | fields
    request = CreateSummaryRequest(session_id="s", summary=Summary(**given))
    try:
        checks.create_summary(request)
    except InvalidFields as error:
        return [violation.field for violation in error.violations]
    return []


@pytest.mark.parametrize(
    ("path", "good", "bad"),
    [
        ("summary.through_seq", {"through_seq": 1}, {"through_seq": 0}),
        ("summary.text", {"text": "x" * 65_536}, {"text": "x" * 65_537}),
        ("summary.text", {"text": "\n"}, {"text": ""}),
        ("summary.text", {"text": "\t"}, {"text": "\0"}),
        ("summary.model", {"model": "m" * 255}, {"model": "m" * 256}),
        ("summary.author", {"author": "a" * 255}, {"author": "a\n"}),
        ("summary.token_count", {"token_count": 2**53 - 1}, {"token_count": 2**53}),
        ("summary.token_count", {"token_count": 0}, {"token_count": -1}),
        ("summary.usage.input_tokens", {"usage": TokenUsage()}, {"usage": TokenUsage(input_tokens=-1)}),
    ],
)
def test_bounds_of_a_summary(path: str, good: dict[str, Any], bad: dict[str, Any]) -> None:
    assert faults(**good) == []
    assert faults(**bad) == [path]


def test_summary_is_required() -> None:
    with pytest.raises(InvalidFields, match="summary"):
        checks.create_summary(CreateSummaryRequest(session_id="s"))


@pytest.mark.parametrize(("asked", "limit"), [(0, 20), (1, 1), (100, 100), (101, 100)])
def test_page_size_of_summaries(asked: int, limit: int) -> None:
    assert checks.list_summaries(ListSummariesRequest(session_id="s", page_size=asked)) == limit
