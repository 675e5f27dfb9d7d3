"""Deltas arrive in order, are bounded, and end with their stored message."""

from sessiond.v1.event_pb2 import Event
from sessiond.v1.event_service_pb2 import Delta
from sessiond.v1.message_pb2 import Message
from sessiond_server.domain.log import LogEntry
from sessiond_server.events.deltas import MESSAGES_REMEMBERED, DeltaLane
from sessiond_server.events.limits import HubLimits


def piece(message_id: str, text: str = "x") -> bytes:
    return Delta(message_id=message_id, text=text).SerializeToString()


def message(message_id: str) -> LogEntry:
    return LogEntry(1, "e", "", 20, Event(message=Message(message_id=message_id)).SerializeToString())


def shown(lane: DeltaLane, number: int = 0) -> list[str]:
    passed = lane.after(number)
    return [] if passed is None else [Delta.FromString(data).text for data in passed.data]


def test_deltas_are_delivered_in_order_and_once() -> None:
    lane = DeltaLane(HubLimits())
    assert lane.add([piece("m", "a"), piece("m", "b")])
    taken = lane.count
    assert lane.add([piece("n", "c")])
    assert shown(lane) == ["a", "b", "c"]
    assert shown(lane, taken) == ["c"]
    assert shown(lane, lane.count) == []


def test_watchers_at_the_same_place_share_one_batch() -> None:
    lane = DeltaLane(HubLimits())
    lane.add([piece("m")])
    assert lane.after(0) is lane.after(0)


def test_stored_message_ends_its_deltas_in_either_order_of_arrival() -> None:
    lane = DeltaLane(HubLimits())
    lane.add([piece("m", "a"), piece("n", "b")])
    lane.supersede(message("m"))
    assert shown(lane) == ["b"]
    assert not lane.add([piece("m", "late")])
    assert shown(lane) == ["b"]


def test_slow_watcher_loses_the_oldest_deltas() -> None:
    lane = DeltaLane(HubLimits(delta_pieces=3))
    lane.add([piece("m", str(number)) for number in range(5)])
    assert shown(lane) == ["2", "3", "4"]
    small = DeltaLane(HubLimits(delta_bytes=3 * len(piece("m", "0"))))
    small.add([piece("m", str(number)) for number in range(5)])
    assert shown(small) == ["2", "3", "4"]


def test_number_of_remembered_messages_is_bounded() -> None:
    lane = DeltaLane(HubLimits())
    for number in range(MESSAGES_REMEMBERED + 1):
        lane.supersede(message(f"m{number}"))
    assert not lane.add([piece("m1")])
    assert lane.add([piece("m0")])


def test_undecodable_delta_is_skipped() -> None:
    lane = DeltaLane(HubLimits())
    assert lane.add([b"\xff", piece("m", "a")])
    assert shown(lane) == ["a"]
