"""A turn of an agent, step by step, with a live tail beside it."""

import asyncio
import tempfile
import time
from pathlib import Path

from examples.demo.live import Patiently, Tail, TailError
from examples.demo.terminal import Columns, Screen, count, printable

import sessiond

QUESTION = "Two seats to Kyōto on the 14:05, by the window, please."
ANSWER = "There are two, 7A and 7D; shall I take them? That needs somebody's approval."
THANKS = "Booked. The ticket is attached."
TICKET = "Kyōto 14:05, platform 3\nseats 7A and 7D\n" * 20_000
TOKEN_PAUSE = 0.02
"""Seconds between two tokens."""


class Turn:
    """One run of one session: the agent here, a person who approves, and the tail in another process."""

    def __init__(
        self, client: sessiond.Client, address: str, screen: Screen, patiently: Patiently, patience: float
    ) -> None:
        self._client = client
        self._address = address
        self._screen = screen
        self._patiently = patiently
        self._patience = patience
        self._columns = Columns(screen)
        self._seq = 0
        """The session's version, as far as it was shown."""

    async def show(self) -> None:
        """Raises TailError where the tail has not everything, or the service has something else than was done."""
        client, screen = self._client, self._screen
        screen.title("An agent's turn", "a run with a lease; a tool that a person must approve; a file")
        self._columns.heads("agent", "tail")
        session = await self._patiently(
            lambda request_id: client.create_session(user_id="demo", active=True, request_id=request_id)
        )
        with tempfile.TemporaryDirectory() as folder:
            tail = Tail(self._address, session.session_id, Path(folder, "position"), self._patience)
            try:
                await tail.start()
                await self._told(tail, session.version, "a session")
                run = await self._turn(tail, session.session_id)
                await self._end(tail, session.session_id, run)
            finally:
                await tail.kill()
        screen.line()
        lost = self._seq - len(set(tail.seqs))
        verdict = f"{count(self._seq, 'event')}, {lost} lost"
        screen.line(f"  {screen.paint(verdict, 'green')}")
        if lost:
            raise TailError(f"the tail has shown {tail.seqs}, and not 1 to {self._seq}")

    async def _turn(self, tail: Tail, session_id: str) -> sessiond.LiveRun:
        client = self._client
        asked = await self._patiently(
            lambda request_id: client.append_messages(session_id, [sessiond.user(QUESTION)], request_id=request_id)
        )
        await self._told(tail, asked.version, QUESTION)
        async with client.run(session_id, agent_id="demo-agent", model="demo-1", timeout=self._patience) as run:
            await self._told(tail, run.run.version, f"begins a run, lease {run.run.lease.seconds} s")
            await self._say(tail, run, ANSWER)
            call = await run.request_tool_call(
                "book", {"train": "14:05", "seats": ["7A", "7D"]}, requires_approval=True
            )
            await self._told(tail, call.version, "asks for the tool “book”")
            approving = asyncio.create_task(self._approve(session_id, call.tool_call_id))
            decided = await run.wait_for_decision(call.tool_call_id)
            await approving
            await self._told(tail, decided.version, f"{decided.approval.approver} approves")
            call = await run.start_tool_call(call.tool_call_id)
            await self._told(tail, call.version, "starts the tool")
            call = await run.complete_tool_call(call.tool_call_id, {"booked": ["7A", "7D"]})
            await self._told(tail, call.version, "has its result")
            content = TICKET.encode()
            ticket = await run.upload(content, name="ticket.txt", progress=self._screen.progress_of("ticket.txt"))
            await self._told(tail, ticket.seq, f"attaches {ticket.name}, {ticket.size_bytes / 1e6:.1f} MB")
            if await client.download(session_id, ticket.attachment_id).read() != content:
                raise TailError("the attachment is not what was uploaded")
            await self._say(tail, run, THANKS)
            run.usage = sessiond.TokenUsage(input_tokens=912, output_tokens=34)
        assert run.finished is not None
        await self._told(tail, run.finished.version, "finishes: 912 tokens in, 34 out")
        return run

    async def _say(self, tail: Tail, run: sessiond.LiveRun, text: str) -> None:
        """Token by token: the tail shows them while they come."""
        seen = len(tail.deltas)

        async def write() -> int:
            async with run.draft(timeout=self._patience) as draft:
                for index, token in enumerate(text.split(" ")):
                    await draft.write(f" {token}" if index else token)
                    await asyncio.sleep(TOKEN_PAUSE)
            assert draft.appended is not None
            return draft.appended.version

        seq, _ = await asyncio.gather(write(), tail.until_drafted(self._seq + 1, self._columns))
        shown = len([piece for piece in tail.deltas[seen:] if piece])
        await self._told(tail, seq, text, count(shown, "piece"))

    async def _approve(self, session_id: str, tool_call_id: str) -> None:
        """Approves calls in the tenant's inbox as a person would; calls of other sessions may wait there, too."""
        async for waiting in self._client.list_pending_approvals(user_id="demo", page_size=100):
            if (waiting.session_id, waiting.tool_call_id) == (session_id, tool_call_id):
                await self._client.approve_tool_call(
                    session_id, tool_call_id, approver="ada", reason="the window, as asked"
                )
                return
        raise TailError("the tool call is not in the inbox")

    async def _end(self, tail: Tail, session_id: str, run: sessiond.LiveRun) -> None:
        client = self._client
        metrics = await client.get_session_metrics(session_id, min_version=self._seq)
        figures = (metrics.runs.completed_count, metrics.usage.total_tokens, metrics.runs.success_rate)
        if figures != (1, 946, 1.0):
            raise TailError("the metrics are not those of one run")
        deleted = await self._patiently(lambda request_id: client.delete_session(session_id, request_id=request_id))
        await self._told(tail, deleted, "(the session is deleted)")
        if status := await tail.end():
            raise TailError(f"the tail ended with status {status}")

    async def _told(self, tail: Tail, seq: int, text: str, aside: str = "") -> None:
        """Waits until the tail has the event, and shows both."""
        stored = time.perf_counter()
        await tail.until(lambda: seq in tail.seqs)
        late = f"{1000 * (time.perf_counter() - stored):.1f} ms"
        self._seq = seq
        self._columns.line(f"{seq:>5}  {printable(text)}", f"{seq:>5}  {tail.events[seq]}, {aside or late}")
