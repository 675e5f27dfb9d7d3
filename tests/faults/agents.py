"""Agents that work on shared sessions, and people who decide on their tool calls; records what the service answered.

Some agents fall silent in the middle of a run. Once its lease must be over they come back and write with the fence they
had: each such write must be refused.
"""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import sessiond
from sessiond.fields import RunPolicyLike, RunStatusLike, ToolCallExpireActionLike
from sessiond.v1.run_pb2 import Run, RunStatus
from sessiond.v1.session_pb2 import TokenUsage
from sessiond.v1.tool_call_pb2 import ToolCall
from sessiond_server.domain.times import microseconds

T = TypeVar("T")

AWAY = (sessiond.Unavailable, sessiond.DeadlinePassed, sessiond.Exhausted)
"""What a fault explains: the same call is made again."""
MARGIN = 0.05
"""Seconds between the end of a lease and the write that must be refused: clocks of one machine may differ a little."""
TTL = 2.0
"""Seconds: the longest time for which a call waits for its approval, where it does not wait for ever."""

ACTIONS: tuple[ToolCallExpireActionLike, ...] = ("reject", "fail")

RunKey = tuple[str, str]
"""Session and id of a run."""


@dataclass
class Account:
    """What writers were told, by session."""

    acked: defaultdict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    """Request id -> the version that the acknowledgement named; 0: it named none of its own."""
    carried: defaultdict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    """Request id of every write that carried a fence -> its run."""
    promised: defaultdict[RunKey, int] = field(default_factory=lambda: defaultdict(int))
    """The end of the lease according to the last heartbeat, in microseconds of the database's clock."""
    unsure: set[RunKey] = field(default_factory=set)
    """Runs with a heartbeat that was not answered: the lease may last longer than anybody was told."""
    breaches: list[str] = field(default_factory=list)
    """Writes with a fence that was over, and were not refused."""
    refused: int = 0
    """Those that were."""
    retries: int = 0
    runs: int = 0
    """Begun."""

    @property
    def count(self) -> int:
        return sum(map(len, self.acked.values()))


