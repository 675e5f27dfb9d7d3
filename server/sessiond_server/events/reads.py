"""Limits concurrent reads of the store for streams, and shares one read among all streams that need it."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, Final, Generic, TypeVar

from sessiond_server import failpoints
from sessiond_server.domain.rows import Key
from sessiond_server.domain.shares import never_alone
from sessiond_server.errors import SessionNotFound
from sessiond_server.slots import Slots
from sessiond_server.store.log_reads import LogReads

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_BEYOND_ANY: Final = 2**62
"""No event has this `seq`."""


class Reads:
    """A limit of `most` concurrent reads, of which each tenant has its share. Others queue, tenants by turns; the
    number of streams bounds how many."""

    def __init__(self, most: int, *, alone: Callable[[], bool] = never_alone) -> None:
        """`alone` as of Shares."""
        self._slots = Slots(most, alone=alone)

    @property
    def waiting(self) -> int:
        """Number of reads that wait for a slot."""
        return self._slots.waiting

    async def run(self, tenant_id: str, read: Callable[[], Awaitable[V]]) -> V:
        """Calls `read` once a slot is free. Returns or raises what `read` does."""
        await self._slots.take(tenant_id)
        try:
            if failpoints.armed:
                await failpoints.reach("before_read")
            return await read()
        finally:
            self._slots.give(tenant_id)


async def prove_owner(logs: LogReads, key: Key, user_id: str) -> None:
    """Raises SessionNotFound where the log is another user's, before any of it is read; the empty user sees all.

    So that another user's session costs what one that is not there costs: a look at its head.
    """
    if user_id and (await logs.read_log(key, after_seq=_BEYOND_ANY, limit=1)).user_id != user_id:
        raise SessionNotFound(key[1])


class Shared(Generic[K, V]):
    """Runs work once for each key at a time. Callers that ask for a key in flight share its task."""

    def __init__(self, work: Callable[[K], Coroutine[Any, Any, V]]) -> None:
        self._work = work
        self._tasks: dict[K, asyncio.Task[V]] = {}

    def start(self, key: K) -> "asyncio.Task[V]":
        """Returns the task of this key, started if there is none. It must outlive cancelled callers: await it
        shielded."""
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.get_running_loop().create_task(self._work(key))
            task.add_done_callback(lambda done: self._ended(key, done))
        return task

    def __contains__(self, key: K) -> bool:
        return key in self._tasks

    async def close(self) -> None:
        """Cancels all tasks and waits until they have ended."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, key: K, task: "asyncio.Task[V]") -> None:
        del self._tasks[key]
        if not task.cancelled():
            # Callers get the exception from the task. Marks it as retrieved, in case no caller is left.
            task.exception()
