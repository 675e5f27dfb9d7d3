"""The demo, run as a person runs it, against a real server."""

import asyncio
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import sessiond
from sessiond_server.embedded.process import tied
from tests.support.blocking_server import ROOT, Server
from tests.support.waiting import PATIENCE

OWN = ROOT / "examples" / "demo" / "conversations.jsonl"
TURN = [
    *("session_created", "message_appended", "run_started", "message_appended", "tool_call_requested"),
    *("tool_call_approved", "tool_call_started", "tool_call_completed", "attachment_uploaded", "message_appended"),
    *("run_completed", "session_deleted"),
]
"""What happens in the agent's turn."""


FOUND = {
    "English": "remainder", "German": "Liegewagen", "Spanish": "socarrat", "French": "cahier des charges",
    "Chinese": "黑暗森林", "Japanese": "蕎麦", "Korean": "폭설",
    "Arabic": "الثلوج", "Hindi": "गुणनखंड", "Russian": "Солнце",
}  # fmt: skip
"""What is found in each language, as it was written."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("--store", "memory", "--listen", "127.0.0.1:0") as running:
        yield running


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "examples.demo", *map(str, arguments)]


def demo(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=PATIENCE,
        check=False,
    )


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, "the demo ended too early"
        assert time.monotonic() < end
        process.poll()
        time.sleep(0.002)  # between two looks at a file that another process writes


def many(folder: Path, times: int) -> tuple[Path, int]:
    """The own conversations, several times over: the file, and how many messages it has."""
    lines = OWN.read_text(encoding="utf-8").splitlines()
    file = folder / "many.jsonl"
    file.write_text("\n".join(lines * times), encoding="utf-8")
    return file, times * sum(len(json.loads(line)["messages"]) for line in lines)


def messages_of(ledger: Path) -> int:
    if not ledger.exists():
        return 0
    return sum(len(json.loads(line)["messages"]) for line in ledger.read_text().split("\n")[:-1])


def test_the_whole_story(server: Server, tmp_path: Path) -> None:
    ledger = tmp_path / "acked"
    told = demo("--address", server.address, "--ledger", ledger)
    assert told.stderr == ""
    assert told.returncode == 0
    for title in (
        "Stored",
        "A conversation",
        "Pages",
        "A session's life",
        "Lists",
        "Search",
        "Branches",
        "Moved",
        "A live tail",
        "An agent's turn",
        "Read back",
    ):
        assert f"\n{title}" in told.stdout
    for refused in ("VersionMismatch", "SessionNotActive", "IllegalTransition", "SessionEnded"):
        assert f"refused    {refused}: " in told.stdout
    for said in ("你好", "السلام عليكم", "来週の土曜日", "안녕하세요", "नमस्ते", "Когда", "👋🏽 plan a 🏖️"):
        assert said in told.stdout
    assert "126 messages of 12 conversations: all equal" in told.stdout
    search = told.stdout.split("\nSearch")[1].split("\nBranches")[0]
    found = re.findall(r"^  (\S+) +\d+ messages? +\d+ ms   .*\[(.+?)\]", search, re.MULTILINE)
    assert found == list(FOUND.items())
    branches = told.stdout.split("\nBranches")[1].split("\nA live tail")[0]
    assert re.search(r"^  the parent +6 messages, \d+ of 2,000 tokens: The sea: ", branches, re.MULTILINE)
    assert "  made anew       Take a swimsuit. → Take a warm jacket." in branches
    assert re.search(r"^  the fork +6 messages, \d+ of 2,000 tokens: The mountains, ", branches, re.MULTILINE)
    assert "the fork still has all of its 6 messages" in branches
    assert "6 messages and an attachment of 0.9 MB: all equal, and still a fork, at seq 4" in branches
    assert re.search(r"killed \(SIGKILL\)\n(      . .*\n){4} +6-9  back", told.stdout)
    assert "\n  12 events, 0 lost, " in told.stdout
    turn = told.stdout.split("An agent's turn")[1].split("Read back")[0]
    events = re.findall(r"^ +(\d+)  .* \1  (\w+), (?:\d+ pieces?|[\d.]+ ms)$", turn, re.MULTILINE)
    assert events == [(str(index + 1), event) for index, event in enumerate(TURN)]
    assert "\n  12 events, 0 lost\n" in turn
    assert "\x1b" not in told.stdout

    assert messages_of(ledger) == 126
    verified = demo("--address", server.address, "--verify", ledger)
    assert verified.stdout == "sessions=12 acked=126 lost=0 changed=0 doubled=0\n"
    assert verified.returncode == 0


@pytest.mark.long
def test_search_that_is_off_is_said(tmp_path: Path) -> None:
    with Server("--store", "memory", "--search=false", "--listen", "127.0.0.1:0") as server:
        told = demo("--address", server.address)
    assert (told.stderr, told.returncode) == ("", 0)
    assert "\n  search is off here; the service has it with --search=true\n" in told.stdout


@pytest.mark.long
def test_other_conversations_are_searched_for_their_own_words(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "file.jsonl"
    chats = [("one", "is the 14:05 Wundertüte late?"), ("two", "?!"), ("three", "\U0001f600 \x1b[31m \u202e")]
    lines = [json.dumps({"id": name, "messages": [{"role": "user", "content": text}]}) for name, text in chats]
    file.write_text("\n".join(lines))
    told = demo("--address", server.address, file)
    assert (told.stderr, told.returncode) == ("", 0)
    search = told.stdout.split("\nSearch")[1].split("\nBranches")[0]
    assert re.findall(r"\[(.+?)\]", search) == ["Wundertüte"]
    assert "\x1b" not in told.stdout


@pytest.mark.long
def test_again_with_sessions_of_its_own(server: Server) -> None:
    runs = [demo("--address", server.address) for _ in range(2)]
    assert [run.returncode for run in runs] == [0, 0]
    labels = {re.findall(r"demo=(\S+)", run.stdout)[0] for run in runs}
    assert len(labels) == 2


@pytest.mark.long
def test_verify_finds_what_is_not_as_it_was(server: Server, tmp_path: Path) -> None:
    ledger = tmp_path / "acked"
    assert demo("--address", server.address, "--ledger", ledger).returncode == 0
    records = [json.loads(line) for line in ledger.read_text().splitlines()]
    by_session: dict[str, list[Any]] = {}
    for record in records:
        by_session.setdefault(record["session_id"], []).append(record)
    altered, vanished, twice, *_ = by_session.values()
    entries = [entry for record in altered for entry in record["messages"]]
    entries[0][0] = "no-such-message"
    entries[1][2] = "another digest"
    entries[2][1] += 1000
    for record in vanished:
        record["session_id"] = "no-such-session"
    # An append that the ledger does not know, before others that it knows: as if a retry had been applied twice.
    records.remove(twice[0])
    ledger.write_text("".join(json.dumps(record) + "\n" for record in records))
    verified = demo("--address", server.address, "--verify", ledger)
    lost = 1 + sum(len(record["messages"]) for record in vanished)
    # The message in place of the third one was never acknowledged.
    doubled = len(twice[0]["messages"]) + 1
    assert verified.stdout.endswith(f" lost={lost} changed=2 doubled={doubled}\n")
    assert verified.returncode == 1
    assert verified.stderr == "demo: FAILED: acknowledged messages are not as they were\n"


@pytest.mark.long
@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo terminal")
def test_on_a_terminal_there_is_colour_and_progress(server: Server) -> None:
    said = on_a_terminal(command("--address", server.address))
    assert b"\x1b[1mStored\x1b[0m" in said
    assert b"storing: 126 of 126 messages" in said


def on_a_terminal(command: list[str]) -> bytes:
    """What it prints there."""
    ours, theirs = os.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"}
    process = subprocess.Popen(command, cwd=ROOT, stdout=theirs, env=environment)
    os.close(theirs)
    said = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not chunk:
            break
        said += chunk
    os.close(ours)
    assert process.wait(PATIENCE) == 0
    return said


def test_no_server(tmp_path: Path) -> None:
    with Server("--store", "memory", "--listen", "127.0.0.1:0") as gone:
        address = gone.address
    told = demo("--address", address)
    assert told.returncode == 3
    assert told.stderr == f"demo: no server answers at {address}; start one with `make run`, in another terminal\n"
    assert told.stdout == ""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no conversation in it"),
        (b"\n \n", "no conversation in it"),
        (b"{", "file.jsonl:1: not JSON"),
        (b'{"id": "a", "messages": []}\n[1]', "file.jsonl:2: must be an object"),
        (b'{"messages": [1]}', "file.jsonl:1: must be an object"),
        (b'{"messages": [{"role": "user", "content": "a"}, {"role": "oracle"}]}', "file.jsonl:1: messages[1]: role"),
        (b'{"messages": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "file.jsonl:1: not JSON"),
        (None, "No such file"),
    ],
)
def test_bad_file_is_named(example: "Example", tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "file.jsonl"
    if content is not None:
        file.write_bytes(content)
    chats = example("chats")
    with pytest.raises(chats.BadFileError, match=re.escape(said)):
        chats.load(file)


def test_bad_file_is_reported_without_a_traceback(tmp_path: Path) -> None:
    file = tmp_path / "file.jsonl"
    file.write_bytes(b"{")
    told = demo(file)
    assert told.returncode == 2
    assert "file.jsonl:1: not JSON" in told.stderr
    assert "Traceback" not in told.stderr


def test_refusal_of_the_service_is_printed(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "file.jsonl"
    file.write_text(json.dumps({"messages": [{"role": "user", "content": "x" * 2**20}]}))
    told = demo("--address", server.address, file)
    assert told.returncode == 1
    assert told.stderr == "demo: InvalidFields: messages[0]: must be at most 1048576 bytes serialised\n"


@pytest.mark.long
def test_conversations_without_messages(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "file.jsonl"
    file.write_text('{"id": "empty", "messages": []}\n')
    told = demo("--address", server.address, file)
    assert told.stderr == ""
    assert told.returncode == 0
    assert "0 messages of 1 conversation: all equal" in told.stdout


@pytest.mark.long
def test_interrupted(server: Server, tmp_path: Path) -> None:
    ledger = tmp_path / "acked"
    file, _ = many(tmp_path, 100)
    process = subprocess.Popen(
        tied(command("--address", server.address, "--ledger", ledger, file), signal.SIGKILL),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: messages_of(ledger) > 10, process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors == "demo: interrupted; what the service acknowledged is stored\n"
    verified = demo("--address", server.address, "--verify", ledger)
    assert " lost=0 changed=0 doubled=0" in verified.stdout


@pytest.mark.long
def test_a_killed_server_keeps_every_acknowledged_message(postgres_dsn: str, redis_url: str, tmp_path: Path) -> None:
    ledger = tmp_path / "acked"
    file, total = many(tmp_path, 4)
    flags = ("--postgres-dsn", postgres_dsn, "--redis-url", redis_url)
    with Server(*flags, "--listen", "127.0.0.1:0") as first:
        process = subprocess.Popen(
            command("--address", first.address, "--ledger", ledger, file),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        wait_for(lambda: messages_of(ledger) > 50, process)
        first.stop(signal.SIGKILL)
    acked = messages_of(ledger)
    assert acked < total
    with Server(*flags, "--listen", first.address) as second:
        verified = demo("--address", second.address, "--verify", ledger)
        assert " lost=0 changed=0 doubled=0" in verified.stdout
        told, errors = process.communicate(timeout=PATIENCE)
        assert errors == ""
        assert process.returncode == 0
        assert f"{total:,} messages of 48 conversations: all equal" in told
        verified = demo("--address", second.address, "--verify", ledger)
        assert verified.stdout == f"sessions=48 acked={total} lost=0 changed=0 doubled=0\n"


def tail(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "examples.demo.tail", *map(str, arguments)]


def test_a_tail_by_itself(server: Server, tmp_path: Path) -> None:
    async def write(*texts: str) -> str:
        async with sessiond.Client(server.address) as client:
            session = await client.create_session(active=True)
            await client.append_messages(session.session_id, [sessiond.user(text) for text in texts])
            return session.session_id

    async def delete(session_id: str) -> None:
        async with sessiond.Client(server.address) as client:
            await client.delete_session(session_id)

    session_id = asyncio.run(write("one", "two\x1b[31m"))
    command = tail("--address", server.address, "--position", tmp_path / "position", session_id)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(3)]
        assert said == ["    1 session_created:\n", "    2 user: one\n", "    3 user: two[31m\n"]
        asyncio.run(delete(session_id))
        assert process.stdout.read() == "    4 session_deleted:\n"
        assert process.wait(PATIENCE) == 0


def moving(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "examples.demo.files", *map(str, arguments)]


def files(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(moving(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.mark.long
def test_files_go_in_and_out(server: Server, tmp_path: Path) -> None:
    async def create() -> str:
        async with sessiond.Client(server.address) as client:
            return (await client.create_session(active=True)).session_id

    session_id = asyncio.run(create())
    file = tmp_path / "file.bin"
    file.write_bytes(os.urandom(2_000_000))
    uploaded = files("--address", server.address, "upload", session_id, file, "--id", "a")
    assert (uploaded.returncode, uploaded.stderr) == (0, "")
    assert uploaded.stdout == "a       2,000,000  file.bin\n"
    assert files("--address", server.address, "list", session_id).stdout == uploaded.stdout
    copy = tmp_path / "copy"
    assert files("--address", server.address, "download", session_id, "a", copy).stdout == uploaded.stdout
    assert copy.read_bytes() == file.read_bytes()
    refused = files("--address", server.address, "download", session_id, "b", copy)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("files: AttachmentNotFound: ")
    if os.name == "posix":
        for command in (("upload", session_id, file), ("download", session_id, "a", copy)):
            said = on_a_terminal(moving("--address", server.address, *command))
            shares = [int(share) for share in re.findall(rb"\r\x1b\[K  \[=* *\] +(\d+) %  ", said)]
            assert shares == sorted(shares)
            assert len(shares) > 3
            assert shares[-1] == 100
            *_, last = said.split(b"\r\x1b[K")
            assert last.endswith(b"       2,000,000  file.bin\r\n"), "the bar makes room for what came of it"


def test_a_bar_shows_how_far_it_is(example: "Example") -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = example("terminal")
    out = Terminal()
    bar = terminal.Screen(out).progress_of("a\x1b[31m.bin")
    for done in (0, 500, 1000):
        bar(done, 1000)
    first, half, full = re.findall(r"\[([= ]{30})\] +(\d+) %  a\[31m\.bin", out.getvalue())
    assert first == (" " * 30, "0")
    assert half == ("=" * 15 + " " * 15, "50")
    assert full == ("=" * 30, "100")


def test_a_tail_of_nothing(server: Server) -> None:
    told = subprocess.run(
        tail("--address", server.address, "nobody"), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr == "tail: SessionNotFound: session not found\n"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a module of the examples, which no installation has on its path."""
    monkeypatch.syspath_prepend(str(ROOT))

    def load(name: str) -> ModuleType:
        from importlib import import_module

        return import_module(f"examples.demo.{name}")

    return load


