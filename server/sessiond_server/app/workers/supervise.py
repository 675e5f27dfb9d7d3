"""The whole service of a supervisor: ports, bundled servers, metrics, workers and the operator's signals."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Final
from urllib.parse import quote

from sessiond_server.app.background import background_tasks
from sessiond_server.app.bundled import bundled
from sessiond_server.app.errors import CannotListen
from sessiond_server.app.signals import Signals
from sessiond_server.app.summary import Service
from sessiond_server.app.workers import ports
from sessiond_server.app.workers.supervisor import Supervisor
from sessiond_server.embedded import EmbeddedServers
from sessiond_server.metrics import totals
from sessiond_server.metrics.port import serving
from sessiond_server.settings import Address, SecretUrl, Settings, refuse_open_network

_log = logging.getLogger("sessiond.workers")

SCRAPE_SECONDS: Final = 5.0
"""How long the workers together may take to answer a scrape."""


async def supervise(settings: Settings, announce: Callable[[Service], None]) -> None:
    """Serves with `settings.workers` processes until SIGTERM or SIGINT; then all drain at the same time.

    `announce` is called once all serve. SIGHUP lets them read keys and certificates again, SIGUSR2 replaces them in
    turn. A second SIGTERM or SIGINT ends everything at once. Raises SettingError, EmbeddedError, CannotListen, and
    WorkersFailed if a worker cannot start that said why, after it has closed everything.
    """
    signals = Signals()
    loop, renewal = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR2, renewal.set)
    try:
        await signals.serve(_running(settings, signals, renewal), announce, settings.grace)
    finally:
        signals.close()
        loop.remove_signal_handler(signal.SIGUSR2)


@asynccontextmanager
async def _running(settings: Settings, signals: Signals, renewal: asyncio.Event) -> AsyncIterator[Service]:
    """`renewal`: when it is set, it is cleared, and the workers are replaced."""
    refuse_open_network(settings)
    async with AsyncExitStack() as stack:
        listening = stack.enter_context(ports.reserved(settings.listen, "--listen"))
        door, http = None, None
        if settings.http_listen is not None:
            door = stack.enter_context(ports.listening(settings.http_listen, "--http-listen"))
            http = Address(settings.http_listen.host, door.getsockname()[1])
        embedded = None
        if settings.embedded:
            embedded = await stack.enter_async_context(bundled(settings, cache=settings.redis_url is None))
        team = Supervisor(of_a_worker(settings, listening, http, embedded), settings.workers, door)
        signals.at_once = team.kill
        metrics = await stack.enter_async_context(_opened_metrics(settings.metrics_listen, team))
        stack.push_async_callback(team.stop)
        if door is not None:
            # What comes once the workers have closed theirs must be refused, and not wait here.
            stack.callback(door.close)
        await team.start()
        background = await stack.enter_async_context(background_tasks())
        background(team.keep(), "workers")
        background(_each(signals.reload, team.reload), "reload")
        background(_replacing(renewal, team), "replacements")
        if embedded is not None:
            background(embedded.keep_running(), "bundled-servers")
        yield Service(settings, listening, embedded, team.keys, metrics, http, workers=team.pids)


def of_a_worker(
    settings: Settings, listen: Address, http: Address | None, embedded: EmbeddedServers | None
) -> Settings:
    """The settings of each worker: those of the service, with what the supervisor has found and started."""
    # What is on by default with bundled servers stays on; workers know these as any others.
    found = replace(
        settings, workers=1, listen=listen, http_listen=http, search=settings.searches, reflection=settings.reflects
    )
    if embedded is None:
        return found
    cache = found.redis_url or SecretUrl(f"unix://{quote(embedded.redis_url.removeprefix('unix://'))}")
    return replace(found, postgres_dsn=SecretUrl(embedded.postgres_dsn), redis_url=cache)


async def _each(asked: asyncio.Event, act: Callable[[], None]) -> None:
    """Acts whenever `asked` is set, and clears it, until cancelled."""
    while True:
        await asked.wait()
        asked.clear()
        act()


async def _replacing(asked: asyncio.Event, team: Supervisor) -> None:
    """Replaces the workers whenever `asked` is set, until cancelled; requests that come meanwhile count as one."""
    while True:
        await asked.wait()
        asked.clear()
        await team.replace()


@asynccontextmanager
async def _opened_metrics(address: Address | None, team: Supervisor) -> AsyncIterator[Address | None]:
    """Serves the metrics of all workers, if the settings name an address. Raises CannotListen."""
    if address is None:
        yield None
        return
    loop = asyncio.get_running_loop()

    def read() -> totals.Page:
        pages = asyncio.run_coroutine_threadsafe(team.page(), loop).result(SCRAPE_SECONDS)
        return totals.total([pages, totals.of_this_process()])

    async with AsyncExitStack() as stack:
        try:
            port = await stack.enter_async_context(serving(address.host, address.port, totals.registry(read)))
        except OSError as error:
            raise CannotListen(address, "--metrics-listen") from error
        yield Address(address.host, port)
