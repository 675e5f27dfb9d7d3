"""The programs of examples/, each run as a person runs it, against the service."""

import asyncio
import json
import os
import re
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import httpx
import pytest

import sessiond
from sessiond_server.embedded.process import tied
from tests.support.chat_rules import chat_fault
from tests.support.serve_process import serving
from tests.support.waiting import PATIENCE, until

ROOT = Path(__file__).parents[2]
LONGEST = 70
"""Lines of an example."""


class Program:
    """One that runs. Its errors come out of the test's own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def says(self, pattern: str) -> re.Match[str]:
        """Waits for a line in which the pattern is found."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while line := await self.process.stdout.readline():
                if found := re.search(pattern, line.decode()):
                    return found
        raise AssertionError(f"it has ended and not said {pattern}")

    async def type(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        await self.process.stdin.drain()

    async def ends(self) -> str:
        """Closes its input and waits; what it has still said. It must have succeeded."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        async with asyncio.timeout(PATIENCE):
            said, _ = await self.process.communicate()
        assert self.process.returncode == 0
        return said.decode()

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def running(address: str, *command: str | Path, stderr: int | None = None) -> AsyncIterator[Program]:
    process = await asyncio.create_subprocess_exec(
        *tied([sys.executable, *map(str, command)], signal.SIGKILL),
        cwd=ROOT,
        env={**os.environ, "SESSIOND_ADDRESS": address, "PYTHONWARNINGS": "error", "PYTHONUNBUFFERED": "1"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
    )
    try:
        yield Program(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
async def address() -> AsyncIterator[str]:
    async with serving("--store", "memory") as server:
        yield server.target


@pytest.fixture
async def client(address: str) -> AsyncIterator[sessiond.Client]:
    async with sessiond.Client(address) as client:
        yield client


async def texts(client: sessiond.Client, session_id: str) -> list[str]:
    return [sessiond.text_of(message) async for message in client.list_messages(session_id)]


@pytest.mark.parametrize("program", ["examples/chat.py", pytest.param("examples/sync_chat.py", marks=pytest.mark.long)])
async def test_chat_stores_both_sides_and_goes_on_later(address: str, client: sessiond.Client, program: str) -> None:
    async with running(address, program) as chat:
        session_id = (await chat.says(r"session (\S+); end with Ctrl-D"))[1]
        await chat.type("Is it late?")
        await chat.says("You have said: Is it late?")
        await chat.ends()
    async with running(address, program, session_id) as chat:
        await chat.says("ROLE_USER: Is it late?")
        await chat.says("ROLE_ASSISTANT: You have said: Is it late?")
        await chat.ends()
    assert await texts(client, session_id) == ["Is it late?", "You have said: Is it late? "]


@pytest.mark.parametrize(
    ("typed", "outcome"),
    [("yes", "Booked: 7A, 7B."), pytest.param("no", "Not booked: grace says no.", marks=pytest.mark.long)],
)
async def test_a_turn_of_an_agent_waits_for_an_approval(
    address: str, client: sessiond.Client, typed: str, outcome: str
) -> None:
    async with running(address, "examples/agent_turn.py") as turn:
        session_id = (await turn.says(r"session (\S+); waiting"))[1]

        async def is_asked() -> bool:
            return [call.session_id async for call in client.list_pending_approvals()] == [session_id]

        await until(is_asked)
        async with running(address, "examples/approvals.py", "grace") as inbox:
            await inbox.type(typed)
            assert f"book {{'seats': 2, 'train': '14:05'}} in session {session_id}" in await inbox.ends()
        assert (await turn.ends()).splitlines() == [outcome]
    runs = [run async for run in client.list_runs(session_id)]
    assert [(run.status, run.usage.total_tokens) for run in runs] == [(sessiond.RunStatus.RUN_STATUS_COMPLETED, 128)]
    assert (await texts(client, session_id))[-1] == outcome


@pytest.mark.long
async def test_each_fork_has_another_answer(address: str, client: sessiond.Client) -> None:
    async with running(address, "examples/forks.py") as program:
        one, two = (await program.ends()).splitlines()
    session_id, fork_id = one.split()[0], two.split()[0]
    assert (one, two) == (f"{session_id}  Answer 0: Ada.", f"{fork_id}  Answer 1: Emmy.")
    async with running(address, "examples/forks.py", session_id) as program:
        *earlier, three = (await program.ends()).splitlines()
    assert earlier == [one, two]
    assert three.endswith("  Answer 2: Mary.")
    assert await texts(client, fork_id) == ["A name for the cat?", "Answer 1: Emmy."]


@pytest.mark.long
async def test_a_context_is_what_fits_in_the_form_of_chat_completions(address: str, client: sessiond.Client) -> None:
    async with running(address, "examples/context.py", "2000", stderr=asyncio.subprocess.PIPE) as program:
        items = [json.loads(line) for line in (await program.ends()).splitlines()]
    assert items[0] == {"role": "system", "content": "You look up trains."}
    assert [item["role"] for item in items[1:5]] == ["user", "assistant", "tool", "assistant"]
    assert items[-1] == {"role": "assistant", "content": "The next one leaves at 23:05."}
    assert 20 < len(items) < 24 * 4
    assert not chat_fault(items)
    (session,) = [session async for session in client.list_sessions()]
    async with running(
        address, "examples/context.py", "100000", session.session_id, stderr=asyncio.subprocess.PIPE
    ) as program:
        assert len((await program.ends()).splitlines()) == 1 + 24 * 4


@pytest.mark.long
async def test_a_killed_tail_goes_on_where_it_was(address: str, client: sessiond.Client, tmp_path: Path) -> None:
    session_id = (await client.create_session(active=True)).session_id
    command = ("examples/tail.py", session_id, tmp_path / "position")
    await client.append_messages(session_id, [sessiond.user("one")])
    async with running(address, *command) as tail:
        await tail.says("^1 session_created")
        await tail.says("^2 message_appended one$")
        await until(lambda: (tmp_path / "position").exists())
        await tail.kill()
    await client.append_messages(session_id, [sessiond.user("two")])
    async with running(address, *command) as tail:
        await tail.says("^3 message_appended two$")
        await client.delete_session(session_id)
        assert (await tail.ends()).splitlines() == ["4 session_deleted ", "the session was deleted"]


@pytest.mark.long
async def test_audit_stores_each_event_once(address: str, client: sessiond.Client, tmp_path: Path) -> None:
    path = tmp_path / "audit.sqlite"
    expected: list[tuple[str, int, str]] = []

    def is_stored() -> bool:
        with closing(sqlite3.connect(path)) as database:
            return database.execute("select session_id, seq, what from audit order by rowid").fetchall() == expected

    for session_id in ("first", "second"):
        await client.create_session(session_id, active=True)
        await client.end_session(session_id)
        expected += [(session_id, 1, "session_created"), (session_id, 2, "session_ended")]
        async with running(address, "examples/audit.py", path) as audit:
            await audit.says("events$")
            await until(is_stored)
            await audit.kill()


async def test_an_upload_shows_its_progress(address: str, client: sessiond.Client, tmp_path: Path) -> None:
    file = tmp_path / "report.csv"
    file.write_bytes(b"train,seats\n" * 200_000)
    session_id = (await client.create_session(active=True)).session_id
    async with running(address, "examples/upload.py", session_id, file, stderr=asyncio.subprocess.STDOUT) as upload:
        said = await upload.ends()
    shares = [int(share) for share in re.findall(r"\r *(\d+) % of 2,400,000 bytes", said)]
    assert shares == sorted(shares)
    assert shares[-1] == 100
    (message,) = [message async for message in client.list_messages(session_id)]
    attachment_id = message.parts[0].file.uri.removeprefix("attachment:")
    assert f"attachment {attachment_id}: text/csv, 2400000 bytes" in said
    assert await client.download(session_id, attachment_id).read() == file.read_bytes()


@pytest.mark.long
async def test_web_streams_events_and_resumes_by_their_ids(address: str) -> None:
    command = ("-m", "uvicorn", "examples.web:app", "--port", "0")
    async with running(address, *command, stderr=asyncio.subprocess.STDOUT) as server:
        origin = (await server.says(r"running on (http://\S+)"))[1]
        async with httpx.AsyncClient(base_url=origin, timeout=PATIENCE, trust_env=False) as browser:
            chat = (await browser.post("/chats")).json()["session_id"]
            assert (await browser.post(f"/chats/{chat}/messages", json={"text": "one"})).json() == {"seq": 2}
            seqs, position = await followed(browser, chat, None, until=2)
            assert seqs == [1, 2]
            await browser.post(f"/chats/{chat}/messages", json={"text": "two"})
            assert (await followed(browser, chat, position, until=3))[0] == [3]
            assert (await browser.get("/chats/nowhere/events")).status_code == 404
            token = (await browser.post(f"/chats/{chat}/token")).json()["token"]
            assert (await browser.post("/chats/nowhere/token")).status_code == 404
            async with sessiond.Client(address, api_key=token) as page:
                await page.append_messages(chat, [sessiond.user("three")])
                assert await texts(page, chat) == ["one", "two", "three"]
                with pytest.raises(sessiond.TokenForbids):
                    await page.end_session(chat)
        # It stops although a watch was open a moment ago.
        server.process.send_signal(signal.SIGINT)
        await server.says("Finished server process")


async def followed(browser: httpx.AsyncClient, chat: str, position: str | None, until: int) -> tuple[list[int], str]:
    """The numbers of the events up to that one, and the id of the last frame that had some, as a browser keeps it."""
    headers = {} if position is None else {"Last-Event-ID": position}
    seqs: list[int] = []
    async with browser.stream("GET", f"/chats/{chat}/events", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            if line.startswith("id: "):
                position = line.removeprefix("id: ")
            elif line.startswith("data: "):
                seqs += [message["seq"] for message in json.loads(line.removeprefix("data: "))]
                if until in seqs:
                    break
    assert position is not None
    return seqs, position


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short_listed_and_tested(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= LONGEST
    assert f"[{path.name}]({path.name})" in (path.parent / "README.md").read_text("utf-8")
    assert re.search(rf"examples[/.]{path.stem}\b", Path(__file__).read_text("utf-8"))
