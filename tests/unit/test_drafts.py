"""The pieces of open drafts are kept within bounds, joined, and end with their message."""

import tracemalloc
from typing import Any

import pytest

from sessiond.v1.event_service_pb2 import Delta, DeltaData
from sessiond_server.domain.rows import Key
from sessiond_server.events.drafts import DRAFT_OVERHEAD, OVERHEAD, PIECE_BYTES, SUPERSEDED, DraftLimits, Drafts

KEY: Key = ("t", "s")


def piece(message_id: str = "m", **fields: Any) -> bytes:
    return Delta(message_id=message_id, **fields).SerializeToString()


def kept(drafts: Drafts, key: Key = KEY, time: float = 0.0) -> list[Delta]:
    return [Delta.FromString(data) for data in drafts.pieces(key, drafts.of(key, time), time)]


def texts(drafts: Drafts, key: Key = KEY, time: float = 0.0) -> dict[str, str]:
    found: dict[str, str] = {}
    for delta in kept(drafts, key, time):
        found[delta.message_id] = found.get(delta.message_id, "") + delta.text
    return found


def test_pieces_are_joined_by_part_and_kind() -> None:
    drafts = Drafts()
    said = [
        piece(typing=True),
        piece(thinking="hm", name="agent", run_id="r"),
        piece(part_index=1, text="Né", name="agent"),
        piece(part_index=1, offset=3, text="e"),
        piece(part_index=2, arguments="{}"),
        b"\xff\xff not a delta",
    ]
    drafts.add(KEY, said, 0.0)
    first, second, third = kept(drafts)
    assert (first.thinking, first.name, first.run_id) == ("hm", "agent", "r")
    assert (second.text, second.part_index, second.offset) == ("Née", 1, 0)
    assert third.arguments == "{}"


def test_sign_of_typing_is_no_draft() -> None:
    drafts = Drafts()
    drafts.add(KEY, [piece(typing=True), piece("n", interrupted=True), Delta(message_id="o").SerializeToString()], 0.0)
    assert (drafts.of(KEY, 0.0), drafts.size) == ([], 0)


