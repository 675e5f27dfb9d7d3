"""Summaries that a running service makes: by a server that behaves or does not, by a plug, across kills."""

import asyncio
import gzip
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

import sessiond
from sessiond.v1.message_pb2 import Message, Part, Role
from sessiond_server.app.summariser import opened_summariser
from sessiond_server.settings import SettingError, load
from sessiond_server.summaries.chat import ANSWER_BYTES, AnswerUnusable, opened
from sessiond_server.summaries.contract import GROUP, Conversation, SummariserUnavailable
from tests.support.chat_server import answer, chat_server, completion
from tests.support.rows import table
from tests.support.serve_process import Serving, serving
from tests.support.transactions import connected
from tests.support.waiting import PATIENCE, until

SAID = (
    Message(role=Role.ROLE_USER, parts=[Part(text="Two seats to Nara, please. 奈良まで二席 🚄")]),
    Message(role=Role.ROLE_ASSISTANT, parts=[Part(text="Booked: 7A and 7B.")]),
)
CONVERSATION = Conversation("tenant", "s", "They greeted each other.", SAID)
SOON = ("--summary-messages", "2", "--summary-keep", "0")


async def endless() -> AsyncIterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    while True:
        yield b"10000\r\n" + b"x" * 0x10000 + b"\r\n"


async def test_chat_server_gets_the_conversation_and_its_answer_is_taken_over() -> None:
    async with (
        chat_server(lambda *_: answer(completion(" Two seats to Nara. "))) as server,
        opened(server.url, "small", "a-key", seconds=PATIENCE, message_tokens=1000) as summariser,
    ):
        written = await summariser.summarise(CONVERSATION)
        assert (written.text, written.model) == ("Two seats to Nara.", "small-1")
        assert (written.usage.input_tokens, written.usage.output_tokens) == (11, 3)
        ((headers, body),) = server.requests
        assert headers["authorization"] == "Bearer a-key"
        assert body["model"] == "small"
        system, user = body["messages"]
        assert (system["role"], user["role"]) == ("system", "user")
        for said in (
            "They greeted each other.",
            "user: Two seats to Nara, please. 奈良まで二席 🚄",
            "assistant: Booked",
        ):
            assert said in user["content"]


async def test_rude_chat_servers_raise_what_says_whether_to_come_again_later() -> None:
    """And nothing of the answer, or of the request, is in the error's text where it is logged by its type."""
    unavailable: tuple[tuple[bytes, float | None], ...] = (
        (answer(b"busy", "429 Too Many Requests", "Retry-After: 17"), 17.0),
        (answer(b"busy", "429 Too Many Requests", "Retry-After: soon"), None),
        (answer(b"busy", "503 Service Unavailable", "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT"), 0.0),
        (answer(b"oops", "500 Internal Server Error"), None),
        (b"nonsense\r\n\r\n", None),
    )
    bad: tuple[Any, ...] = (
        answer(b"not JSON"), answer([]), answer({}), answer(completion(None)), answer(completion("  ")),
        answer(completion(["a"])), answer({"choices": "none"}), answer(completion("ok", choices=[{}])),
        answer(completion("x", choices=[{"message": {"content": "half a"}, "finish_reason": "length"}])),
        answer({"error": "no such model"}, "404 Not Found"), answer(b"", "302 Found", "Location: http://example.com"),
        answer(b" " * (ANSWER_BYTES + 1)), answer(gzip.compress(b" " * 2**24), "200 OK", "Content-Encoding: gzip"),
    )  # fmt: skip
    sent: list[Any] = []

    async with (
        chat_server(lambda *_: sent[-1] if isinstance(sent[-1], bytes) else sent[-1]()) as server,
        opened(server.url, "small", "a-key", seconds=PATIENCE, message_tokens=1000) as summariser,
    ):
        with table() as rows:
            for one, retry_after in unavailable:
                with rows.row(one[:60]):
                    sent.append(one)
                    with pytest.raises(SummariserUnavailable) as caught:
                        await summariser.summarise(CONVERSATION)
                    assert caught.value.retry_after == retry_after
            for one in (*bad, endless):
                with rows.row(one[:60] if isinstance(one, bytes) else one):
                    sent.append(one)
                    with pytest.raises((AnswerUnusable, openai.OpenAIError, ValueError, AttributeError)):
                        await summariser.summarise(CONVERSATION)
        sent.append(answer(completion("odd", usage={"prompt_tokens": "many"}, model=7)))
        written = await summariser.summarise(CONVERSATION)
        assert (written.text, written.model, written.usage.input_tokens) == ("odd", "small", 0)
    with pytest.raises(SummariserUnavailable):
        async with opened(server.url, "small", "a-key", seconds=PATIENCE, message_tokens=1000) as summariser:
            await summariser.summarise(CONVERSATION)  # nobody listens there any more


