"""All that a user has, exported to a folder: what is in it, and what an export after a failure does again."""

import json
from pathlib import Path

import pytest

import sessiond
from sessiond import user_export
from tests.support.client_service import Service

BOTH_CLIENTS = True
IDS = ("a/b", "A/b", "\u4e2d" * 80, "..", "plain")


@pytest.fixture
async def user(sessions: sessiond.Client) -> str:
    """A user with a session of each of these ids, one of them ended, and documents; another user has one too."""
    for name in IDS:
        await sessions.create_session(name, user_id="ann", active=True)
        await sessions.append_messages(name, [sessiond.user(f"hello from {name}")])
    await sessions.end_session("plain")
    await sessions.create_session("bobs", user_id="bob")
    await sessions.put_document("likes", ["tea", "\u8336"], user_id="ann")
    await sessions.put_document("draft", 1, session_id="..")
    await sessions.put_document("likes", ["cake"], user_id="bob")
    return "ann"


async def test_a_users_sessions_and_documents_are_exported(
    sessions: sessiond.Client, user: str, tmp_path: Path
) -> None:
    folder, seen = tmp_path / "new" / "ann", list[tuple[int, int]]()
    assert await sessions.export_user(user, folder, progress=lambda *at: seen.append(at)) == len(IDS)
    assert seen[-1] == (len(IDS), len(IDS))
    listed = json.loads((folder / "user.json").read_bytes())
    assert (listed["user_id"], listed["documents"]) == ("ann", 2)
    assert {each["session_id"]: each["version"] for each in listed["sessions"]} == {
        name: 3 if name in ("plain", "..") else 2 for name in IDS
    }
    files = {each["file"] for each in listed["sessions"]}
    assert {path.name for path in folder.iterdir()} == files | {"user.json", "documents.jsonl"}
    documents = [json.loads(line) for line in (folder / "documents.jsonl").read_bytes().splitlines()]
    assert {(each["scopeId"], each["key"]) for each in documents} == {("ann", "likes"), ("..", "draft")}
    assert "\u8336" in (folder / "documents.jsonl").read_text("utf-8")
    for number, each in enumerate(listed["sessions"]):
        done = await sessions.import_session(folder / each["file"], session_id=f"again-{number}")
        assert done.session.user_id == "ann"


async def test_only_what_has_changed_is_exported_again(
    sessions: sessiond.Client, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sessions.export_user(user, tmp_path)
    before = {path.name: path.stat().st_ino for path in tmp_path.glob("*-*.jsonl")}
    (tmp_path / "user.json").unlink()
    (tmp_path / user_export.file_name("A/b")).write_bytes(b'{"header": 1}\n')
    await sessions.append_messages("a/b", [sessiond.user("more")])
    await sessions.delete_session("..")
    assert await sessions.export_user(user, tmp_path) == len(IDS) - 1
    after = {path.name: path.stat().st_ino for path in tmp_path.glob("*-*.jsonl")}
    changed = {name for name, inode in after.items() if inode != before[name]}
    assert changed == {user_export.file_name(name) for name in ("A/b", "a/b")}
    listed = json.loads((tmp_path / "user.json").read_bytes())
    assert {each["session_id"] for each in listed["sessions"]} == set(IDS) - {".."}
    assert listed["documents"] == 1


async def test_a_user_who_has_nothing_gets_an_empty_list(sessions: sessiond.Client, tmp_path: Path) -> None:
    assert await sessions.export_user("nobody", tmp_path) == 0
    assert json.loads((tmp_path / "user.json").read_bytes())["sessions"] == []
    assert (tmp_path / "documents.jsonl").read_bytes() == b""


@pytest.mark.usefixtures("user")
async def test_an_export_that_is_cut_leaves_no_list(
    sessions: sessiond.Client, service: Service, tmp_path: Path
) -> None:
    await sessions.export_user("ann", tmp_path)
    (tmp_path / user_export.file_name("plain")).unlink()
    (tmp_path / user_export.file_name("plain")).mkdir()
    with pytest.raises(OSError, match="directory"):
        await sessions.export_user("ann", tmp_path)
    assert not (tmp_path / "user.json").exists()
