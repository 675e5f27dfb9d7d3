"""Sources: sample files with the tables and columns of the other systems, wrong ones too, and what becomes of them."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import sessiond
from sessiond_server.cli import sources as command
from sessiond_server.cli import transfer
from sessiond_server.cli.transfer import Service as Reached
from sessiond_server.sources.foreign import ForeignSession, Unreadable
from sessiond_server.sources.kinds import KINDS
from sessiond_server.sources.values import Unfit, time_us
from tests.support.client_service import serving
from tests.support.ports import free_port
from tests.support.rows import table

DAY = 24 * 3600
CREATED = 1_790_000_000
SESSIONS = """create table sessions (session_id text primary key, user_id text, metadata text, created_at timestamp,
    expires_at timestamp, last_activity timestamp, request_count integer default 0)"""
CODING = """create table sessions (id text primary key, name text, agent_mode text, status text, created_at timestamp,
    updated_at timestamp, metadata text);
    create table messages (id integer primary key, session_id text, role text, content text, timestamp timestamp)"""


def sqlite_file(path: Path, schema: str, **rows: Sequence[tuple[Any, ...]]) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(schema)
        for name, values in rows.items():
            for row in values:
                connection.execute(f"insert into {name} values ({','.join('?' * len(row))})", row)
        connection.commit()
    return path


def json_file(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), "utf-8")
    return path


def sessions_file(folder: Path) -> Path:
    return sqlite_file(
        folder / "sessions.db",
        SESSIONS,
        sessions=[
            (
                "live",
                "ann",
                '{"theme": "\u6697"}',
                "2026-09-21T13:33:20+00:00",
                "2099-01-01T00:00:00",
                CREATED + 60.5,
                7,
            ),
            ("bare", None, None, CREATED, None, None, 0),
            ("broken", None, "{", CREATED, None, None, 0),
            ("timeless", None, None, "yesterday", None, None, 0),
            ("uncounted", None, None, CREATED, None, None, "many"),
            (None, None, None, CREATED, None, None, 1),
        ],
    )


def coding_file(folder: Path) -> Path:
    return sqlite_file(
        folder / "coding.db",
        CODING,
        sessions=[
            ("s1", None, "build", "active", "2026-09-21T13:33:20Z", "2026-09-21T14:33:20Z", '{"repo": "x"}'),
            ("s2", "Plan it", "plan", "completed", "2026-09-21T13:33:20Z", None, None),
            ("s3", "n", "general", "active", "2026-09-21T13:33:20Z", None, "no JSON"),
            ("s4", "n", "general", "active", "2026-09-21T13:33:20Z", None, None),
        ],
        messages=[
            (1, "s1", "user", "Fix the \U0001f41b please", "2026-09-21T13:33:21Z"),
            (2, "s1", "assistant", "Done", "2026-09-21T13:33:20.5Z"),
            (3, "s4", "narrator", "x", "2026-09-21T13:33:21Z"),
        ],
    )


def chat_file(folder: Path) -> Path:
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
    return json_file(
        folder / "chats.jsonl",
        {"id": "a", "messages": [{"role": "system", "content": "Be kind"},
                                 {"role": "user", "content": "hi", "time": CREATED}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [call]},
                      {"role": "tool", "content": "found", "tool_call_id": "c1"}]},
        "{",
        {"id": "a"},
        [],
        {"id": "a\0", "messages": []},
        {"id": "b", "messages": [{"role": "user", "content": "a\0"}]},
    )  # fmt: skip


def chatgpt_file(folder: Path) -> Path:
    def node(name: str, parent: str | None, role: str, text: str) -> dict[str, Any]:
        content = {"content_type": "text", "parts": [text]}
        message = {"id": f"m-{name}", "author": {"role": role}, "content": content, "create_time": CREATED + 1}
        return {"id": name, "parent": parent, "message": message}

    tree = {
        "root": {"id": "root", "parent": None, "message": None},
        "1": node("1", "root", "user", "question"),
        "2": node("2", "1", "assistant", "first answer"),
        "3": node("3", "1", "assistant", "better answer"),
    }
    loop = {"1": node("1", "2", "user", "x"), "2": node("2", "1", "user", "y")}
    given = {"title": "T", "create_time": CREATED, "update_time": CREATED + DAY, "mapping": tree, "current_node": "3"}
    return json_file(
        folder / "conversations.json", [{**given, "conversation_id": "c1"}, {"mapping": loop, "id": "c2"}, {}, 5]
    )


ADK = """create table sessions (app_name varchar(128), user_id varchar(128), id varchar(128), state text, create_time
    datetime, update_time datetime, primary key (app_name, user_id, id));
    create table events (id varchar(256), app_name varchar(128), user_id varchar(128), session_id varchar(128),
    invocation_id varchar(256), author varchar(256), timestamp datetime, content text, event_data text,
    primary key (id, app_name, user_id, session_id))"""


def adk_file(folder: Path) -> Path:
    def content(role: str, *parts: object) -> str:
        return json.dumps({"role": role, "parts": parts})

    call, response = {"id": "c", "name": "find", "args": {"q": "x"}}, {"id": "c", "name": "find", "response": {"n": 1}}
    event = {"author": "guide", "content": {"role": "model", "parts": [{"text": "bye"}]}}
    time, answer = "2026-09-21 14:13:2", content("user", {"function_response": response})
    return sqlite_file(
        folder / "adk.db",
        ADK,
        sessions=[
            ("app", "ann", "a1", '{"n": 1}', "2026-09-21 14:13:20.000000", "2026-09-21 15:13:20.000000"),
            ("app", "ann", "a2", "{}", None, "2026-09-21 15:13:20.000000"),
        ],
        events=[
            ("e1", "app", "ann", "a1", "i", "user", time + "1", content("user", {"text": "hi"}), None),
            ("e2", "app", "ann", "a1", "i", "guide", time + "2", content("model", {"function_call": call}), None),
            ("e3", "app", "ann", "a1", "i", "guide", time + "3", answer, None),
            ("e4", "app", "ann", "a1", "i", "guide", time + "4", None, None),
            ("e5", "app", "ann", "a1", "i", None, time + "5", None, json.dumps(event)),
        ],
    )


def found(kind: str, path: Path) -> tuple[dict[str, ForeignSession], list[Unreadable]]:
    everything = list(KINDS[kind](path))
    sessions = {each.session.session_id: each for each in everything if isinstance(each, ForeignSession)}
    return sessions, [each for each in everything if isinstance(each, Unreadable)]


SAMPLES = {
    "sessions-file": (sessions_file, {"live", "bare"}, 4),
    "coding-agent": (coding_file, {"s1", "s2"}, 2),
    "chat-lines": (chat_file, {"a", "chats-2"}, 5),
    "chatgpt": (chatgpt_file, {"c1"}, 3),
    "adk": (adk_file, {"a1"}, 1),
}


async def test_a_source_is_imported_once_and_what_is_wrong_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert SAMPLES.keys() == KINDS.keys()
    async with serving() as service:
        reached = Reached(service.target, None, None)
        with table() as rows:
            for kind, (make, ids, wrong) in SAMPLES.items():
                with rows.row(kind):
                    path = make(tmp_path)
                    sessions, unreadable = found(kind, path)
                    assert (set(sessions), len(unreadable)) == (ids, wrong)
                    for dry_run, done in ((True, "would be imported"), (False, "imported"), (False, "there already")):
                        report = command.Report()
                        await command.import_all(reached, kind, path, f"{kind}.", report, dry_run=dry_run)
                        assert (report.counts[done], report.counts["not imported"]) == (len(ids), wrong), done
                        assert bool(report.notes) == (kind in ("sessions-file", "chat-lines", "adk"))
        assert "\0" not in capsys.readouterr().out
        async with sessiond.Client(service.target) as client:
            live = await client.get_session("sessions-file.live")
            assert (live.user_id, live.request_count, live.metadata["theme"]) == ("ann", 7, "\u6697")
            assert (live.create_time.seconds, live.expire_time.seconds) == (1_789_997_600, 4_070_908_800)
            assert (live.last_activity_time.seconds, live.status) == (CREATED + 60, 2)
            assert not (await client.get_session("sessions-file.bare")).HasField("expire_time")
            texts = [[p.text for p in m.parts] async for m in client.list_messages("coding-agent.s1")]
            assert texts == [["Done"], ["Fix the \U0001f41b please"]]
            ended = await client.get_session("coding-agent.s2")
            assert (ended.status, ended.name, ended.agent_mode) == (4, "Plan it", 2)
            (asked, answered) = [m async for m in client.list_messages("chat-lines.chats-2")]
            assert (asked.parts[0].tool_call.name, answered.parts[0].tool_result.text) == ("find", "found")
            texts = [[p.text for p in m.parts] async for m in client.list_messages("chatgpt.c1")]
            assert texts == [["question"], ["better answer"]]
            said = [m async for m in client.list_messages("adk.a1")]
            assert [(m.role, m.parts[0].WhichOneof("kind")) for m in said] == [
                (2, "text"), (3, "tool_call"), (4, "tool_result"), (3, "text"),
            ]  # fmt: skip
            adk = await client.get_session("adk.a1")
            assert (adk.user_id, adk.agent_id, adk.state["n"]) == ("ann", "app", 1)
            assert (await client.get_session("chatgpt.c1")).last_activity_time.seconds == CREATED + DAY


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    wrong = {
        "text": json_file(tmp_path / "text", "hello"),
        "empty": json_file(tmp_path / "empty"),
        "database": sqlite_file(tmp_path / "database", "create table other (x)"),
        "binary": tmp_path / "binary",
    }
    wrong["binary"].write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 20)
    with table() as rows:
        for kind, read in KINDS.items():
            for name, path in wrong.items():
                with rows.row(kind, name):
                    if kind == "chat-lines":
                        assert all(isinstance(each, Unreadable) for each in read(path))
                        continue
                    with pytest.raises(Unfit):
                        list(read(path))
            with rows.row(kind, "missing"), pytest.raises(FileNotFoundError):
                list(read(tmp_path / "missing"))


def test_times_have_many_forms() -> None:
    notes: list[str] = []
    with table() as rows:
        for value in (
            CREATED,
            CREATED * 1000,
            float(CREATED),
            str(CREATED),
            "2026-09-21T14:13:20Z",
            "2026-09-21 14:13:20",
        ):
            with rows.row(value):
                assert time_us(value, "t", notes) == CREATED * 1_000_000
        wrong: Any
        for wrong in (None, True, "x", "", -1, 10**30, float("nan"), float("inf"), [], "0001-01-01T00:00:00"):
            with rows.row(wrong), pytest.raises(Unfit):
                time_us(wrong, "t", notes)
    assert notes == ["t has no zone and counts as UTC"]


def test_service_that_does_not_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(transfer, "REACH_SECONDS", 0.1)
    target = f"127.0.0.1:{free_port()}"
    nowhere, file = Reached(target, None, None), sessions_file(tmp_path)
    assert transfer.export_session(nowhere, "s", str(tmp_path / "s.jsonl")) == 1
    assert command.run(nowhere, ["sessions-file", str(file)], "", "", dry_run=False) == 1
    assert capsys.readouterr().err.count(f"the service at {target} has not answered for 0.1 s") == 2
    assert command.run(nowhere, ["sessions-file", str(file)], "", "", dry_run=True) == 1
    assert target not in capsys.readouterr().err
