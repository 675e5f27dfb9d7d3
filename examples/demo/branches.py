"""A conversation that is forked at its third message. Both branches go on; one answer is made anew. Then one branch
moves out and in again."""

import asyncio
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from examples.demo.live import Patiently
from examples.demo.promises import expect
from examples.demo.terminal import Screen, clip, count, pad, printable

import sessiond

SAID = [
    sessiond.user("A day off: 海 or 山?"),
    sessiond.assistant("The sea is warm, the mountains are quiet."),
    sessiond.user("Which is nearer?"),
]
SEA = [
    sessiond.assistant("The sea: 40 minutes by train."),
    sessiond.user("Then the sea. ¿Y qué llevo?"),
    sessiond.assistant("Towels, and a book."),
]
MOUNTAINS = [
    sessiond.assistant("The mountains, if you take the night bus."),
    sessiond.user("Then up we go! ⛰️"),
    sessiond.assistant("Take a warm jacket."),
]
TAKEN_BACK = sessiond.assistant("Take a swimsuit.")
MAX_TOKENS = 2000
MAP = "Kamakura, platform 2\nThe beach is straight on.\n" * 20_000


class Branches:
    """A parent and its fork."""

    def __init__(self, client: sessiond.Client, screen: Screen, patiently: Patiently) -> None:
        self._client = client
        self._screen = screen
        self._patiently = patiently

    async def show(self) -> None:
        """Raises FailedError where a branch is not what was said in it, or does not come back equal."""
        screen = self._screen
        screen.title("Branches", "forked at its third message by reference; both go on, one answer is made anew")
        config = sessiond.SessionConfig(system_prompt="You plan days off.")
        parent = await self._patiently(
            lambda request_id: self._client.create_session(
                user_id="demo", name="A day off", active=True, config=config, request_id=request_id
            )
        )
        third = (await self._append(parent.session_id, SAID))[2]
        await self._append(parent.session_id, SEA[:1])
        fork = await self._patiently(
            lambda request_id: self._client.fork_session(
                parent.session_id, at=third, name="The other way", request_id=request_id
            )
        )
        await self._append(parent.session_id, SEA[1:])
        wrong = (await self._append(fork.session_id, [*MOUNTAINS[:2], TAKEN_BACK]))[2]
        await self._regenerate(fork.session_id, wrong, MOUNTAINS[2:])
        await self._context(parent.session_id, "the parent", SEA)
        await self._context(fork.session_id, "the fork", MOUNTAINS)
        await self._patiently(lambda request_id: self._client.delete_session(parent.session_id, request_id=request_id))
        left = await self._messages(fork.session_id)
        expect("the fork without its parent", texts(left), texts([*SAID, *MOUNTAINS]))
        screen.line(f"  {pad('parent deleted', 16)}the fork still has all of its {count(len(left), 'message')}")
        await self._move(fork.session_id)

    async def _regenerate(self, session_id: str, message_id: str, answer: list[sessiond.Message]) -> None:
        """Takes an answer back and gives another one."""
        before = await self._patiently(
            lambda request_id: self._client.regenerate(session_id, message_id, request_id=request_id)
        )
        expect("what is left", before.message_count, len(SAID) + len(MOUNTAINS) - 1)
        await self._append(session_id, answer)
        hidden = await self._patiently(lambda _: self._client.get_message(session_id, message_id, consistency="strong"))
        expect("the answer that was taken back", hidden.rewound, True)
        taken, given = (clip(printable(sessiond.text_of(one)), 30) for one in (hidden, answer[0]))
        self._screen.line(f"  {pad('made anew', 16)}{taken} → {given}")

    async def _context(self, session_id: str, name: str, own: list[sessiond.Message]) -> None:
        """Shows what a model would get: the shared messages, and the branch's own ones."""
        context = await self._patiently(
            lambda _: self._client.get_context(session_id, max_tokens=MAX_TOKENS, consistency="strong")
        )
        expect(f"the context of {name}", texts(context.messages), texts([*SAID, *own]))
        expect("its size", context.token_count <= MAX_TOKENS, True)
        figures = f"{count(len(context.messages), 'message')}, {context.token_count} of {MAX_TOKENS:,} tokens: "
        shown = clip(printable(" · ".join(texts(own))), self._screen.columns - 18 - len(figures))
        self._screen.line(f"  {self._screen.paint(pad(name, 16), 'green')}{figures}{shown}")

    async def _move(self, session_id: str) -> None:
        """Exports the session with an attachment, deletes it, and imports it under another id: a deleted one is not
        free yet."""
        client, screen = self._client, self._screen
        screen.title("Moved", "exported, deleted, imported under another id")
        file = await client.upload(
            session_id, MAP.encode(), name="map.txt", attachment_id="map", progress=screen.progress_of("map.txt")
        )
        before = await self._messages(session_id)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "export.jsonl")
            started = time.perf_counter()
            lines = await client.export_session(session_id, path)
            size = (await asyncio.to_thread(path.stat)).st_size
            figures = f"{count(lines, 'line')}, {size / 1e6:.1f} MB, {_since(started)}"
            screen.line(f"  {pad('export', 16)}{figures}")
            await self._patiently(lambda request_id: client.delete_session(session_id, request_id=request_id))
            moved = f"{session_id}-moved"
            started = time.perf_counter()
            session = (await client.import_session(path, session_id=moved)).session
            screen.line(f"  {pad('import', 16)}{moved}, version {session.version}, {_since(started)}")
        after = await self._messages(moved)
        for message in (*before, *after):
            message.ClearField("session_id")
        expect("the messages that were imported", after, before)
        expect("its attachment", await client.download(moved, file.attachment_id).read(), MAP.encode())
        equal = f"{count(len(after), 'message')} and an attachment of {file.size_bytes / 1e6:.1f} MB: all equal"
        screen.line(f"  {screen.paint(equal, 'green')}, and still a fork, at seq {session.forked_from.seq}")

    async def _append(self, session_id: str, messages: list[sessiond.Message]) -> list[str]:
        """Returns their ids."""
        answer = await self._patiently(
            lambda request_id: self._client.append_messages(session_id, messages, request_id=request_id)
        )
        return list(answer.message_ids)

    async def _messages(self, session_id: str) -> list[sessiond.Message]:
        async def read(_: str) -> list[sessiond.Message]:
            pages = self._client.list_messages(session_id, page_size=100, consistency="strong")
            return [message async for message in pages]

        return await self._patiently(read)


def texts(messages: Iterable[sessiond.Message]) -> list[str]:
    return [sessiond.text_of(message) for message in messages]


def _since(started: float) -> str:
    return f"{1000 * (time.perf_counter() - started):.0f} ms"
