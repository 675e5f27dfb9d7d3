"""The steps of the demo, and what they print."""

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from examples.demo import chats
from examples.demo.branches import Branches
from examples.demo.chats import Conversation
from examples.demo.ledger import Ledger
from examples.demo.live import Live
from examples.demo.promises import FailedError, expect
from examples.demo.search import Place, Search
from examples.demo.terminal import Screen, clip, count, pad, printable, width, wrap
from examples.demo.turn import Turn

import sessiond

T = TypeVar("T")
Item = TypeVar("Item")

ROWS = 14
"""Maximum rows of a table; longer tables are cut in the middle."""
SLOW = 2.0
"""Seconds without an answer after which the demo prints that it waits."""
ROLE_STYLES: dict[str, tuple[str, ...]] = {
    "system": ("dim",),
    "user": ("cyan",),
    "assistant": ("green",),
    "tool": ("yellow",),
}


@dataclass(slots=True)
class Stored:
    """A conversation in its session."""

    conversation: Conversation
    session_id: str
    name: str = ""
    renamed: bool = False
    version: int = 0
    seconds: list[float] = field(default_factory=list)
    """Of each append."""

    @property
    def tool_calls(self) -> int:
        return sum(len(chat.get("tool_calls") or ()) for chat in self.conversation.chats)