async def test_settings_of_summarisers_are_checked_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "key").write_text("secret-key\n")
    (tmp_path / "two").write_text("hunter2\nhunter2\n")
    chat = {"summariser": "chat", "summary_url": "http://127.0.0.1:1/v1", "summary_model": "m"}
    with table() as rows:
        for flags, error in (
            ({}, None),
            ({"summariser": "extractive"}, None),
            (chat, None),
            ({**chat, "summary_key_file": str(tmp_path / "key")}, None),
            ({**chat, "summary_key_file": str(tmp_path / "none")}, FileNotFoundError),
            ({**chat, "summary_key_file": str(tmp_path / "two")}, SettingError),
            ({**chat, "summary_model": None}, SettingError),
            ({"summariser": "chat"}, SettingError),
            ({"summariser": "no-such-plug"}, SettingError),
            ({"summariser": "extractive", "summary_messages": "5", "summary_keep": "5"}, SettingError),
            ({"summariser": "extractive", "summary_messages": "0", "summary_keep": "5"}, None),
        ):
            with rows.row(flags):
                settings = load(flags, {"HOME": "/home/ada"})
                if error is None:
                    async with opened_summariser(settings) as summariser:
                        assert (summariser is None) == (not flags)
                else:
                    with pytest.raises(error) as caught:
                        async with opened_summariser(settings):
                            pass
                    assert "hunter2" not in str(caught.value)


PLUG = """
from contextlib import asynccontextmanager
from sessiond_server.summaries.contract import Written

class Plug:
    closed = False

    async def summarise(self, conversation):
        return Written(f"{len(conversation.messages)} of {conversation.session_id}")

plug = Plug()

@asynccontextmanager
async def opened():
    yield plug
    Plug.closed = True
"""


async def test_installed_package_is_a_summariser_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sessiond_test_plug.py").write_text(PLUG)
    (folder := tmp_path / "sessiond_test_plug-1.0.dist-info").mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: sessiond-test-plug\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(f"[{GROUP}]\nmy-model = sessiond_test_plug:opened\n")
    monkeypatch.syspath_prepend(tmp_path)
    async with opened_summariser(load({"summariser": "my-model"}, {"HOME": "/home/ada"})) as summariser:
        assert summariser is not None
        assert (await summariser.summarise(CONVERSATION)).text == "2 of s"
    assert vars(type(summariser))["closed"] is True


async def summaries(server: Serving, session_id: str) -> list[Any]:
    async with sessiond.Client(server.target) as client:
        return [one async for one in client.list_summaries(session_id)]


@pytest.mark.long
async def test_service_summarises_by_itself_while_the_model_answers_rudely(tmp_path: Path) -> None:
    """Nothing but summaries is late, and no content is logged."""
    slow = [answer(b"marker", "500 marker")]

    def script(_: Any, body: Any) -> bytes | None:
        if "silent" in body["messages"][1]["content"]:
            return None
        return slow.pop() if slow else answer(completion("A summary."))

    async with (
        chat_server(script) as chat,
        serving(
            "--store", "memory", "--metrics-listen", "127.0.0.1:0", "--summariser", "chat", "--summary-url", chat.url,
            "--summary-model", "small", "--log-level", "debug", *SOON,
        ) as server,
        sessiond.Client(server.target) as client,
    ):  # fmt: skip
        for number in range(6):
            text = "marker silent" if number == 0 else "marker"
            session = await client.create_session(session_id=f"s{number}", active=True)
            await client.append_messages(session.session_id, [sessiond.user(text), sessiond.assistant(text)])

        async def made() -> bool:
            return sum([len(await summaries(server, f"s{number}")) for number in range(6)]) >= 4

        await until(made)
        await client.append_messages("s0", [sessiond.user("marker")])
        counted = await server.metrics()
        assert counted["sessiond_summaries_total unavailable"] >= 1
        assert counted["sessiond_summaries_total written"] >= 4
        assert counted["sessiond_summaries_in_progress"] >= 1
        assert await server.stop() == 0
        assert "marker" not in server.log.read_text()


@pytest.mark.long
async def test_kill_while_the_model_answers_leaves_one_summary(postgres_dsn: str) -> None:
    silent = True

    def script(*_: Any) -> bytes | None:
        return None if silent else answer(completion("A summary."))

    async with chat_server(script) as chat, connected(postgres_dsn) as database:
        arguments = (
            "--postgres-dsn", postgres_dsn, "--summariser", "chat", "--summary-url", chat.url, "--summary-model", "m",
            *SOON,
        )  # fmt: skip
        async with serving(*arguments) as killed, sessiond.Client(killed.target) as client:
            await until(lambda: database.fetchval("select exists (select from summary_feeds)"))
            await client.create_session(session_id="s", active=True)
            await client.append_messages("s", [sessiond.user("a"), sessiond.assistant("b")])
            async with asyncio.timeout(PATIENCE):
                await chat.arrived.wait()
            assert await killed.stop(signal.SIGKILL) == -signal.SIGKILL
        silent = False
        async with serving(*arguments) as server, serving(*arguments) as other:
            assert await database.fetchval("select due_time > clock_timestamp() from summary_work")
            await database.execute("update summary_work set due_time = clock_timestamp()")

            async def made() -> bool:
                return bool(await summaries(server, "s"))

            await until(made)
            await until(lambda: database.fetchval("select due_time is null from summary_work"))
            assert [one.text for one in await summaries(other, "s")] == ["A summary."]
        assert len(chat.requests) == 2
