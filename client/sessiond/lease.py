"""The lease of a run, kept by heartbeats."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from sessiond.errors import NotFound, Refused, RunFenced, SessiondError
from sessiond.v1.run_service_pb2 import HeartbeatRunResponse

SHORTEST = 0.001
"""Least seconds between two heartbeats, whatever the service says."""


class Lease:
    """Sends a heartbeat at each third of the lease, until it is closed or lost.

    The lease is lost when the service says so, and when no heartbeat was answered for a whole lease by this machine's
    clock: the next run may have begun by then.
    """

    def __init__(
        self,
        heartbeat: Callable[[float], Awaitable[HeartbeatRunResponse]],
        seconds: float,
        since: float,
        lost: Callable[[Exception], None],
    ) -> None:
        """`heartbeat` sends one with the timeout that it is given; `seconds` is how long the lease lasts from `since`,
        a time of the loop. `lost` is called at most once, with the reason."""
        self._heartbeat = heartbeat
        self._seconds = max(seconds, SHORTEST)
        self._since = since
        self._lost = lost
        self._keeping: asyncio.Task[None] | None = None

    @property
    def held_until(self) -> float:
        """The time of the loop's clock until which the lease lasts at least."""
        return self._since + self._seconds

    def keep(self) -> None:
        self._keeping = asyncio.create_task(self._keep(), name="sessiond-lease")

    async def close(self) -> None:
        """Stops the heartbeats. Idempotent."""
        keeping, self._keeping = self._keeping, None
        if keeping is not None:
            keeping.cancel()
            await asyncio.wait([keeping])

    async def extend(self) -> None:
        """Sends one heartbeat. Raises what `Client.heartbeat_run` raises."""
        loop = asyncio.get_running_loop()
        sent = loop.time()
        answer = await self._heartbeat(max(min(self._seconds / 3, self.held_until - sent), SHORTEST))
        # Counted from the sending: the service counts from the arrival, which is later.
        self._since, self._seconds = sent, max(answer.lease.ToTimedelta().total_seconds(), SHORTEST)

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        pause = self._since + self._seconds / 3 - loop.time()
        while True:
            await asyncio.sleep(pause)
            try:
                await self.extend()
            except (RunFenced, NotFound, Refused) as error:
                self._lost(error)
                return
            except SessiondError as error:
                left = self.held_until - loop.time()
                if left <= 0:
                    self._lost(_ran_out(error))
                    return
                pause = min(max(self._seconds / 30, error.retry_after or 0.0), left)
            except Exception as error:
                self._lost(error)
                return
            else:
                pause = self._seconds / 3


def _ran_out(last: SessiondError) -> RunFenced:
    error = RunFenced("no heartbeat came through before the lease ran out", reason="RUN_FENCED", code="ABORTED")
    error.__cause__ = last
    return error


async def quietly(call: Awaitable[object]) -> None:
    """Awaits a call and ignores its errors: for calls that the end of the lease makes up for."""
    with suppress(SessiondError, RuntimeError):
        await call
