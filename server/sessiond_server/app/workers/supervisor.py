"""Keeps a number of workers running: starts them, starts others for those that end, replaces and stops them."""

import asyncio
import logging
import socket
from dataclasses import dataclass, field
from typing import Final

from sessiond_server.app.workers.process import WorkerProcess, spawned
from sessiond_server.metrics.totals import Family, Page, counted, total
from sessiond_server.settings import Settings

_log = logging.getLogger("sessiond.workers")

PAUSES: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds before another worker is started for one that has ended, by how many have ended early before; the last one
for all further ones."""
EARLY: Final = 60.0
"""Seconds that a worker must have served for its end not to count as early."""
CLOSING: Final = 12.0
"""Seconds that a worker may take to stop beyond `drain_pause` and `grace`: for its last answers, and to close what it
has open."""


class WorkersFailed(Exception):
    """No worker serves, and one cannot start; it has said why. `code` is what it has ended with."""

    def __init__(self, code: int) -> None:
        super().__init__(f"no worker can start; the last one ended with {code}")
        self.code = code if code > 0 else 128 - code


@dataclass(slots=True, eq=False)
class _Slot:
    """The place of one worker."""

    worker: WorkerProcess
    successor: WorkerProcess | None = None
    """Serves already, while `worker` stops."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by who starts a worker for this slot."""
    early: int = 0


class Supervisor:
    """The workers of one service. `settings` are those of each worker; `http` is their listening socket."""

    def __init__(self, settings: Settings, count: int, http: socket.socket | None) -> None:
        self._settings = settings
        self._count = count
        self._http = http
        self._slots: list[_Slot] = []
        self._alive: set[WorkerProcess] = set()
        self._stopping = False
        self._gone: Page = ()
        """What workers have counted that have ended."""
        self._ended = 0
        """Workers that have ended without having been told to."""

    @property
    def keys(self) -> int:
        return self._slots[0].worker.keys

    @property
    def pids(self) -> list[int]:
        """Ids of the processes that serve."""
        return sorted(worker.pid for worker in self._alive if worker.serves)

    async def start(self) -> None:
        """Starts all workers, the first one alone: it migrates the database, and if it cannot start, none can. Raises
        WorkersFailed."""
        await self._start_slot()
        async with asyncio.TaskGroup() as group:
            for _ in range(self._count - 1):
                group.create_task(self._start_slot())

    async def keep(self) -> None:
        """Starts another worker for each that ends, until cancelled. Raises WorkersFailed if one cannot start while
        none serves."""
        async with asyncio.TaskGroup() as group:
            for slot in self._slots:
                group.create_task(self._keep(slot))

    async def replace(self) -> None:
        """Replaces all workers, one after the other: the new one serves before the old one stops. Where a new one
        cannot start, the old ones stay."""
        _log.info("replacing the workers in turn")
        for slot in self._slots:
            async with slot.turn:
                old = slot.worker
                new = await self._start()
                if not await new.ready():
                    _log.error("a new worker cannot start: it ended with %d; the others stay", await self._end(new))
                    return
                slot.successor = new
                old.stop()
            await old.ended()
            _log.info("worker %d takes the place of worker %d", new.pid, old.pid)

    def reload(self) -> None:
        """Lets all workers read keys and certificates again."""
        for worker in self._alive:
            worker.reload()

    async def stop(self) -> None:
        """Lets all workers drain at the same time; those that take too long are killed. Cancelling kills all."""
        self._stopping = True
        await asyncio.gather(*(worker.stopped() for worker in self._alive))

    def kill(self) -> None:
        """Ends all workers at once."""
        self._stopping = True
        for worker in self._alive:
            worker.kill()

    async def page(self) -> Page:
        """The metrics of all workers together, with what those had counted that have ended, and of the workers."""
        pages = await asyncio.gather(*(worker.metrics() for worker in self._alive))
        return total([*pages, self._gone, self._own()])

    def _own(self) -> Page:
        serving, ended = "sessiond_workers", "sessiond_worker_failures"
        return [
            Family(serving, "Workers that serve.", "gauge", {(serving, ()): float(len(self.pids))}),
            Family(ended, "Workers that ended by themselves.", "counter", {(f"{ended}_total", ()): float(self._ended)}),
        ]

    async def _start(self) -> WorkerProcess:
        longest_stop = self._settings.drain_pause + self._settings.grace + CLOSING
        worker = await spawned(self._settings, self._http, longest_stop)
        self._alive.add(worker)
        if self._stopping:
            worker.kill()
        return worker

    async def _start_slot(self) -> None:
        worker = await self._start()
        if not await worker.ready():
            raise WorkersFailed(await self._end(worker))
        self._slots.append(_Slot(worker))

    async def _end(self, worker: WorkerProcess) -> int:
        """Waits for the end of a worker, and keeps what it has counted."""
        code = await worker.ended()
        if worker in self._alive:
            self._alive.remove(worker)
            self._gone = total([self._gone, counted(worker.page)])
        return code

    async def _keep(self, slot: _Slot) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            worker = slot.worker
            code = await self._end(worker)
            async with slot.turn:
                if self._stopping:
                    return
                if slot.successor is not None:
                    slot.worker, slot.successor = slot.successor, None
                    continue
                self._ended += 1
                slot.early = 0 if loop.time() - began >= EARLY else slot.early
                _log.error("worker %d ended by itself with %d; starting another one", worker.pid, code)
                await self._restart(slot)

    async def _restart(self, slot: _Slot) -> None:
        while True:
            await asyncio.sleep(PAUSES[min(slot.early, len(PAUSES) - 1)])
            slot.early += 1
            worker = await self._start()
            if await worker.ready():
                slot.worker = worker
                _log.info("worker %d serves", worker.pid)
                return
            code = await self._end(worker)
            if self._stopping:
                return
            if not self.pids:
                raise WorkersFailed(code)
            _log.error("a worker cannot start: it ended with %d", code)
