"""Checks of EventService's requests: both sides of every bound."""

from collections.abc import Callable
from math import inf
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from sessiond.v1.event_pb2 import EventType
from sessiond.v1.event_service_pb2 import (
    Delta,
    DeltaData,
    FeedFilter,
    FeedStart,
    ListEventsRequest,
    PublishDeltaRequest,
    SessionEventFilter,
    WatchEventsRequest,
    WatchSessionRequest,
)
from sessiond.v1.session_pb2 import SessionView
from sessiond_server.errors import InvalidFields
from sessiond_server.rpc.events import checks as event_requests
from sessiond_server.rpc.events.filters import FeedSelection

APPENDED = EventType.EVENT_TYPE_MESSAGE_APPENDED
UNKNOWN: Any = 9999


def violations(check: Callable[..., object], *arguments: object) -> dict[str, str]:
    try:
        check(*arguments)
    except InvalidFields as error:
        return {violation.field: violation.description for violation in error.violations}
    return {}


def watch(**fields: Any) -> dict[str, str]:
    return violations(event_requests.watch_session, WatchSessionRequest(**{"session_id": "s", **fields}))


def feed(start: Any = 0, position: str = "", **fields: Any) -> dict[str, str]:
    request = WatchEventsRequest(start=start, position=position, filter=FeedFilter(**fields))
    return violations(event_requests.watch_events, request, "")


def page(**fields: Any) -> dict[str, str]:
    return violations(event_requests.list_events, ListEventsRequest(**{"session_id": "s", **fields}))


def publish(*deltas: Delta, session_id: str = "s") -> dict[str, str]:
    return violations(event_requests.publish_delta, PublishDeltaRequest(session_id=session_id, deltas=deltas))


def types(count: int) -> Any:
    return SessionEventFilter(types=[APPENDED] * count)


@pytest.mark.parametrize("check", [watch, page])
def test_a_session_and_its_filter(check: Callable[..., dict[str, str]]) -> None:
    assert check() == {}
    assert check(session_id="").keys() == {"session_id"}
    assert check(session_id="a/b\n").keys() == {"session_id"}
    assert check(filter=types(64)) == {}
    assert check(filter=types(65)).keys() == {"filter.types"}
    assert check(filter=SessionEventFilter(types=[APPENDED, UNKNOWN])).keys() == {"filter.types[1]"}


def test_a_watch() -> None:
    assert watch(view=UNKNOWN).keys() == {"view"}
    assert watch(from_beginning=True) == {}
    assert watch(from_beginning=True, position="p").keys() == {"from_beginning"}


@pytest.mark.parametrize("seconds", [1, 1.5, 10, 3600, 1e6])
def test_requested_bookmark_interval_is_used(seconds: float) -> None:
    silence = Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))
    watching = WatchSessionRequest(session_id="s", bookmark_interval=silence)
    assert event_requests.watch_session(watching).silence == seconds
    assert event_requests.watch_events(WatchEventsRequest(bookmark_interval=silence), "").silence == seconds


def test_bookmark_interval_defaults_to_the_servers() -> None:
    assert event_requests.watch_session(WatchSessionRequest(session_id="s")).silence == inf
    assert event_requests.watch_events(WatchEventsRequest(), "").silence == inf


@pytest.mark.parametrize("silence", [Duration(), Duration(nanos=999_999_999), Duration(seconds=-5)])
def test_bookmark_interval_below_the_minimum_is_refused(silence: Duration) -> None:
    assert watch(bookmark_interval=silence).keys() == {"bookmark_interval"}
    request = WatchEventsRequest(bookmark_interval=silence)
    assert violations(event_requests.watch_events, request, "").keys() == {"bookmark_interval"}


@pytest.mark.parametrize(
    ("view", "full"),
    [(0, True), (SessionView.SESSION_VIEW_FULL, True), (SessionView.SESSION_VIEW_BASIC, False)],
)
def test_the_snapshot_is_full_by_default(view: Any, full: bool) -> None:
    assert event_requests.watch_session(WatchSessionRequest(session_id="s", view=view)).full is full


def test_an_unspecified_type_is_any() -> None:
    given = [APPENDED, EventType.EVENT_TYPE_UNSPECIFIED]
    request = WatchSessionRequest(session_id="s", filter=SessionEventFilter(types=given))
    assert event_requests.watch_session(request).selection.types == frozenset()


@pytest.mark.parametrize(("asked", "limit"), [(0, 50), (1, 1), (1000, 1000), (1001, 1000)])
def test_page_size_has_a_default_and_a_maximum(asked: int, limit: int) -> None:
    assert event_requests.list_events(ListEventsRequest(session_id="s", page_size=asked)).limit == limit


def test_negative_page_size_is_refused() -> None:
    assert page(page_size=-1).keys() == {"page_size"}


