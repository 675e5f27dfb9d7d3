"""Exports and imports over every store: what comes out goes in, equal, once, or not at all."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
from google.protobuf.json_format import MessageToJson, Parse

from sessiond.v1.attachment_pb2 import Attachment
from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.export_service_pb2 import ExportRecord
from sessiond.v1.run_pb2 import Run
from sessiond.v1.session_pb2 import Session, TemplateOrigin
from sessiond.v1.tool_call_pb2 import ToolCall, ToolCallStatus
from sessiond_server.domain import commands as c
from sessiond_server.domain.forks import rules as fork_rules
from sessiond_server.domain.imports.rows import ImportStart, StagedRows
from sessiond_server.domain.rows import Policy
from sessiond_server.domain.runs.counters import RunCounters
from sessiond_server.errors import (
    AttachmentSpaceExhausted,
    ExportOutdated,
    ImportIncomplete,
    ImportRefused,
    MessageAlreadyExists,
    MessageShared,
    SessionAlreadyExists,
    SessionNotFound,
    SessionQuotaReached,
)
from sessiond_server.exports import files, receiving
from sessiond_server.memory.blobs import MemoryBlobs
from tests.support import rich_session
from tests.support import run_actions as act
from tests.support.caller import Caller, accepted, message, refused, whole_log
from tests.support.exported import Moves, signed, whole
from tests.support.rows import table
from tests.support.store_backend import Backend, Open
from tests.support.stored_uploads import new_piece, reaped

RUN_STARTED = EventType.EVENT_TYPE_RUN_STARTED
FORKED = EventType.EVENT_TYPE_SESSION_FORKED
UPLOADED = EventType.EVENT_TYPE_ATTACHMENT_UPLOADED


@pytest.fixture
def blobs() -> MemoryBlobs:
    return MemoryBlobs()


@pytest.fixture
def moves(backend: Backend, blobs: MemoryBlobs) -> Moves:
    return Moves(backend, backend, blobs)


def through_json(records: list[ExportRecord]) -> list[ExportRecord]:
    """As a file has them."""
    return [Parse(MessageToJson(record, indent=None), ExportRecord()) for record in records]


async def test_an_imported_session_equals_the_exported_one(
    backend: Backend, caller: Caller, moves: Moves, blobs: MemoryBlobs
) -> None:
    await rich_session.made(backend, caller, blobs)
    records = through_json(await moves.records(caller.scope, "s"))
    done, line = await moves.receive(caller.scope, records, "new")
    assert (done.already_there, line) == (False, 1)
    assert await whole(backend, caller.scope, "new") == await whole(backend, caller.scope, "s")
    again = await moves.records(caller.scope, "new")
    assert len(again) == len(records)


async def test_a_cut_import_goes_on_behind_what_is_stored(
    backend: Backend, caller: Caller, blobs: MemoryBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "BATCH_EVENTS", 3)
    monkeypatch.setattr(files, "PIECE_BYTES", 300_000)
    moves = Moves(backend, backend, blobs)
    await rich_session.made(backend, caller, blobs)
    records = await moves.records(caller.scope, "s")
    begun: list[int] = []
    for end in range(2, len(records)):
        with pytest.raises(ImportIncomplete):
            _, line = await moves.receive(caller.scope, records, "new", ends_at=end)
        with pytest.raises(SessionNotFound):
            await backend.store.get_session(caller.scope, "new", content=False)
    taken = await backend.imports.take_up_import(caller.scope, start_of(moves, caller, records, "new"))
    begun.append(taken.arrived.line)
    done, line = await moves.receive(caller.scope, records, "new")
    assert line == begun[0] == len(records) - 1
    assert not done.already_there
    assert await whole(backend, caller.scope, "new") == await whole(backend, caller.scope, "s")
    dropped = set(await backend.attachments.dropped_pieces(1000))
    for attachment_id in ("small", "large", "twin"):
        file = await backend.attachments.get_file(caller.scope, "new", attachment_id)
        assert not dropped & {extent.piece for extent in file.extents}
        parts = [bytes(d) async for d in moves.downloads.read(caller.scope, "new", attachment_id, file, 0, 2**40)]
        assert b"".join(parts) == (b"x" if attachment_id == "small" else rich_session.FILE)


def start_of(moves: Moves, caller: Caller, records: list[ExportRecord], session_id: str) -> ImportStart:
    first = ExportRecord.FromString(records[0].SerializeToString())
    return moves.imports.start(caller.scope, first, session_id)


async def test_an_imported_session_goes_on_like_any_other(
    backend: Backend, caller: Caller, moves: Moves, blobs: MemoryBlobs
) -> None:
    await rich_session.made(backend, caller, blobs)
    await moves.receive(caller.scope, await moves.records(caller.scope, "s"), "new")
    for session_id in ("s", "new"):
        await refused(
            backend.store, caller.command(session_id, c.AppendMessages([message("x", "m1")])), MessageAlreadyExists
        )
        run = Run.FromString((await backend.work.get_run(caller.scope, session_id, "run-2"))[1])
        fence = c.Fence(run.run_id, run.fence)
        await accepted(backend.store, caller.command(session_id, act.finish(1), fence=fence))
        await accepted(backend.store, caller.command(session_id, c.DecideToolCall("asks", True, "", "")))
        await accepted(backend.store, caller.redact(session_id, "m1"), caller.set_keys(session_id, n=7))
        await accepted(backend.store, caller.command(session_id, c.DeleteAttachment("large")))
    one, other = [await whole(backend, caller.scope, session_id) for session_id in ("s", "new")]
    assert [event.type for event in one[1]] == [event.type for event in other[1]]
    for session in (one[0], other[0]):
        for name in ("update_time", "last_activity_time", "expire_time", "last_event_id"):
            session.ClearField(name)
    assert one[0] == other[0]
    metrics = [(await backend.work.get_metrics(caller.scope, session_id))[1] for session_id in ("s", "new")]
    assert [RunCounters.decoded(each).completed for each in metrics] == [5, 5]
    statuses = list(ToolCallStatus.values())
    ids = []
    for session_id in ("s", "new"):
        page = await backend.work.list_tool_calls(
            caller.scope, session_id, statuses=statuses, run_id="", before=None, limit=10
        )
        ids.append([ToolCall.FromString(call).tool_call_id for call in page.tool_calls])
    assert ids[0] == ids[1]
    assert sorted(ids[0]) == ["asks", "call-0", "call-1", "call-2"]
    await accepted(backend.store, caller.delete("new"))


async def test_a_fork_comes_back_equal_and_stands_alone(
    backend: Backend, caller: Caller, moves: Moves, blobs: MemoryBlobs
) -> None:
    store = backend.store
    await rich_session.made(backend, caller, blobs)
    await accepted(store, caller.append("s", "the place"))
    place = Session.FromString((await store.get_session(caller.scope, "s", content=False)).core).version
    await accepted(store, caller.command("s", c.DeleteAttachment("large")), caller.redact("s", "m1"))
    # What was live at the place ends in the fork, and an attachment that was there then is not there any more.
    await accepted(store, caller.fork("s", "f", seq=place), caller.append("f", "its own"), caller.set_keys("f", n=9))
    await accepted(store, caller.fork("f", "g", summary=""), caller.append("g", "of the third generation"))
    await accepted(store, caller.create("bare", summary="to be cleared"), caller.update("bare", summary=""))
    await accepted(store, caller.fork("bare", "h"), caller.append("h"))
    for session_id in ("f", "g", "h"):
        records = through_json(await moves.records(caller.scope, session_id))
        done, _ = await moves.receive(caller.scope, records, f"{session_id}-new")
        assert not done.already_there
        one, other = [await whole(backend, caller.scope, name) for name in (session_id, f"{session_id}-new")]
        assert one == other
        assert other[0].HasField("forked_from")
        assert len(await moves.records(caller.scope, f"{session_id}-new")) == len(records)
        metrics = [
            (await backend.work.get_metrics(caller.scope, name))[1] for name in (session_id, f"{session_id}-new")
        ]
        assert metrics[0] == metrics[1]
    assert [run.session_id for event in await whole_log(store, caller.scope, "g") for run in event.preset_runs] == [
        "g", "g",
    ]  # fmt: skip
    forks = [event for event in await whole_log(store, caller.scope, "g") if event.type == FORKED]
    assert [list(event.deleted_attachment_ids) for event in forks] == [["gone", "large"], []]
    # It has all events for itself: what its parents refuse, since others show the message, it does.
    await refused(store, caller.delete_messages("g", "m3"), MessageShared)
    await accepted(store, caller.delete_messages("g-new", "m3"), caller.fork("g-new", "on", seq=place))
    await accepted(store, caller.delete("g-new"), caller.delete("s"), caller.delete("f"), caller.delete("g"))


async def test_what_is_there_is_not_imported_twice(
    backend: Backend, caller: Caller, moves: Moves, blobs: MemoryBlobs
) -> None:
    await rich_session.made(backend, caller, blobs)
    records = await moves.records(caller.scope, "s")
    assert (await moves.receive(caller.scope, records))[0].already_there
    await moves.receive(caller.scope, records, "new")
    await accepted(backend.store, caller.append("new"))
    done, _ = await moves.receive(caller.scope, records, "new")
    assert done.already_there
    later = await moves.records(caller.scope, "new")
    with pytest.raises(SessionAlreadyExists):
        await moves.receive(caller.scope, later, "s")
    await accepted(backend.store, caller.delete("new"))
    with pytest.raises(SessionAlreadyExists):
        await moves.receive(caller.scope, records, "new")
    one, other = await asyncio.gather(
        moves.receive(caller.scope, records, "both"), moves.receive(caller.scope, later, "both"), return_exceptions=True
    )
    # If the longer one comes first, it has all of the shorter one.
    has_all = isinstance(one, tuple) and one[0].already_there
    assert isinstance(one, SessionAlreadyExists) + isinstance(other, SessionAlreadyExists) + has_all == 1


async def test_of_two_calls_the_newer_one_wins(
    backend: Backend, caller: Caller, moves: Moves, blobs: MemoryBlobs
) -> None:
    await rich_session.made(backend, caller, blobs)
    records = await moves.records(caller.scope, "s")
    old = await backend.imports.take_up_import(caller.scope, start_of(moves, caller, records, "new"))
    done, _ = await moves.receive(caller.scope, records, "new")
    assert not done.already_there
    assert not await backend.imports.stage(old, StagedRows(), old.arrived)
    assert not await backend.imports.begin_piece(old, "large", new_piece(caller), 0)
    assert not await backend.imports.give_up_import(old)


async def test_the_feed_has_each_event_of_an_import_once_behind_all_others(
    backend: Backend, caller: Caller, moves: Moves, blobs: MemoryBlobs
) -> None:
    await rich_session.made(backend, caller, blobs)
    records = await moves.records(caller.scope, "s")
    await accepted(backend.store, caller.create("later"))
    ends = await backend.store.feed_end("tenant")
    await moves.receive(caller.scope, records, "new")
    page = await backend.store.read_feed("tenant", after=ends[-1][0], limit=1000)
    version = records[0].header.session.version
    assert [(entry.place.session_id, entry.entry.seq) for entry in page.entries] == [
        ("new", seq) for seq in range(1, version + 1)
    ]
    assert {entry.user_id for entry in page.entries} == {"u\u00e9"}
    assert moves.announced.heard == [(("tenant", "new"), version)]


Change = Callable[[list[ExportRecord]], object]


def event_at(records: list[ExportRecord], kind: EventType.ValueType) -> Event:
    return next(record.event for record in records if record.event.type == kind)


def twice(records: list[ExportRecord]) -> None:
    message = records[4].event.message
    message.message_id = "m1"
    message.ClearField("delete_time")


def second_creation(records: list[ExportRecord]) -> None:
    records[3].event.type = EventType.EVENT_TYPE_SESSION_CREATED
    records[3].event.session.CopyFrom(records[1].event.session)


LIES: Mapping[str, tuple[Change, str]] = {
    "another name": (lambda r: setattr(r[0].header.session, "name", "x"), "header.session.name"),
    "another state": (lambda r: r[0].header.session.state.update({"n": 8}), "header.session.state"),
    "NUL in the name": (lambda r: setattr(r[0].header.session, "name", "a\0"), "header.session.name"),
    "an unknown form": (lambda r: setattr(r[0].header, "format_version", 2), "format_version"),
    "another user": (lambda r: setattr(r[0].header.session, "user_id", "eve"), "those of the header"),
    "no events": (lambda r: setattr(r[0].header.session, "version", 0), "version"),
    "more messages": (lambda r: setattr(r[0].header.session, "message_count", 9), "message_count"),
    "no live run": (lambda r: setattr(r[0].header.session, "live_run_id", ""), "live_run_id"),
    "a seq left out": (lambda r: r.pop(3), "event.seq"),
    "another chain": (lambda r: setattr(r[3].event, "previous_event_id", "x"), "previous_event_id"),
    "an id that is none": (lambda r: setattr(r[3].event, "event_id", "x"), "event_id"),
    "a time before": (lambda r: r[3].event.create_time.FromSeconds(1), "create_time"),
    "a time to come": (lambda r: r[-30].event.create_time.FromSeconds(2**37), "create_time"),
    "an unknown type": (lambda r: setattr(r[3].event, "type", 99), "event.type"),
    "a deletion": (lambda r: setattr(r[3].event, "type", 9), "event.type"),
    "another payload": (lambda r: setattr(r[3].event, "type", 30), "event.payload"),
    "another session": (lambda r: setattr(r[3].event, "session_id", "t"), "session_id"),
    "another session in a message": (lambda r: setattr(r[3].event.message, "session_id", "t"), "session_id"),
    "hidden places backwards": (lambda r: r[0].header.session.rewound.add(first_seq=5, last_seq=3), "session.rewound"),
    "hidden places beyond": (lambda r: r[0].header.session.rewound.add(first_seq=2, last_seq=2**40), "session.rewound"),
    "places that no rewind hid": (lambda r: r[0].header.session.rewound.add(first_seq=2, last_seq=3), "do not fold"),
    "a message that says it is hidden": (lambda r: setattr(r[3].event.message, "rewound", True), "message.rewound"),
    "a message without id": (lambda r: setattr(r[3].event.message, "message_id", ""), "message_id"),
    "a message elsewhere": (lambda r: setattr(r[3].event.message, "seq", 9), "event.message.seq"),
    "a message twice": (twice, "earlier message"),
    "NUL in a label": (lambda r: r[2].event.message.labels.update({"k": "\0"}), "labels"),
    "a foreign creation": (lambda r: r[1].event.session.create_time.FromSeconds(5), "those of the header"),
    "a template": (lambda r: setattr(r[0].header.session.template, "version", 1), "template.template_id"),
    "another template": (
        lambda r: r[0].header.session.template.MergeFrom(TemplateOrigin(template_id="t", version=1)),
        "those of the header",
    ),
    "two creations": (second_creation, "event"),
    "runs later on": (lambda r: r[3].event.preset_runs.add(run_id="x"), "preset_runs"),
    "a run's place": (lambda r: setattr(event_at(r, RUN_STARTED).run, "seq", 999), "run.seq"),
    "a digest of a file": (lambda r: setattr(event_at(r, UPLOADED).attachment, "sha256", b"x"), "sha256"),
    "an attachment of its own": (lambda r: r.insert(-1, ExportRecord(attachment=Attachment())), "attachment"),
    "an attachment less": (lambda r: r.pop(-4), "record"),
    "bytes less": (lambda r: r.pop(-2), "record"),
    "bytes more": (lambda r: r.insert(-1, ExportRecord(chunk=b"x")), "chunk"),
    "other bytes": (lambda r: setattr(r[-2], "chunk", b"y" * len(r[-2].chunk)), "sha256"),
    "an empty chunk": (lambda r: r.insert(-2, ExportRecord(chunk=b"")), "chunk"),
    "a count": (lambda r: setattr(r[-1].end, "events", 3), "end"),
    "an end too early": (lambda r: r.insert(5, r[-1]), "record"),
    "two ends": (lambda r: r.append(r[-1]), "record"),
    "two headers": (lambda r: r.insert(1, r[0]), "record"),
    "nothing": (lambda r: r.insert(4, ExportRecord()), "record"),
}


async def test_a_file_that_lies_is_refused(backend: Backend, caller: Caller, moves: Moves, blobs: MemoryBlobs) -> None:
    await rich_session.made(backend, caller, blobs)
    records = await moves.records(caller.scope, "s")
    with table() as rows:
        for name, (change, rule) in LIES.items():
            with rows.row(name):
                with pytest.raises(ImportRefused) as caught:
                    await moves.receive(caller.scope, signed(records, change), "new")
                assert rule in caught.value.rule, caught.value.rule
                with pytest.raises(SessionNotFound):
                    await backend.store.get_session(caller.scope, "new", content=False)
    done, line = await moves.receive(caller.scope, records, "new")
    assert (done.already_there, line) == (False, 1)


FORK_LIES: Mapping[str, tuple[Change, str]] = {
    "no origin": (lambda r: r[0].header.session.ClearField("forked_from"), "those of the header"),
    "another place": (lambda r: setattr(r[0].header.session.forked_from, "seq", 1), "event.type"),
    "another event": (lambda r: setattr(r[0].header.session.forked_from, "event_id", "x"), "event.type"),
    "another parent": (lambda r: setattr(r[0].header.session.forked_from, "session_id", "t"), "forked_from"),
    "a place to come": (lambda r: setattr(r[0].header.session.forked_from, "seq", 99), "forked_from"),
    "a parent that no session can be": (
        lambda r: setattr(r[0].header.session.forked_from, "session_id", "\0"), "forked_from.session_id",
    ),
    "no fork": (lambda r: setattr(event_at(r, FORKED), "type", EventType.EVENT_TYPE_SESSION_UPDATED), "event.type"),
    "files forgotten elsewhere": (lambda r: r[2].event.deleted_attachment_ids.append("a"), "deleted_attachment_ids"),
}  # fmt: skip


async def test_a_fork_that_lies_is_refused(backend: Backend, caller: Caller, moves: Moves) -> None:
    await accepted(backend.store, caller.create("s"), caller.append("s", "1", "2"))
    await accepted(backend.store, caller.fork("s", "f", seq=2), caller.append("f", "3"))
    records = await moves.records(caller.scope, "f")
    with table() as rows:
        for name, (change, rule) in FORK_LIES.items():
            with rows.row(name):
                with pytest.raises(ImportRefused) as caught:
                    await moves.receive(caller.scope, signed(records, change), "new")
                assert rule in caught.value.rule, caught.value.rule


async def test_a_fork_whose_event_has_no_room_for_what_it_lost_is_refused(
    backend: Backend, caller: Caller, moves: Moves, blobs: MemoryBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_rules, "NAMES_BYTES", 3)
    await rich_session.made(backend, caller, blobs)
    place = Session.FromString((await backend.store.get_session(caller.scope, "s", content=False)).core).version
    await accepted(backend.store, caller.command("s", c.DeleteAttachment("large")))
    await accepted(backend.store, caller.fork("s", "f", seq=place))
    with pytest.raises(ImportRefused) as caught:
        await moves.receive(caller.scope, await moves.records(caller.scope, "f"), "new")
    assert "counts of attachments" in caught.value.rule


async def test_what_removes_content_meanwhile_ends_an_export(
    backend: Backend, caller: Caller, moves: Moves, blobs: MemoryBlobs
) -> None:
    removals: list[c.Action] = [c.RedactMessage("m1", ""), c.DeleteMessages(("m1",)), c.DeleteAttachment("large")]
    for number, removal in enumerate(removals):
        session_id = f"s{number}"
        await rich_session.made(backend, caller, blobs, session_id)
        reading = moves.exports.records(caller.scope, session_id, None)
        await anext(reading)
        await accepted(backend.store, caller.append(session_id))
        await anext(reading)
        await accepted(backend.store, caller.command(session_id, removal))
        with pytest.raises(ExportOutdated):
            async for _ in reading:
                pass
    reading = moves.exports.records(caller.scope, "s0", None)
    await anext(reading)
    await accepted(backend.store, caller.delete("s0"))
    with pytest.raises(SessionNotFound):
        await anext(reading)


async def test_limits_hold_for_imports(open_backend: Open, blobs: MemoryBlobs) -> None:
    backend = await open_backend(policy=Policy(max_live_sessions=1))
    caller, moves = backend.caller, Moves(backend, backend, blobs)
    await rich_session.made(backend, caller, blobs)
    records = await moves.records(caller.scope, "s")
    with pytest.raises(SessionQuotaReached):
        await moves.receive(caller.scope, records, "new")
    await accepted(backend.store, caller.end("s"))
    await moves.receive(caller.scope, records, "new")
    small = Moves(backend, backend, blobs, Policy(max_session_attachment_bytes=100))
    with pytest.raises(AttachmentSpaceExhausted):
        await small.receive(caller.scope, records, "more")


async def test_what_is_left_of_imports_is_removed(
    backend: Backend, caller: Caller, moves: Moves, blobs: MemoryBlobs
) -> None:
    await rich_session.made(backend, caller, blobs)
    records = await moves.records(caller.scope, "s")
    with pytest.raises(ImportIncomplete):
        await moves.receive(caller.scope, records, "new", ends_at=len(records) - 1)
    assert await backend.imports.purge_imports(100) == 0
    await backend.advance(24 * 3600 + 1)
    while await backend.imports.purge_imports(100):
        continue
    await backend.advance(61)
    assert len(await backend.attachments.dropped_pieces(100)) >= 2
    await reaped(backend)
    _, line = await moves.receive(caller.scope, records, "new")
    assert line == 1
    assert await whole(backend, caller.scope, "new") is not None
