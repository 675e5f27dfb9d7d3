"""A worker, as it sees itself: the service of one process, with a supervisor that it tells how it is."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from sessiond_server.app import service as composed
from sessiond_server.app.service import Shared
from sessiond_server.app.summary import Service
from sessiond_server.app.workers.link import Alive, AskMetrics, Link, Metrics, Ready
from sessiond_server.metrics.sources import Sources, registry
from sessiond_server.metrics.totals import Page, page
from sessiond_server.settings import Settings
from sessiond_server.tasks import run_in_background

_log = logging.getLogger("sessiond.workers")

BEAT: Final = 1.0
"""Seconds between two signs of life."""


async def serve(
    settings: Settings, supervisor: socket.socket, http: socket.socket | None, began: Callable[[], None]
) -> bool:
    """Serves until a signal stops it, or its supervisor has gone; `began` is called once calls are answered. Raises as
    `composed.serve`. Returns False if it stops because it cannot be used any more."""
    supervisor.setblocking(False)
    link = await Link.over(supervisor)
    worker = _Worker(link, began)
    following = run_in_background(worker.follow(), "supervisor")
    beating = run_in_background(worker.beat(), "heartbeat")
    try:
        await composed.serve(settings, worker.ready, Shared(http, worker.exposed, worker.stops_by))
    finally:
        for task in (following, beating):
            task.cancel()
        await asyncio.wait({following, beating})
        await link.close()
    return not worker.failed


class _Worker:
    def __init__(self, link: Link, began: Callable[[], None]) -> None:
        self._link = link
        self._began = began
        self._service: Service | None = None
        self._page: Callable[[], Page] = tuple
        """Reads the metrics now; none while there are no parts that have any."""
        self._alone = False
        self._stop: Callable[[], None] = lambda: None
        self.failed = False

    def stops_by(self, stop: Callable[[], None]) -> None:
        """`stop` begins a graceful stop."""
        self._stop = stop
        if self._alone:
            stop()

    def ready(self, service: Service) -> None:
        self._service = service
        self._began()
        self._link.send(Ready(service.keys))

    @asynccontextmanager
    async def exposed(self, sources: Sources) -> AsyncIterator[None]:
        """Shows the supervisor the metrics, and in the end, when no call is served any more, the last ones."""
        self._page = partial(page, registry(sources))
        try:
            yield
        finally:
            self._tell_metrics()

    async def follow(self) -> None:
        """Answers the supervisor until it has gone; then begins to stop."""
        while (message := await self._link.receive()) is not None:
            assert isinstance(message, AskMetrics)
            self._tell_metrics()
        _log.error("the supervisor has gone: stopping")
        self._alone = True
        self._stop()

    async def beat(self) -> None:
        """Gives signs of life, and stops the worker once it cannot be used any more: another one takes its place."""
        while True:
            self._link.send(Alive())
            await asyncio.sleep(BEAT)
            if self._service is not None and not self.failed and (name := self._service.failed()) is not None:
                self.failed = True
                _log.error("the background task %s has failed: stopping", name)
                self._stop()

    def _tell_metrics(self) -> None:
        self._link.send(Metrics(self._page()))