class Agents:
    """`each` agents at each of the sessions, and one person for all of them. Runs until stopped."""

    def __init__(
        self, clients: Sequence[sessiond.Client], sessions: Sequence[str], *, each: int, lease: float, seed: int
    ) -> None:
        """`clients`: one for each replica; every attempt takes any of them. `lease`: seconds."""
        self.account = Account()
        self._clients = clients
        self._sessions = sessions
        self._each = each
        self._lease = lease
        self._chance = random.Random(seed)
        self._stopped = asyncio.Event()
        self._reached: tuple[int, asyncio.Event] = (0, asyncio.Event())

    async def run(self) -> None:
        """Returns once stopped, every call has been answered, and the silent ones have come back."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._person(tasks))
            for session_id in self._sessions:
                for _ in range(self._each):
                    tasks.create_task(self._agent(session_id, tasks))

    def stop(self) -> None:
        self._stopped.set()

    async def acknowledged(self, more: int) -> None:
        """Returns once so many more writes have been acknowledged."""
        self._reached = (self.account.count + more, asyncio.Event())
        await self._reached[1].wait()

    async def _agent(self, session_id: str, tasks: asyncio.TaskGroup) -> None:
        while not self._stopped.is_set():
            try:
                run = await self._begin(session_id)
            except (sessiond.RunInProgress, sessiond.SessionNotActive):
                await self._pause(0.3)
                continue
            self.account.runs += 1
            live = await self._turn(run)
            if live is None:
                continue
            over_by = asyncio.get_running_loop().time() + self._lease
            try:
                over_by = await self._work(live, over_by)
            except sessiond.RunFenced:
                over_by = 0.0
            tasks.create_task(self._haunt(live, over_by))

    async def _begin(self, session_id: str) -> Run:
        policy: RunPolicyLike = self._chance.choice(("reject", "enqueue", "enqueue", "interrupt"))
        return await self._write(
            session_id,
            lambda client, request_id: client.begin_run(
                session_id, policy=policy, lease=self._lease, request_id=request_id
            ),
        )

    async def _turn(self, run: Run) -> Run | None:
        """The run once it is live; None when it ended before."""
        session_id, run_id = run.session_id, run.run_id
        while run.status == RunStatus.RUN_STATUS_QUEUED:
            if self._stopped.is_set():
                await self._cancel(session_id, run_id)
                return None
            await asyncio.sleep(0.1)
            run = await self._ask(lambda client: client.get_run(session_id, run_id, consistency="strong"))
        return run if run.status == RunStatus.RUN_STATUS_RUNNING else None

    async def _cancel(self, session_id: str, run_id: str) -> None:
        """Unless it is over."""
        try:
            await self._write(
                session_id, lambda client, request_id: client.cancel_run(session_id, run_id, request_id=request_id)
            )
        except sessiond.Refused:
            await self._pause(0.1)

    async def _work(self, run: Run, over_by: float) -> float:
        """A turn, to its end or to silence. By when the run is over, as a time of the loop. Raises RunFenced."""
        loop, session_id = asyncio.get_running_loop(), run.session_id
        for _ in range(self._chance.randrange(1, 8)):
            await self._pause(0.1)
            what = self._chance.random()
            if what < 0.4:
                await self._append(run)
            elif what < 0.5:
                await self._heartbeat(run)
                over_by = loop.time() + self._lease
            elif what < 0.85:
                await self._request(run)
            else:
                await self._carry_out(run)
        end = self._chance.random()
        if end < 0.25:
            return over_by
        if end < 0.35:
            await self._cancel(session_id, run.run_id)
        else:
            await self._finish(run)
        return over_by if end < 0.35 else 0.0

    async def _append(self, run: Run) -> None:
        session_id = run.session_id
        usage = TokenUsage(input_tokens=3, output_tokens=2)
        message = sessiond.user("at work")
        message.usage.CopyFrom(usage)
        await self._write(
            session_id,
            lambda client, request_id: client.append_messages(session_id, [message], run=run, request_id=request_id),
            run,
        )

    async def _heartbeat(self, run: Run) -> None:
        key = (run.session_id, run.run_id)
        while True:
            try:
                answer = await self._chance.choice(self._clients).heartbeat_run(run.session_id, run)
            except AWAY:
                self.account.unsure.add(key)
                await asyncio.sleep(0.05)
            else:
                until = microseconds(answer.lease_expire_time)
                self.account.promised[key] = max(self.account.promised[key], until)
                return

    async def _request(self, run: Run) -> None:
        session_id, wants_approval = run.session_id, self._chance.random() < 0.4
        ttl = self._chance.choice((None, 1.0, TTL)) if wants_approval else None
        what = None if ttl is None else self._chance.choice(ACTIONS)
        try:
            call = await self._write(
                session_id,
                lambda client, request_id: client.request_tool_call(
                    session_id, "search", {"query": "work"}, requires_approval=wants_approval, run=run,
                    approval_ttl=ttl, expire_action=what, request_id=request_id,
                ),
                run,
            )  # fmt: skip
        except sessiond.ToolCallLimitReached:
            return
        if not wants_approval and self._chance.random() < 0.8:
            await self._start(run, call)

    async def _carry_out(self, run: Run) -> None:
        """Returns a call that has been approved, of any run."""
        page = await self._ask(
            lambda client: client.list_tool_calls(run.session_id, statuses=["approved"], page_size=5).page()
        )
        if page.tool_calls:
            await self._start(run, self._chance.choice(page.tool_calls))

    async def _start(self, run: Run, call: ToolCall) -> None:
        session_id, tool_call_id = call.session_id, call.tool_call_id
        try:
            await self._write(
                session_id,
                lambda client, request_id: client.start_tool_call(
                    session_id, tool_call_id, run=run, request_id=request_id
                ),
                run,
            )
            await self._pause(0.05)
            what = self._chance.random()
            if what < 0.5:
                await self._write(
                    session_id,
                    lambda client, request_id: client.complete_tool_call(
                        session_id, tool_call_id, "found", run=run, request_id=request_id
                    ),
                    run,
                )
            elif what < 0.7:
                await self._write(
                    session_id,
                    lambda client, request_id: client.fail_tool_call(
                        session_id, tool_call_id, "none", run=run, request_id=request_id
                    ),
                    run,
                )
        except sessiond.IllegalToolCallTransition:
            return  # another one was there first

    async def _finish(self, run: Run) -> None:
        session_id = run.session_id
        status: RunStatusLike = "completed" if self._chance.random() < 0.8 else "failed"
        await self._write(
            session_id,
            lambda client, request_id: client.finish_run(
                session_id, run, status=status, usage=TokenUsage(input_tokens=7, output_tokens=5), request_id=request_id
            ),
            run,
        )

    async def _haunt(self, run: Run, over_by: float) -> None:
        """Comes back once the run must be over: nothing that carries its fence may be taken any more."""
        loop, session_id = asyncio.get_running_loop(), run.session_id
        await asyncio.sleep(max(0.0, over_by - loop.time() + MARGIN) if over_by else 0.0)
        writes: dict[str, Callable[[sessiond.Client], Awaitable[object]]] = {
            "append": lambda client: client.append_messages(session_id, [sessiond.user("from the dead")], run=run),
            "request": lambda client: client.request_tool_call(session_id, "search", run=run),
            "heartbeat": lambda client: client.heartbeat_run(session_id, run),
            "finish": lambda client: client.finish_run(session_id, run),
        }
        name = self._chance.choice(sorted(writes))
        try:
            await self._ask(writes[name])
        except sessiond.RunFenced:
            self.account.refused += 1
        else:
            self.account.breaches.append(f"{name} of {session_id}/{run.run_id}, which is over, was taken")

    async def _person(self, tasks: asyncio.TaskGroup) -> None:
        """Decides on what is in the inbox, leaves some of it for ever, or decides at the very moment at which it
        expires; suspends a session now and then, and resumes it."""
        left: set[str] = set()
        while not self._stopped.is_set():
            await self._pause(0.5)
            left.update(await self._expiring(tasks))
            page = await self._ask(lambda client: client.list_pending_approvals(page_size=50).page())
            for call in page.tool_calls:
                what = self._chance.random()
                if what < 0.2 or call.tool_call_id in left:
                    left.add(call.tool_call_id)
                    continue
                if what > 0.7 and call.HasField("expire_time"):
                    left.add(call.tool_call_id)
                    tasks.create_task(self._decide_at_the_last_moment(call, approve=what < 0.9))
                    continue
                await self._decide(call, approve=what < 0.75)
            if self._chance.random() < 0.1:
                await self._interlude(self._chance.choice(self._sessions))

    async def _decide(self, call: ToolCall, *, approve: bool) -> None:
        session_id, tool_call_id = call.session_id, call.tool_call_id
        try:
            await self._write(
                session_id,
                lambda client, request_id: (client.approve_tool_call if approve else client.reject_tool_call)(
                    session_id, tool_call_id, approver="ada", request_id=request_id
                ),
            )
        except sessiond.Refused:
            return  # closed, or its session suspended meanwhile

    async def _expiring(self, tasks: asyncio.TaskGroup) -> Sequence[str]:
        """Requests calls outside of any run, which no end of a run closes, and decides on one of them when it expires.
        Their ids."""
        asked = []
        for _ in range(2):
            session_id, what = self._chance.choice(self._sessions), self._chance.choice(ACTIONS)
            try:
                call = await self._write(
                    session_id,
                    lambda client, request_id, session_id=session_id, what=what: client.request_tool_call(  # type: ignore[misc]
                        session_id, "search", requires_approval=True, approval_ttl=1.0, expire_action=what,
                        request_id=request_id,
                    ),
                )  # fmt: skip
            except sessiond.ToolCallLimitReached:
                continue
            asked.append(call.tool_call_id)
        if asked:
            tasks.create_task(self._decide_at_the_last_moment(call, approve=self._chance.random() < 0.5))
        return asked

    async def _decide_at_the_last_moment(self, call: ToolCall, *, approve: bool) -> None:
        ahead = microseconds(call.expire_time) / 1_000_000 - time.time()
        await asyncio.sleep(max(0.0, ahead + self._chance.uniform(-0.03, 0.02)))
        await self._decide(call, approve=approve)

    async def _interlude(self, session_id: str) -> None:
        await self._write(
            session_id, lambda client, request_id: client.suspend_session(session_id, request_id=request_id)
        )
        await self._pause(0.1)
        await self._write(
            session_id, lambda client, request_id: client.resume_session(session_id, request_id=request_id)
        )

    async def _write(
        self, session_id: str, write: Callable[[sessiond.Client, str], Awaitable[T]], run: Run | None = None
    ) -> T:
        """Until it is answered. Raises what it is refused with."""
        request_id = sessiond.new_request_id()
        if run is not None:
            self.account.carried[session_id][request_id] = run.run_id
        answer = await self._ask(lambda client: write(client, request_id))
        self.account.acked[session_id][request_id] = _version(answer)
        if self.account.count >= self._reached[0]:
            self._reached[1].set()
        return answer

    async def _ask(self, call: Callable[[sessiond.Client], Awaitable[T]]) -> T:
        while True:
            try:
                return await call(self._chance.choice(self._clients))
            except AWAY:
                self.account.retries += 1
                await asyncio.sleep(0.05)

    async def _pause(self, longest: float) -> None:
        await asyncio.sleep(self._chance.uniform(0.0, longest))


def _version(answer: object) -> int:
    version: int = getattr(answer, "first_seq", 0) or getattr(answer, "version", 0)
    return version