Example = Callable[[str], Any]


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        *(("", 0), ("abc", 3), ("你好", 4), ("한글", 4), ("ﾊﾝ", 2)),
        *(("e\u0301", 1), ("पढ़ाई", 4), ("👨\u200d👩\u200d👧\u200d👦", 2), ("👋🏽", 2)),
    ],
)
def test_width(example: Example, text: str, columns: int) -> None:
    assert example("terminal").width(text) == columns


def test_clip_and_pad_by_columns(example: Example) -> None:
    terminal = example("terminal")
    assert terminal.clip("你好世界", 8) == "你好世界"
    assert terminal.clip("你好世界", 7) == "你好世…"
    assert terminal.clip("你好世界", 6) == "你好…"
    assert terminal.pad("你好", 6) == "你好  "
    assert terminal.pad("1", 3, right=True) == "  1"


def test_wrap(example: Example) -> None:
    wrap = example("terminal").wrap
    assert wrap("one two three", 7, 9) == ["one two", "three"]
    assert wrap("你好世界你好", 4, 9) == ["你好", "世界", "你好"]
    assert wrap("a 你好世界", 5, 9) == ["a 你", "好世", "界"]
    assert wrap("one two three four", 5, 2) == ["one", "two…"]
    assert wrap("", 5, 2) == [""]