def test_long_draft_comes_in_pieces_that_end_between_characters() -> None:
    drafts = Drafts()
    text = "x" + "é" * PIECE_BYTES
    drafts.add(KEY, [piece(text=text[: PIECE_BYTES // 2])], 0.0)
    drafts.add(KEY, [piece(text=text[PIECE_BYTES // 2 :], offset=len(text[: PIECE_BYTES // 2].encode()))], 0.0)
    pieces = kept(drafts)
    assert "".join(each.text for each in pieces) == text
    assert [each.offset for each in pieces] == [0, PIECE_BYTES - 1, 2 * PIECE_BYTES - 1]


def test_gap_and_repetition_are_not_kept() -> None:
    drafts = Drafts()
    drafts.add(KEY, [piece(text="ab", part_index=1), piece(text="b", part_index=1, offset=1)], 0.0)
    drafts.add(KEY, [piece(text="d", part_index=1, offset=3), piece(text="c", part_index=1, offset=2)], 0.0)
    assert texts(drafts) == {"m": "abc"}


def test_draft_that_is_written_anew_replaces_the_old_one() -> None:
    drafts = Drafts()
    drafts.add(KEY, [piece(text="first"), piece(part_index=1, text=" try"), piece(text="again")], 0.0)
    assert texts(drafts) == {"m": "again"}
    assert drafts.size == DRAFT_OVERHEAD + OVERHEAD + len("again")


def test_newest_data_of_a_part_is_kept() -> None:
    drafts = Drafts()
    for number, shown in enumerate(["1", "2"]):
        drafts.add(KEY, [piece(data=DeltaData(json=shown), part_index=7)], float(number))
    drafts.add(KEY, [piece(data=DeltaData(blob=b"\0", media_type="a/b"))], 2.0)
    assert [(each.part_index, each.data.json, each.data.blob) for each in kept(drafts)] == [
        (7, "2", b""),
        (0, "", b"\0"),
    ]


def test_message_drops_its_draft_only() -> None:
    drafts = Drafts()
    drafts.add(KEY, [piece("m", text="a"), piece("n", text="b"), piece("o", text="c")], 0.0)
    assert drafts.drop(KEY, ["m", "none"]) == ["m"]
    assert drafts.drop(("t", "other"), ["n"]) == []
    drafts.add(KEY, [SUPERSEDED + b"n"], 0.0)
    assert texts(drafts) == {"o": "c"}
    drafts.drop_session(KEY)
    assert (kept(drafts), drafts.size) == ([], 0)


def test_draft_is_interrupted_after_its_silence_or_by_its_writer() -> None:
    limits = DraftLimits(silence=15.0)
    drafts = Drafts(limits)
    drafts.add(KEY, [piece("m", text="a"), piece("n", text="b")], 0.0)
    drafts.add(KEY, [piece("n", interrupted=True)], 1.0)
    assert [each.interrupted for each in kept(drafts, time=14.9)] == [False, False, True]
    assert drafts.fell_silent(14.9) == []
    ((key, said),) = drafts.fell_silent(15.0)
    assert (key, Delta.FromString(said).message_id, Delta.FromString(said).interrupted) == (KEY, "m", True)
    assert drafts.fell_silent(16.0) == []
    assert texts(drafts, time=16.0) == {"m": "a", "n": "b"}
    drafts.add(KEY, [piece("m", typing=True), piece("n", text="!", offset=1)], 17.0)
    assert [each.interrupted for each in kept(drafts, time=18.0)] == [False, False]


def test_draft_ends_at_its_lifetime() -> None:
    drafts = Drafts(DraftLimits(lifetime=600.0))
    drafts.add(KEY, [piece("m", text="a")], 0.0)
    drafts.add(KEY, [piece("n", text="b")], 1.0)
    assert drafts.of(KEY, 599.9) == ["m", "n"]
    assert drafts.of(KEY, 600.0) == ["n"]
    drafts.fell_silent(601.0)
    assert (drafts.of(KEY, 601.0), drafts.size) == ([], 0)


def test_draft_keeps_its_beginning_up_to_the_bound() -> None:
    drafts = Drafts(DraftLimits(draft_bytes=DRAFT_OVERHEAD + OVERHEAD + 4))
    drafts.add(KEY, [piece(text="ab"), piece(text="cd", offset=2)], 0.0)
    assert texts(drafts) == {"m": "abcd"}
    drafts.add(KEY, [piece(text="e", offset=4), piece(text="f", offset=5)], 0.0)
    assert texts(drafts) == {"m": "abcd"}
    drafts.add(KEY, [piece("n", data=DeltaData(blob=b"x" * 600))], 0.0)
    assert [each.message_id for each in kept(drafts)] == ["m"]


def test_draft_with_full_data_shows_no_old_data() -> None:
    drafts = Drafts(DraftLimits(draft_bytes=DRAFT_OVERHEAD + OVERHEAD + 100))
    drafts.add(KEY, [piece(data=DeltaData(json="1"))], 0.0)
    drafts.add(KEY, [piece(data=DeltaData(json="2" * 200))], 0.0)
    assert (kept(drafts), drafts.size) == ([], DRAFT_OVERHEAD)


@pytest.mark.parametrize(
    "limits", [DraftLimits(session_drafts=2), DraftLimits(session_bytes=2 * (DRAFT_OVERHEAD + OVERHEAD + 1))]
)
def test_session_keeps_its_newest_drafts(limits: DraftLimits) -> None:
    drafts = Drafts(limits)
    for number, message_id in enumerate(["a", "b"]):
        drafts.add(KEY, [piece(message_id, text="x")], float(number))
    assert drafts.of(KEY, 2.0) == ["a", "b"]
    drafts.add(KEY, [piece("a", typing=True), piece("c", text="x")], 3.0)
    assert drafts.of(KEY, 3.0) == ["a", "c"]


def test_flood_of_drafts_costs_its_sender_only() -> None:
    one = DRAFT_OVERHEAD + OVERHEAD + 1
    drafts = Drafts(DraftLimits(tenant_bytes=10 * one, total_bytes=12 * one))
    drafts.add(("good", "s"), [piece(text="x")], 0.0)
    for number in range(100):
        drafts.add(("bad", str(number)), [piece(text="x")], 1.0 + number)
        assert drafts.size <= 11 * one
    assert texts(drafts, ("good", "s"), 101.0) == {"m": "x"}
    assert [number for number in range(100) if drafts.of(("bad", str(number)), 101.0)] == list(range(90, 100))
    for number in range(5):
        drafts.add(("third", str(number)), [piece(text="x")], 200.0)
    assert drafts.size <= 12 * one
    assert texts(drafts, ("good", "s"), 201.0) == {"m": "x"}
    assert all(drafts.of(("third", str(number)), 201.0) for number in range(5))


@pytest.mark.parametrize("length", [8, 255])
def test_small_drafts_take_no_more_memory_than_they_count(length: int) -> None:
    """Else the bounds would be bounds of something else than memory."""
    drafts = Drafts()
    tracemalloc.start()
    try:
        for number in range(2_000):
            name = f"{number:0{length}}"
            drafts.add(("t", name), [piece(name, name=name[:128], run_id=name, text="x")], 0.0)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(drafts.of(("t", f"{0:0{length}}"), 0.0)) == 1
    assert taken <= drafts.size


def test_sizes_are_those_of_what_is_kept() -> None:
    drafts = Drafts(DraftLimits(draft_bytes=5_000, session_drafts=3, tenant_bytes=20_000, total_bytes=30_000))
    kinds: list[dict[str, Any]] = [
        {"text": "abc"},
        {"thinking": "d" * 900},
        {"arguments": "{"},
        {"data": DeltaData(json="[1]")},
    ]
    for number in range(2_000):
        key = (f"t{number % 3}", f"s{number % 7}")
        fields: dict[str, Any] = {**kinds[number % 4], "part_index": number % 5}
        drafts.add(key, [piece(f"m{number % 11}", **fields)], float(number))
        if number % 13 == 0:
            drafts.drop(key, [f"m{number % 11}"])
        assert drafts.size <= 30_000
    assert drafts.size == sum(drafts._sizes.values())
    for tenant in ("t0", "t1", "t2"):
        for session in range(7):
            drafts.drop_session((tenant, f"s{session}"))
    assert (drafts.size, drafts._sizes, drafts._tenants, dict(drafts._speaking)) == (0, {}, {}, {})