class Demo:
    """One run: a client, a screen, and a label that its sessions share."""

    def __init__(
        self, client: sessiond.Client, address: str, screen: Screen, book: Ledger, *, patience: float, at_once: int
    ) -> None:
        self._client = client
        self._address = address
        self._screen = screen
        self._book = book
        self._patience = patience
        self._at_once = at_once
        self._labels = {"demo": f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.urandom(3).hex()}"}
        self._away = False

    async def tell(self, conversations: Sequence[Conversation]) -> None:
        """The whole story. Raises FailedError where a promise is broken."""
        stored = await self._store(conversations)
        self._show(next((s.conversation for s in stored if s.tool_calls), stored[0].conversation))
        if any(s.conversation.chats for s in stored):
            await self._pages(max(stored, key=lambda s: len(s.conversation.chats)))
        await self._life(next((s for s in stored if s.conversation.chats), stored[0]))
        await self._lists(stored)
        places = [Place(s.conversation, s.session_id, s.version) for s in stored]
        await Search(self._client, self._screen, self._patiently, self._patience, self._labels).show(places)
        await Branches(self._client, self._screen, self._patiently).show()
        await Live(self._client, self._address, self._screen, self._patiently, self._patience).show()
        await Turn(self._client, self._address, self._screen, self._patiently, self._patience).show()
        await self._read_back(stored)

    # Store the conversations.

    async def _store(self, conversations: Sequence[Conversation]) -> list[Stored]:
        screen = self._screen
        total = sum(len(c.chats) for c in conversations)
        done = 0

        async def store(conversation: Conversation) -> Stored:
            nonlocal done
            stored = Stored(conversation, await self._create(conversation))
            for turn in chats.turns(conversation.messages):
                await self._append(stored, turn)
                done += len(turn)
                screen.progress(f"storing: {done:,} of {total:,} messages")
            stored.name = (await self._patiently(lambda _: self._client.get_session(stored.session_id))).name
            return stored

        started = time.perf_counter()
        stored = await self._gather(store, conversations)
        elapsed = time.perf_counter() - started
        screen.title("Stored", "a session for each conversation, an append for each turn, the first question as name")
        head = ("messages", "calls", "appends", " median")
        rows = [
            (
                printable(s.conversation.id),
                (
                    f"{len(s.conversation.chats):,}",
                    f"{s.tool_calls or '-'}",
                    f"{len(s.seconds):,}",
                    f"{1000 * statistics.median(s.seconds):.1f} ms" if s.seconds else "-",
                ),
                printable(s.name) or "(no name)",
            )
            for s in stored
        ]
        first = min(24, max(len("conversation"), *(width(row[0]) for row in rows)))
        titles = "  ".join(pad(title, len(title), right=True) for title in head)
        screen.line(screen.paint(f"  {pad('conversation', first)}  {titles}  name", "dim"))
        for row in _middle_out(rows):
            if row is None:
                screen.line(screen.paint(f"  … {len(rows) - ROWS} more", "dim"))
                continue
            figures = "  ".join(pad(cell, len(title), right=True) for cell, title in zip(row[1], head, strict=True))
            # The name comes last: whichever way its script runs, and however wide its emoji are, nothing follows it.
            name = clip(row[2], screen.columns - first - len(titles) - 6)
            screen.line(f"  {pad(clip(row[0], first), first)}  {figures}  {screen.paint(name, 'cyan')}")
        seconds = sorted(second for s in stored for second in s.seconds)
        if seconds:
            screen.line()
            screen.line(
                f"  {count(total, 'message')} in {count(len(seconds), 'append')}, {elapsed:.2f} s: "
                f"{_figure(total / elapsed)} messages/s, {count(self._at_once, 'session')} at a time; "
                f"{1000 * statistics.median(seconds):.1f} ms an append (median), "
                f"{1000 * seconds[int(0.99 * (len(seconds) - 1))]:.1f} ms (99 %)"
            )
        return stored

    async def _create(self, conversation: Conversation) -> str:
        session = await self._patiently(
            lambda request_id: self._client.create_session(
                user_id="demo",
                agent_id="demo-agent",
                active=True,
                labels=self._labels,
                metadata={"conversation": conversation.id},
                request_id=request_id,
            )
        )
        return session.session_id

    async def _append(self, stored: Stored, turn: Sequence[sessiond.Message]) -> None:
        started = time.perf_counter()
        answer = await self._patiently(
            lambda request_id: self._client.append_messages(stored.session_id, turn, request_id=request_id)
        )
        stored.seconds.append(time.perf_counter() - started)
        self._book.acknowledged(stored.session_id, answer.first_seq, answer.message_ids, turn)
        stored.version = answer.version

    def _show(self, conversation: Conversation) -> None:
        screen = self._screen
        shown = conversation.chats[:8]
        more = len(conversation.chats) - len(shown)
        screen.title("A conversation", printable(conversation.id))
        for chat in shown:
            role = chat["role"]
            said = _said(chat)
            lines: list[tuple[str, tuple[str, ...]]] = []
            if said:
                lines += ((line, ()) for line in wrap(said, screen.columns - 13, 3))
            for call in chat.get("tool_calls") or ():
                function = call["function"]
                text = printable(f"→ {function['name']} {function.get('arguments') or ''}")
                lines.append((clip(text, screen.columns - 13), ("dim",)))
            if role == "tool" and chat.get("name"):
                lines = [(clip(f"← {printable(chat['name'])}: {_said(chat)}", screen.columns - 13), ("dim",))]
            for index, (text, styles) in enumerate(lines or [("(empty)", ("dim",))]):
                label = pad(role if index == 0 else "", 9)
                screen.line(f"  {screen.paint(label, *ROLE_STYLES.get(role, ()))}  {screen.paint(text, *styles)}")
        if more > 0:
            screen.line(screen.paint(f"  {pad('', 9)}  … {more} more", "dim"))

    # Work with the sessions.

    async def _pages(self, stored: Stored) -> None:
        """Forward page by page, back from the last page, and newest first: the same messages each time."""
        screen, session_id = self._screen, stored.session_id
        everything = [message.message_id async for message in self._client.list_messages(session_id, page_size=1000)]
        size = max(1, -(-len(everything) // 4))
        whole = count(len(everything), "message")
        screen.title("Pages", f"{whole} of {printable(stored.conversation.id)}, {size} a page")
        place = {message_id: index + 1 for index, message_id in enumerate(everything)}

        def told(name: str, pages: list[list[str]]) -> None:
            spans = "   ".join(f"{place[page[0]]}-{place[page[-1]]}" if page else "none" for page in pages)
            screen.line(f"  {pad(name, 14)}{spans}")

        forward, last_token = [], ""
        async for page in self._client.list_messages(session_id, page_size=size).pages():
            forward.append([message.message_id for message in page.messages])
            last_token = page.previous_page_token
        told("oldest first", forward)
        back = []
        if last_token:
            turned = self._client.list_messages(session_id, page_size=size, page_token=last_token)
            async for page in turned.pages(back=True):
                back.append([message.message_id for message in page.messages])  # noqa: PERF401
            told("and back", back)
        newest = []
        async for page in self._client.list_messages(session_id, page_size=size, order_by="newest_first").pages():
            newest.append([message.message_id for message in page.messages])  # noqa: PERF401
        told("newest first", newest)
        expect("pages forward", _flat(forward), everything)
        expect("pages back", _flat([*reversed(back), *forward[-1:]]), everything)
        expect("pages, newest first", _flat(newest), everything[::-1])

    async def _life(self, stored: Stored) -> None:
        client, session_id = self._client, stored.session_id
        self._screen.title("A session's life", session_id)
        session = await client.get_session(session_id, min_version=stored.version)
        self._did("as stored", session)
        stale = session.version
        name = f"{clip(session.name or 'A conversation', 50)} (renamed)"
        session = await client.update_session(session_id, name=name, expected_version=stale)
        self._did("rename", session, f"“{printable(session.name)}”")
        expect("the name", session.name, name)
        await self._refused(
            sessiond.VersionMismatch,
            "rename again",
            client.update_session(session_id, name="too late", expected_version=stale),
        )
        self._did("suspend", await client.suspend_session(session_id))
        one_more = [sessiond.user("Are you still there?")]
        await self._refused(sessiond.SessionNotActive, "append", client.append_messages(session_id, one_more))
        self._did("resume", await client.resume_session(session_id))
        await self._refused(sessiond.IllegalTransition, "resume again", client.resume_session(session_id))
        session = await client.end_session(session_id, reason="completed")
        self._did("end", session, "completed")
        expect("end once more", (await client.end_session(session_id)).version, session.version)
        await self._refused(sessiond.SessionEnded, "append", client.append_messages(session_id, one_more))
        expect("its messages", session.message_count, len(stored.conversation.chats))
        stored.name, stored.renamed = session.name, True

    def _did(self, what: str, session: sessiond.Session, aside: str = "") -> None:
        status = sessiond.SessionStatus.Name(session.status).removeprefix("SESSION_STATUS_")
        figures = f"version {session.version:>4}"
        self._screen.line(f"  {pad(what, 14)}{self._screen.paint(pad(status, 11), 'green')}{figures}   {aside}")

    async def _refused(self, kind: type[sessiond.SessiondError], what: str, call: Coroutine[Any, Any, object]) -> None:
        """A call that the service must refuse, with the error that says why."""
        try:
            await call
        except kind as error:
            painted = self._screen.paint(pad("refused", 11), "yellow")
            self._screen.line(f"  {pad(what, 14)}{painted}{kind.__name__}: {error.message}")
        else:
            raise FailedError(f"{what}: should have been refused with {kind.__name__}")

    async def _lists(self, stored: Sequence[Stored]) -> None:
        screen, client = self._screen, self._client
        mine = {s.session_id for s in stored}
        screen.title("Lists", f"sessions labelled demo={self._labels['demo']}")
        pages, names, listed = 0, list[str](), set[str]()
        async for page in client.list_sessions(labels=self._labels, order_by="name_asc", page_size=10).pages():
            pages += 1
            listed |= {session.session_id for session in page.sessions}
            names += [session.name for session in page.sessions]
        expect("the list", listed, mine)
        expect("the list's order", names, sorted(names))
        counted = await client.count_sessions(labels=self._labels)
        expect("the count", counted, len(mine))
        ended = await client.count_sessions(labels=self._labels, statuses=["ended"])
        expect("the count of ended ones", ended, 1)
        renamed = next(s for s in stored if s.renamed)
        found = client.list_sessions(labels=self._labels, name_contains="(RENAMED")
        expect("the search by name", renamed.session_id in [session.session_id async for session in found], True)
        screen.line(f"  {pad('by label', 14)}{count(counted, 'session')} on {count(pages, 'page')}, sorted by name")
        screen.line(f"  {pad('by status', 14)}{ended} ended, {counted - ended} active")
        screen.line(f"  {pad('by name', 14)}“(RENAMED” finds “{clip(printable(renamed.name), screen.columns - 38)}”")

    async def _read_back(self, stored: Sequence[Stored]) -> None:
        """Every message of every conversation, equal to what the file says."""
        screen = self._screen
        done = 0

        async def read(s: Stored) -> None:
            nonlocal done
            pages = self._client.list_messages(s.session_id, page_size=200, consistency="strong")
            messages = await self._patiently(lambda _: _collect(pages))
            expect(f"the number of messages of {s.conversation.id}", len(messages), len(s.conversation.chats))
            for index, (chat, message) in enumerate(zip(s.conversation.chats, messages, strict=True)):
                if not chats.same(chat, message):
                    raise FailedError(f"{s.conversation.id}: message {index + 1} is not what was stored")
            done += len(messages)
            screen.progress(f"reading back: {done:,} messages")

        started = time.perf_counter()
        await self._gather(read, stored)
        elapsed = time.perf_counter() - started
        screen.title("Read back")
        equal = f"{count(done, 'message')} of {count(len(stored), 'conversation')}: all equal"
        screen.line(f"  {screen.paint(equal, 'green')}, {elapsed:.2f} s, {_figure(done / elapsed)} messages/s")
        screen.line()

    async def _gather(self, work: Callable[[Item], Coroutine[Any, Any, T]], items: Sequence[Item]) -> list[T]:
        """Does the work for all items, some at a time; results in order. The first failure stops the rest."""
        room = asyncio.Semaphore(self._at_once)

        async def one(item: Item) -> T:
            async with room:
                return await work(item)

        tasks = [asyncio.create_task(one(item)) for item in items]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _patiently(self, call: Callable[[str], Awaitable[T]]) -> T:
        """Retries a call while the server is down, always with the same request id, so that it acts once."""
        request_id = sessiond.new_request_id()
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._patience
        while True:
            notice = loop.call_later(SLOW, self._say_away)
            try:
                result = await call(request_id)
            except (sessiond.Unavailable, sessiond.DeadlinePassed, sessiond.QueueFull) as error:
                if loop.time() >= give_up:
                    raise
                await asyncio.sleep(error.retry_after or 0.25)
            else:
                self._say_back()
                return result
            finally:
                notice.cancel()

    def _say_away(self) -> None:
        if not self._away:
            self._away = True
            self._screen.line(self._screen.paint("  the server is away; waiting for it", "yellow"))

    def _say_back(self) -> None:
        if self._away:
            self._away = False
            self._screen.line(self._screen.paint("  it is back", "green"))


async def _collect(pages: "sessiond.Pages[Any, T]") -> list[T]:
    return [item async for item in pages]


def _said(chat: chats.Chat) -> str:
    """A message's text on one line."""
    content = chat.get("content")
    if isinstance(content, list):
        content = " ".join(str(item.get("text") or f"[{item.get('type')}]") for item in content)
    return printable(content or "")


def _flat(pages: Sequence[Sequence[str]]) -> list[str]:
    return [item for page in pages for item in page]


def _middle_out(rows: Sequence[T]) -> list[T | None]:
    """All rows, or the first and the last ones with None for those between."""
    if len(rows) <= ROWS:
        return list(rows)
    return [*rows[: ROWS - 2], None, *rows[-2:]]


def _figure(number: float) -> str:
    """Three digits that count."""
    return f"{round(number, 2 - len(str(int(number))) + 1):,.0f}" if number >= 1 else f"{number:.2f}"