def test_text_cannot_take_over_the_terminal(example: Example) -> None:
    assert example("terminal").printable("a\x1b[31m\r\nb\u202ec\x9bd\ufeff é") == "a[31m bcd é"


def test_turns_begin_with_the_user(example: Example) -> None:
    chats = example("chats")
    conversation = chats.load(OWN)[0]
    turns = list(chats.turns(conversation.messages))
    assert [message for turn in turns for message in turn] == conversation.messages
    assert [len(turn) for turn in turns] == [1, 9, 2, 5]
    assert all(turn[0].role == 2 for turn in turns[1:])
    many = conversation.messages[:1] * 600
    assert [len(turn) for turn in chats.turns(many)] == [256, 256, 88]


def test_the_conversations_are_varied() -> None:
    text = OWN.read_text(encoding="utf-8")
    scripts = {
        "Latin": "ß",
        "Han": "查",
        "Kana": "お",
        "Hangul": "배",
        "Arabic": "ب",
        "Devanagari": "प",
        "Cyrillic": "я",
    }
    assert not [name for name, letter in scripts.items() if letter not in text]
    conversations = [json.loads(line) for line in text.splitlines()]
    roles = {message["role"] for conversation in conversations for message in conversation["messages"]}
    assert roles == {"system", "user", "assistant", "tool"}
    assert len(conversations) == 12
