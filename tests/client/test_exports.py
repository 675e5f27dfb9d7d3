"""Exports to files and imports from them, against the real service: what is resumed, and which errors are raised."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sessiond
from tests.support.both_clients import async_only
from tests.support.client_service import RECONNECT, Service
from tests.support.proxy import Proxy

BOTH_CLIENTS = True

FILE = b"0123456789" * 70_000


@pytest.fixture
async def session_id(sessions: sessiond.Client) -> str:
    session = await sessions.create_session(active=True, metadata={"a": [1.5, None, "\u4e2d"]}, labels={"k": "v"})
    name = session.session_id
    await sessions.append_messages(name, [sessiond.user("hello \U0001f600"), sessiond.assistant("hi")])
    await sessions.upload(name, FILE, attachment_id="a", name="f.bin")
    return name


async def test_an_exported_session_is_imported_once(sessions: sessiond.Client, session_id: str, tmp_path: Path) -> None:
    path, seen = tmp_path / "s.jsonl", list[tuple[int, int]]()
    lines = await sessions.export_session(session_id, path, progress=lambda *at: seen.append(at))
    written = path.read_bytes().splitlines()
    assert lines == len(written) == seen[-1][0]
    assert [*json.loads(written[0])] == ["header", "digest"]
    assert not [*tmp_path.glob("*.part")]
    new = f"{session_id}-new"
    for number in range(2):
        done = await sessions.import_session(path, session_id=new, progress=lambda *at: seen.append(at))
        assert (done.session.session_id, done.already_there) == (new, number == 1)
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)
    assert await sessions.download(new, "a").read() == FILE
    same = await sessions.import_session(path)
    assert same.already_there
    assert same.session.version == (await sessions.get_session(new)).version


async def test_an_export_goes_on_in_the_file_that_an_earlier_one_left(
    sessions: sessiond.Client, session_id: str, tmp_path: Path
) -> None:
    whole, path = tmp_path / "whole", tmp_path / "s"
    await sessions.export_session(session_id, whole)
    lines = whole.read_bytes().splitlines(keepends=True)
    part = tmp_path / "s.part"
    for count in range(len(lines) + 1):
        part.write_bytes(b"".join(lines[:count]) + b'{"event": {"se')
        assert await sessions.export_session(session_id, path) == len(lines)
        assert path.read_bytes().splitlines()[1:] == whole.read_bytes().splitlines()[1:] or not count
    part.write_bytes(b"no export\n")
    assert await sessions.export_session(session_id, path) == len(lines)
    await sessions.append_messages(session_id, [sessiond.user("more")])
    part.write_bytes(b"".join(lines[:3]))
    assert await sessions.export_session(session_id, path) == len(lines)


Damage = Callable[[list[bytes]], object]


def cut(lines: list[bytes]) -> None:
    lines[2] = lines[2][:50]


def swapped(lines: list[bytes]) -> None:
    lines[1], lines[2] = lines[2], lines[1]


def changed(lines: list[bytes]) -> None:
    lines[2] = lines[2].replace(b"hello", b"hullo")


def left_out(lines: list[bytes]) -> None:
    del lines[1]


def doubled(lines: list[bytes]) -> None:
    lines.insert(2, lines[2])


def without_end(lines: list[bytes]) -> None:
    del lines[-1]


def longer(lines: list[bytes]) -> None:
    lines.append(lines[-1])


def empty(lines: list[bytes]) -> None:
    lines.clear()


@pytest.mark.parametrize(
    ("damage", "line"),
    [(cut, 3), (swapped, 2), (changed, 3), (left_out, 2), (doubled, 4), (longer, 11), (empty, 1), (without_end, 0)],
)
async def test_a_damaged_file_is_refused_with_the_line(
    sessions: sessiond.Client, session_id: str, tmp_path: Path, damage: Damage, line: int
) -> None:
    path = tmp_path / "s"
    await sessions.export_session(session_id, path)
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 10
    damage(lines)
    path.write_bytes(b"".join(lines))
    expected: Any = sessiond.ImportRefused if line else sessiond.ImportIncomplete
    with pytest.raises(expected) as caught:
        await sessions.import_session(path, session_id=f"{session_id}-{damage.__name__}")
    assert caught.value.line == (line or 9)
    with pytest.raises(sessiond.SessionNotFound):
        await sessions.get_session(f"{session_id}-{damage.__name__}")


@async_only("it cuts the connection from within a callback of the loop")
async def test_an_import_goes_on_over_cut_connections(
    service: Service, sessions: sessiond.Client, session_id: str, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    await sessions.upload(session_id, FILE * 3, attachment_id="b")
    await sessions.export_session(session_id, path)
    host, _, port = service.target.rpartition(":")
    cuts = iter(range(400_000, path.stat().st_size, 800_000))
    at = next(cuts)

    def cut(done: int, _: int) -> None:
        nonlocal at
        if done >= at:
            at = next(cuts, path.stat().st_size + 1)
            proxy.cut()

    async with (
        Proxy(host, int(port)) as proxy,
        sessiond.Client(f"127.0.0.1:{proxy.port}", reconnect=RECONNECT) as cut_off,
    ):
        done = await cut_off.import_session(path, session_id=f"{session_id}-cut", progress=cut)
    assert at > path.stat().st_size
    assert not done.already_there
    assert await sessions.download(done.session.session_id, "b").read() == FILE * 3


async def test_an_exported_fork_is_imported_as_a_session_of_its_own(
    sessions: sessiond.Client, session_id: str, tmp_path: Path
) -> None:
    await sessions.begin_run(session_id)
    fork = (await sessions.fork_session(session_id, name="another try")).session_id
    await sessions.append_messages(fork, [sessiond.user("go on")])
    await sessions.export_session(fork, tmp_path / "f")
    await sessions.delete_session(session_id)
    await sessions.delete_session(fork)
    new = f"{fork}-new"
    await sessions.import_session(tmp_path / "f", session_id=new)
    told = [sessiond.text_of(message) async for message in sessions.list_messages(new)]
    assert told == ["hello \U0001f600", "hi", "go on"]
    assert (await sessions.get_session(new)).forked_from.session_id == session_id
    assert await sessions.download(new, "a").read() == FILE
    again = await sessions.fork_session(new, at=2)
    assert again.message_count == 1
    await sessions.delete_messages(new, last_n=1)


async def test_imported_session_shows_what_the_rewound_one_showed(
    sessions: sessiond.Client, session_id: str, tmp_path: Path
) -> None:
    before = await sessions.append_messages(session_id, [sessiond.user("no"), sessiond.assistant("never mind")])
    await sessions.rewind_session(session_id, before=before.message_ids[0])
    await sessions.append_messages(session_id, [sessiond.user("yes")])
    await sessions.export_session(session_id, tmp_path / "r")
    new = f"{session_id}-rewound"
    made = await sessions.import_session(tmp_path / "r", session_id=new)
    assert made.session.rewound == (await sessions.get_session(session_id)).rewound
    told = [sessiond.text_of(message) async for message in sessions.list_messages(new)]
    assert told == ["hello \U0001f600", "hi", "yes"]
    await sessions.rewind_session(new, to=before.message_ids[1])
    told = [sessiond.text_of(message) async for message in sessions.list_messages(new)]
    assert told == ["hello \U0001f600", "hi", "no", "never mind"]
