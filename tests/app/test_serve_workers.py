"""`sessiond serve --workers N` as processes: what they serve together, and how the service stops, reloads and ends."""

import asyncio
import os
import random
import re
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest

import sessiond
from sessiond_server.auth import new_key
from sessiond_server.embedded import running_dsn
from sessiond_server.rpc import probe
from tests.support.replica import Replica
from tests.support.rolls import Traffic, answers, seqs_of_session
from tests.support.serve_process import Serving, command, data_folder, serving
from tests.support.waiting import PATIENCE, until

ANY = "127.0.0.1:0"
TWO = ("--workers", "2")
CREATED = "sessiond_calls_total OK /sessiond.v1.SessionService/CreateSession"
CONNECTIONS = 12
"""So many that one process has all of them in one of two thousand runs."""


def workers_of(server: Serving) -> list[int]:
    found = re.search(r"workers +([0-9, ]+)\n", server.announced)
    assert found, server.announced
    return [int(pid) for pid in found[1].split(", ")]


def alive(pids: Sequence[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


async def test_workers_serve_as_one(postgres_dsn: str) -> None:
    """Metrics are added up, events of one reach the watchers of others, and one that is killed is not missed."""
    ports = ("--http-listen", ANY, "--metrics-listen", ANY)
    async with serving("--postgres-dsn", postgres_dsn, *TWO, *ports) as server, AsyncExitStack() as stack:
        pids = workers_of(server)
        assert len(alive(pids)) == 2
        clients = [await stack.enter_async_context(sessiond.Client(server.target)) for _ in range(CONNECTIONS)]
        await clients[0].create_session(session_id="s", active=True)
        await asyncio.gather(*(client.create_session() for client in clients))
        metrics = await server.metrics()
        assert (metrics[CREATED], metrics["sessiond_workers"], metrics["sessiond_store_reachable"]) == (13, 2, 1)
        watch = await stack.enter_async_context(clients[0].watch("s", from_beginning=True))
        await asyncio.gather(*(client.append_messages("s", [sessiond.user("x")]) for client in clients))
        assert [(await anext(watch)).seq for _ in range(CONNECTIONS + 1)] == list(range(1, CONNECTIONS + 2))
        http = re.search(r"http +(http://\S+)/v1", server.announced)
        assert http
        with await asyncio.to_thread(urlopen, f"{http[1]}/healthz", timeout=PATIENCE) as health:
            assert health.status == 200
        os.kill(pids[0], signal.SIGKILL)
        await asyncio.gather(*(client.append_messages("s", [sessiond.user("y")]) for client in clients))
        assert probe.health("127.0.0.1", server.port, PATIENCE) == "SERVING"
        await server.until_metric("sessiond_workers", 2)
        after = await server.metrics()
        assert after["sessiond_worker_failures_total"] == 1
        assert after[CREATED] == 13, "what a worker has counted stays after its end"
        await server.until_logged("serves")
        assert await server.stop() == 0
        assert await server.rest() == "stopped\n"
        assert not alive(pids)


@pytest.mark.long
async def test_replaced_and_killed_workers_are_not_noticed(postgres_dsn: str, tmp_path: Path) -> None:
    """Under writers, readers and watchers, whose first failure ends the test."""
    replica, clients = Replica(postgres_dsn, tmp_path / "log", workers=2), 6
    await replica.start()
    await answers(replica)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(replica.stop)
        several = [
            await stack.enter_async_context(sessiond.Client(replica.address, timeout=60.0)) for _ in range(clients)
        ]
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        created = [await several[0].create_session(active=True) for _ in range(4)]
        ids = [session.session_id for session in created]
        traffics = [Traffic(client, ids) for client in several]
        watchers = [tasks.create_task(seqs_of_session(several[0], one)) for one in ids]
        writing = [tasks.create_task(traffic.write(number)) for number, traffic in enumerate(traffics)]
        for act in (_replaced, _killed, _replaced):
            await act(replica, tmp_path / "log")
            await asyncio.gather(*(client.count_sessions() for client in several))
        for traffic in traffics:
            traffic.end()
        await asyncio.gather(*writing)
        for one in ids:
            await several[0].end_session(one)
    for one, watcher in zip(ids, watchers, strict=True):
        written = sum(traffic.written[one] for traffic in traffics)
        assert watcher.result() == list(range(1, written + 3))


async def _replaced(replica: Replica, log: Path) -> None:
    """Returns once all workers are others."""
    place, before = "takes the place of worker", set(replica.workers())
    often = log.read_text().count(place)
    replica.send(signal.SIGUSR2)
    await until(lambda: log.read_text().count(place) == often + 2)
    assert not before & set(replica.workers())


async def _killed(replica: Replica, log: Path) -> None:
    before = log.read_text().count(" serves\n")
    assert replica.kill_a_worker(random.Random(1))
    await until(lambda: log.read_text().count(" serves\n") == before + 1)


@pytest.mark.long
async def test_supervisor_of_bundled_servers_starts_them_once_and_passes_signals_on(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    (first, entry), (second, other) = new_key("ada", "acme"), new_key("eve", "acme")
    keys.write_text(entry)
    with data_folder() as data:
        async with serving("--data-dir", data, *TWO, "--keys-file", keys, "--drain-pause", "10m") as server:
            assert f"{data} (new; bundled Postgres and Valkey)" in server.announced
            assert "(1 key)" in server.announced
            pids = workers_of(server)
            # On by default with bundled servers, in workers too.
            async with sessiond.Client(server.target, api_key=first) as client:
                await client.create_session(session_id="s", active=True)
                await client.append_messages("s", [sessiond.user("needle")])
                found = [await anext(aiter(client.search_messages("needle")), None)]  # refused where it is off
                assert len(found) == 1
            refused = command("serve", "--data-dir", data, "--listen", ANY, *TWO)
            assert (refused.returncode, "another sessiond" in refused.stderr) == (1, True)
            taken = command("serve", "--data-dir", f"{data}-2", "--listen", server.target, *TWO)
            assert (taken.returncode, "--listen" in taken.stderr) == (1, True)
            keys.write_text(entry + other)
            server.process.send_signal(signal.SIGHUP)
            await until(lambda: server.log.read_text().count("were read again: 2 in") >= 2)
            async with sessiond.Client(server.target, api_key=second) as client:
                assert (await client.get_session("s")).session_id == "s"
            # Stopping takes as long as `drain_pause`; a second signal does not wait.
            server.process.send_signal(signal.SIGTERM)
            await until(lambda: server.log.read_text().count("stopping: calls") == 3)
            assert await server.stop(signal.SIGINT) == 128 + signal.SIGINT
            await until(lambda: not alive(pids))
            await until(lambda: running_dsn(data) is None)


@pytest.mark.long
async def test_workers_without_a_supervisor_drain_and_end(postgres_dsn: str) -> None:
    async with serving("--postgres-dsn", postgres_dsn, *TWO) as server:
        pids = workers_of(server)
        assert await server.stop(signal.SIGKILL) == -signal.SIGKILL
        again = ("--postgres-dsn", postgres_dsn, *TWO, "--listen", server.target)
        async with serving(*again) as successor:  # on the same port, which the old ones leave
            assert successor.port == server.port
            await until(lambda: not alive(pids))
            gone = re.findall("the supervisor has gone.* worker=([0-9]+)", server.log.read_text())
            assert sorted(map(int, gone)) == pids
            assert await successor.stop() == 0


@pytest.mark.long
async def test_service_that_cannot_start_ends_with_the_reason_said_once(postgres_dsn: str, tmp_path: Path) -> None:
    nowhere = command("serve", "--postgres-dsn", postgres_dsn, "--listen", ANY, *TWO, "--keys-file", tmp_path / "none")
    assert nowhere.returncode == 1
    assert nowhere.stderr.count("none") == 1
    assert "Traceback" not in nowhere.stderr
    # Later too, when none serves any more.
    keys = tmp_path / "keys.toml"
    keys.write_text(new_key("ada", "acme")[1])
    async with serving("--postgres-dsn", postgres_dsn, *TWO, "--keys-file", keys) as server:
        keys.write_text("keys = []\n")
        for pid in workers_of(server):
            os.kill(pid, signal.SIGKILL)
        assert await server.ended() == 1
        assert "keys.toml" in server.log.read_text()