def test_a_feed() -> None:
    assert feed() == {}
    assert feed(session_ids=["s"] * 256, types=[APPENDED] * 64, agent_id="a" * 255, user_id="é" * 255) == {}
    assert feed(session_ids=["s"] * 257).keys() == {"filter.session_ids"}
    assert feed(session_ids=["s", "a "]).keys() == {"filter.session_ids[1]"}
    assert feed(types=[APPENDED] * 65).keys() == {"filter.types"}
    assert feed(types=[UNKNOWN]).keys() == {"filter.types[0]"}
    assert feed(agent_id="a" * 256).keys() == {"filter.agent_id"}
    assert feed(user_id="a\n").keys() == {"filter.user_id"}
    assert feed(labels={f"l{number}": "" for number in range(16)}) == {}
    assert feed(labels={f"l{number}": "" for number in range(17)}).keys() == {"filter.labels"}
    assert feed(labels={"": "x"}).keys() == {'filter.labels[""]'}
    assert feed(start=UNKNOWN).keys() == {"start"}


@pytest.mark.parametrize(
    ("start", "from_beginning"),
    [(0, False), (FeedStart.FEED_START_NOW, False), (FeedStart.FEED_START_BEGINNING, True)],
)
def test_a_feed_starts_now_by_default(start: Any, from_beginning: bool) -> None:
    assert event_requests.watch_events(WatchEventsRequest(start=start), "").from_beginning is from_beginning


def test_feed_of_a_bound_key_selects_its_owner() -> None:
    where = FeedFilter(session_ids=["s"], agent_id="a", user_id="u", labels={"x": "1"}, types=[APPENDED])
    made = event_requests.watch_events(WatchEventsRequest(filter=where), "alice").selection
    assert made == FeedSelection("alice", frozenset("s"), "a", "u", (("x", "1"),), frozenset([APPENDED]))


def delta(**fields: Any) -> Delta:
    return Delta(**{"message_id": "m", "text": "x", **fields})


def test_deltas() -> None:
    assert publish(delta()) == {}
    assert publish(delta(), session_id="").keys() == {"session_id"}
    assert publish().keys() == {"deltas"}
    assert publish(*[delta()] * 64) == {}
    assert publish(*[delta()] * 65).keys() == {"deltas"}


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"message_id": ""}, "message_id"),
        ({"message_id": "a "}, "message_id"),
        ({"part_index": 255}, None),
        ({"part_index": 256}, "part_index"),
        ({"part_index": -1}, "part_index"),
        ({"offset": 2**53 - 2}, None),
        ({"offset": 2**53 - 1}, "offset"),
        ({"offset": 2**53 - 1 - 65_536, "text": "é" * 32_768}, None),
        ({"offset": 2**53 - 65_536, "thinking": "é" * 32_768}, "offset"),
        ({"offset": 2**53 - 1, "typing": True}, None),
        ({"offset": 2**53, "typing": True}, "offset"),
        ({"offset": -1}, "offset"),
        ({"text": "é" * 32_768}, None),
        ({"text": "é" * 32_768 + "x"}, "text"),
        ({"thinking": "x" * 65_536}, None),
        ({"thinking": "x" * 65_537}, "thinking"),
        ({"arguments": "x" * 65_537}, "arguments"),
        ({"typing": True}, None),
        ({"typing": False}, None),
        ({"name": "n" * 128}, None),
        ({"name": "n" * 129}, "name"),
        ({"name": "n\n"}, "name"),
        ({"run_id": "r" * 255}, None),
        ({"run_id": "r" * 256}, "run_id"),
    ],
    ids=str,
)
def test_a_delta(fields: dict[str, Any], at_fault: str | None) -> None:
    assert publish(delta(), delta(**fields)).keys() == ({f"deltas[1].{at_fault}"} if at_fault else set())


@pytest.mark.parametrize(
    ("data", "at_fault"),
    [
        (DeltaData(json="[1]"), None),
        (DeltaData(blob=b"\0"), None),
        (DeltaData(json="é" * 32_768), None),
        (DeltaData(json="é" * 32_768 + "x"), "json"),
        (DeltaData(blob=bytes(65_536)), None),
        (DeltaData(blob=bytes(65_537)), "blob"),
        (DeltaData(json="\0"), "json"),
        (DeltaData(), "content"),
        (DeltaData(json="1", media_type="x" * 128), None),
        (DeltaData(json="1", media_type="x" * 129), "media_type"),
        (DeltaData(json="1", media_type="a\nb"), "media_type"),
    ],
)
def test_data_of_a_delta(data: DeltaData, at_fault: str | None) -> None:
    at = {f"deltas[0].data.{at_fault}"} if at_fault else set()
    assert publish(Delta(message_id="m", data=data)).keys() == at


def test_delta_without_a_piece_is_refused() -> None:
    assert publish(Delta(message_id="m")).keys() == {"deltas[0].piece"}


def test_deltas_are_bounded_together() -> None:
    overhead = len(delta(text="x" * 60_000).SerializeToString()) - 60_000
    rest = 256 * 1024 - 4 * (60_000 + overhead) - overhead
    four = [delta(text="x" * 60_000)] * 4
    largest = delta(text="x" * rest)
    assert sum(len(one.SerializeToString()) for one in (*four, largest)) == 256 * 1024
    assert publish(*four, largest) == {}
    assert publish(*four, delta(text="x" * (rest + 1))).keys() == {"deltas"}


def test_published_deltas_are_those_of_the_request() -> None:
    deltas = [delta(text="a"), Delta(message_id="m", typing=True)]
    data = event_requests.publish_delta(PublishDeltaRequest(session_id="s", deltas=deltas))
    assert [Delta.FromString(one) for one in data] == deltas
