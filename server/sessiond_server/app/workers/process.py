"""A worker, as its supervisor sees it."""

import asyncio
import logging
import signal
import socket
import sys
from contextlib import suppress
from importlib.metadata import version
from typing import Final

from sessiond_server.app.workers.link import Alive, AskMetrics, Hello, Link, Metrics, Ready, introduce
from sessiond_server.metrics.totals import Page
from sessiond_server.settings import Settings
from sessiond_server.tasks import run_in_background

_log = logging.getLogger("sessiond.workers")

PROGRAM: Final = ("-m", "sessiond_server.cli.worker")
SILENCE: Final = 30.0
"""Seconds without a sign of life after which a worker is killed. It gives one each second, while it starts too."""
FIRST_SIGN: Final = 120.0
"""The same until its first one: a busy machine takes long to load the program."""
METRICS_SECONDS: Final = 2.0
"""How long a worker may take to answer with its metrics; then its last ones are shown."""


class WorkerProcess:
    """One worker. Made by `spawned`, and `ended` must be awaited in the end."""

    def __init__(self, process: asyncio.subprocess.Process, link: Link, longest_stop: float) -> None:
        self._process = process
        self._longest_stop = longest_stop
        self._link = link
        self._ready = asyncio.Event()
        """Set when it serves, and when it has ended."""
        self._heard = False
        """Whether it has given a sign of life."""
        self._metrics: asyncio.Event = asyncio.Event()
        """Set when metrics arrive, and replaced by a new event."""
        self.serves = False
        """Whether it is ready, and was not told to stop."""
        self.keys = 0
        self.page: Page = ()
        """Its last known metrics."""
        self.stopping = False
        self._due: asyncio.TimerHandle | None = None
        """When it is killed because it takes too long to stop."""
        self._following = run_in_background(self._follow(), f"worker-{process.pid}")

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ready(self) -> bool:
        """Waits until it serves; False if it has ended before."""
        await self._ready.wait()
        return self.serves

    async def ended(self) -> int:
        """Waits for the end, and returns the exit code; negative: the signal that ended it."""
        code = await self._process.wait()
        await asyncio.wait({self._following})
        return code

    async def metrics(self) -> Page:
        """Its metrics now, or the last known ones if it does not answer."""
        if self.serves:
            arrived = self._metrics
            self._link.send(AskMetrics())
            with suppress(TimeoutError):
                async with asyncio.timeout(METRICS_SECONDS):
                    await arrived.wait()
        return self.page

    def reload(self) -> None:
        """Lets it read keys and certificates again. One that starts reads them anyway."""
        if self.serves:
            self._signal(signal.SIGHUP)

    def stop(self) -> None:
        """Lets it drain and end. Works once: a second signal would end it at once."""
        if not self.stopping:
            self.stopping, self.serves = True, False
            self._expect_end()
            self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    async def stopped(self) -> int:
        """Stops it, and returns its exit code. Cancelling kills it."""
        self.stop()
        try:
            return await self.ended()
        finally:
            self.kill()

    def _expect_end(self) -> None:
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(self._longest_stop, self._overdue)

    def _overdue(self) -> None:
        _log.error("worker %d has not stopped within %g s, and is killed", self.pid, self._longest_stop)
        self.kill()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def _follow(self) -> None:
        """Takes its messages until it has ended."""
        try:
            while (message := await self._next()) is not None:
                self._heard = True
                if isinstance(message, Ready):
                    self.keys, self.serves = message.keys, not self.stopping
                    self._ready.set()
                elif isinstance(message, Metrics):
                    self.page = message.page
                    self._arrived()
                else:
                    assert isinstance(message, Alive)
        finally:
            # Without its supervisor's end of the link, the worker drains and ends.
            self.serves = False
            self._expect_end()
            await self._link.close()
            await self._process.wait()
            assert self._due is not None
            self._due.cancel()
            self._ready.set()
            self._arrived()

    async def _next(self) -> object:
        patience = None if self.stopping else SILENCE if self._heard else FIRST_SIGN
        try:
            async with asyncio.timeout(patience):
                return await self._link.receive()
        except TimeoutError:
            _log.error("worker %d has given no sign of life for %g s, and is killed", self.pid, patience)
            self.kill()
            return None

    def _arrived(self) -> None:
        arrived, self._metrics = self._metrics, asyncio.Event()
        arrived.set()


async def spawned(settings: Settings, http: socket.socket | None, longest_stop: float) -> WorkerProcess:
    """Starts a worker with these settings, in a session of its own, so that Ctrl-C reaches its supervisor only.

    It is killed where its end takes longer than `longest_stop` seconds.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            introduce(ours, version("sessiond"), Hello(settings, None if http is None else http.fileno()))
            # A program of its own, since a process that has imported grpc cannot be forked. -P: modules come from where
            # they are installed, not from the folder in which the operator is.
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", *PROGRAM, str(theirs.fileno())),
                pass_fds=[theirs.fileno(), *(() if http is None else (http.fileno(),))],
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
    ours.setblocking(False)
    return WorkerProcess(process, await Link.over(ours), longest_stop)
