"""The supervisor of `serve --workers N`, with workers that do what a script says."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sessiond_server.app.background import only_error
from sessiond_server.app.errors import CannotListen
from sessiond_server.app.workers import ports, process, supervisor
from sessiond_server.app.workers.link import Alive, Hello, Link, introduce, introduction
from sessiond_server.app.workers.supervisor import Supervisor, WorkersFailed
from sessiond_server.metrics.totals import Page
from sessiond_server.settings import Address, load
from tests.support import scripted_worker
from tests.support.waiting import PATIENCE, until

SETTINGS = load({"grace": "0"}, {})
SCRIPTED = Path(scripted_worker.__file__)


@asynccontextmanager
async def team(
    script: Path, monkeypatch: pytest.MonkeyPatch, *lines: str, count: int = 2
) -> AsyncIterator[tuple[Supervisor, "asyncio.Task[None]"]]:
    """A supervisor with workers that serve, and the task that keeps them running."""
    script.write_text("\n".join(lines))
    monkeypatch.setattr(process, "PROGRAM", (str(SCRIPTED), str(script)))
    monkeypatch.setattr(supervisor, "PAUSES", (0.0, 0.01))
    made = Supervisor(SETTINGS, count, None)
    keeping = None
    try:
        async with asyncio.timeout(PATIENCE):
            await made.start()
        keeping = asyncio.create_task(made.keep())
        yield made, keeping
    finally:
        if keeping is not None:
            keeping.cancel()
            await asyncio.wait({keeping})
        await made.stop()
        assert made.pids == []


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "script"


def figures(page: Page) -> dict[str, float]:
    return {name: value for family in page for (name, _), value in family.samples.items()}


async def until_replaced(made: Supervisor, before: Sequence[int], *, keep: int = 0) -> None:
    """Waits for as many workers as before, of which `keep` are the same."""
    await until(lambda: len(made.pids) == len(before) and len({*made.pids, *before}) == 2 * len(before) - keep)


async def test_worker_that_is_killed_or_ends_by_itself_is_followed_by_another(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with team(script, monkeypatch, "serve", "serve", "fail 1", "crash") as (made, _):
        assert made.keys == 7
        assert figures(await made.page()) == {
            "served_total": 2, "sessiond_workers": 2, "sessiond_worker_failures_total": 0
        }  # fmt: skip
        before = made.pids
        os.kill(before[0], signal.SIGKILL)  # the one after it cannot start, and the one after that crashes
        await until_replaced(made, before, keep=1)
        # Three have answered once; two of them have ended, and what they counted stays.
        assert figures(await made.page())["served_total"] == 3

        async def followed() -> bool:
            return figures(await made.page())["sessiond_worker_failures_total"] == 2 and len(made.pids) == 2

        await until(followed)
        after = figures(await made.page())
    assert (after["served_total"], after["sessiond_worker_failures_total"]) == (4, 2)


async def test_workers_are_replaced_in_turn_by_such_that_serve(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with team(script, monkeypatch, "serve", "serve", "serve", "fail 3") as (made, _):
        before = made.pids
        await made.page()
        await made.replace()
        # The second new one could not start: the old one stays.
        assert len(made.pids) == 2
        assert len({*made.pids, *before}) == 3
        await made.replace()
        assert not {*made.pids} & {*before}
        after = figures(await made.page())
    assert after["sessiond_worker_failures_total"] == 0
    assert after["served_total"] == 4


async def test_service_ends_when_none_serves_and_one_cannot_start(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WorkersFailed) as failed:
        async with team(script, monkeypatch, "fail 3"):
            raise AssertionError
    assert failed.value.code == 3
    with pytest.raises(BaseExceptionGroup) as failures:
        async with team(script, monkeypatch, "serve", "fail 4"):
            raise AssertionError
    assert isinstance(error := only_error(failures.value), WorkersFailed)
    assert error.code == 4
    async with team(script, monkeypatch, "serve", "fail 5", count=1) as (made, keeping):
        os.kill(made.pids[0], signal.SIGKILL)
        await asyncio.wait({keeping}, timeout=PATIENCE)
        assert isinstance(group := keeping.exception(), BaseExceptionGroup)
        assert isinstance(error := only_error(group), WorkersFailed)
        assert error.code == 5


async def test_worker_that_stands_still_or_does_not_stop_is_killed(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "SILENCE", 1.0)
    monkeypatch.setattr(supervisor, "CLOSING", 0.2)
    async with team(script, monkeypatch, "hang", "deaf", count=1) as (made, _):
        before = made.pids
        monkeypatch.setattr(process, "METRICS_SECONDS", 0.01)
        assert figures(await made.page()) == {"sessiond_workers": 1, "sessiond_worker_failures_total": 0}
        await until_replaced(made, before)
        async with asyncio.timeout(PATIENCE):
            await made.stop()  # kills the deaf one


async def test_worker_that_stands_still_while_it_starts_is_killed(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "FIRST_SIGN", 0.5)
    with pytest.raises(WorkersFailed) as failed:
        async with team(script, monkeypatch, "mute", count=1):
            raise AssertionError
    assert failed.value.code == 128 + signal.SIGKILL


async def test_workers_end_when_their_supervisor_has_gone() -> None:
    """Seen from the worker's end of the connection."""
    ours, theirs = socket.socketpair()
    introduce(ours, "1", Hello(SETTINGS, http=5))
    assert introduction(theirs, "1") == Hello(SETTINGS, http=5)
    introduce(ours, "1", Hello(SETTINGS, http=None))
    assert introduction(theirs, "2") == "1"
    theirs.close()
    ours.close()
    one, other = socket.socketpair()
    for end in (one, other):
        end.setblocking(False)
    link, far = await Link.over(one), await Link.over(other)
    link.send(Alive())
    await link.close()
    link.send(Alive())  # to nobody
    assert await far.receive() == Alive()
    assert await far.receive() is None
    await far.close()


def test_a_port_is_kept_for_workers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "PATIENCE", 0.0)
    for host in ("127.0.0.1", "0.0.0.0", "localhost"):
        with ports.reserved(Address(host, 0), "--listen") as kept:
            assert kept.host == host
            assert kept.port
            for _ in range(2):  # whether a worker listens or not
                with pytest.raises(CannotListen), ports.reserved(kept, "--listen"):
                    raise AssertionError
                with pytest.raises(CannotListen), ports.listening(Address("127.0.0.1", kept.port), "--http-listen"):
                    raise AssertionError
                with socket.socket() as plain:
                    plain.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    with pytest.raises(OSError, match="in use"):
                        plain.bind(("127.0.0.1", kept.port))
            worker = socket.socket()
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            with worker:
                worker.bind(("127.0.0.1", kept.port))
                worker.listen()
                with pytest.raises(CannotListen), ports.reserved(kept, "--listen"):
                    raise AssertionError
        with ports.reserved(kept, "--listen") as again:
            assert again == kept
    for nowhere in (Address("192.0.2.1", 0), Address("no-such-host.invalid", 0)):
        with pytest.raises(CannotListen, match="--listen"), ports.reserved(nowhere, "--listen"):
            raise AssertionError
