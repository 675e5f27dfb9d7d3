"""File names of a file system: any bytes, of any length."""

import os
from pathlib import Path

import pytest

import sessiond
from sessiond.file_names import beside, storable


@pytest.fixture
async def session_id(sessions: sessiond.Client) -> str:
    return (await sessions.create_session(active=True)).session_id


def written(folder: Path, name: bytes, content: bytes = b"content") -> Path:
    path = Path(os.fsdecode(os.path.join(os.fsencode(folder), name)))
    try:
        path.write_bytes(content)
    except OSError:
        pytest.skip("a file system that takes UTF-8 only")
    return path


@pytest.mark.parametrize(
    ("name", "stored", "media_type"),
    [
        (b"caf\xe9.csv", "caf\ufffd.csv", "text/csv"),
        (b"\xff\xfe", "\ufffd\ufffd", ""),
        ("é".encode() * 120 + b".csv", "é" * 120 + ".csv", "text/csv"),
        (b"a\nb\x1b[31m.txt", "a\ufffdb\ufffd[31m.txt", "text/plain"),
        (b"n" * 246 + b".txt", "n" * 246 + ".txt", "text/plain"),
        (b"n" * 255, "n" * 255, ""),
    ],
)
async def test_any_file_can_be_uploaded_and_saved(
    name: bytes, stored: str, media_type: str, session_id: str, sessions: sessiond.Client, tmp_path: Path
) -> None:
    path = written(tmp_path, name)
    attachment = await sessions.upload(session_id, path)
    assert (attachment.name, attachment.media_type) == (stored, media_type)
    path.unlink()
    await sessions.download(session_id, attachment.attachment_id).save(path)
    assert path.read_bytes() == b"content"
    assert os.listdir(os.fsencode(tmp_path)) == [name]


async def test_named_pipe_is_refused_without_blocking(
    session_id: str, sessions: sessiond.Client, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="a pipe cannot be uploaded"):
        await sessions.upload(session_id, tmp_path / "pipe")


@pytest.mark.parametrize("name", [b"caf\xe9", b"n" * 250, b"n" * 255, "é".encode() * 127])
async def test_any_file_can_keep_a_position(name: bytes, tmp_path: Path) -> None:
    path = written(tmp_path, name, b"old\n")
    store = sessiond.FilePositions(path)
    await store.save("new")
    assert await store.load() == "new"
    assert os.listdir(os.fsencode(tmp_path)) == [name]


@pytest.mark.parametrize("name", ["n" * 255, "é" * 127, "\udcff" * 200])
def test_long_names_get_different_temporary_files(name: str) -> None:
    one, other = beside(Path(name), ".0123456789abcdef.part"), beside(Path(name[:-1] + "x"), ".0123456789abcdef.part")
    assert one != other
    assert len(os.fsencode(one.name)) <= 255
    assert one.name.endswith(".0123456789abcdef.part")


def test_short_name_is_unchanged() -> None:
    assert beside(Path("folder/name.csv"), ".part") == Path("folder/name.csv.part")


def test_shortened_name_keeps_its_extension() -> None:
    assert storable("n" * 300 + ".csv", 255) == "n" * 250 + "…" + ".csv"
    assert len(storable("n." + "e" * 400, 255)) == 255
