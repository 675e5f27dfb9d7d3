"""What Prometheus gets of a running `sessiond serve`."""

import os
import socket
from importlib.metadata import version
from pathlib import Path

import pytest

import sessiond
from sessiond_server.auth import SCOPES, new_key
from sessiond_server.measures import BOUNDS
from tests.support.serve_process import Serving, command, serving
from tests.support.valkey import Valkey
from tests.support.waiting import until

METRICS = ("--metrics-listen", "127.0.0.1:0")
CREATE, GET = "/sessiond.v1.SessionService/CreateSession", "/sessiond.v1.SessionService/GetSession"

HITS, MISSES = "sessiond_cache_hits_total", "sessiond_cache_misses_total"


def _listening(pid: int) -> set[int]:
    """Ports that a process takes TCP connections on."""
    sockets = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        target = os.readlink(entry)
        if target.startswith("socket:["):
            sockets.add(target[len("socket:[") : -1])
    rows = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()
    ]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A" and row[9] in sockets}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds open ports through /proc")
async def test_nothing_is_served_unless_asked_for() -> None:
    async with serving("--store", "memory") as server:
        assert "metrics" not in server.announced
        assert _listening(server.process.pid) == {server.port}
    async with serving("--store", "memory", *METRICS) as server:
        assert len(_listening(server.process.pid)) == 2


async def test_calls_that_succeed_and_fail_are_counted(tmp_path: Path) -> None:
    key, entry = new_key("reader-of-books", "library-of-alexandria", "", SCOPES)
    (tmp_path / "keys.toml").write_text(entry)
    async with serving("--store", "memory", "--keys-file", tmp_path / "keys.toml", *METRICS) as server:
        before = await server.metrics()
        assert f"sessiond_calls_total OK {CREATE}" not in before
        assert before[f"sessiond_call_seconds_count {CREATE}"] == 0
        async with sessiond.Client(server.target, api_key=key) as client:
            for number in range(3):
                await client.create_session(session_id=f"papyrus-{number}", user_id="hypatia")
            with pytest.raises(sessiond.SessionNotFound):
                await client.get_session("burnt")
        async with sessiond.Client(server.target) as nobody:
            with pytest.raises(sessiond.Unauthenticated):
                await nobody.get_session("papyrus-0")
        # A caller may have its answer a moment before the call is counted.
        await server.until_metric(f"sessiond_calls_total UNAUTHENTICATED {GET}", 1)
        await server.until_metric("sessiond_calls_in_progress", 0)
        after = await server.metrics()
        assert await server.stop() == 0
        assert "metrics" not in server.log.read_text()
    assert after[f"sessiond_calls_total OK {CREATE}"] == 3
    assert after[f"sessiond_calls_total NOT_FOUND {GET}"] == 1
    assert after[f"sessiond_calls_total UNAUTHENTICATED {GET}"] == 1
    within = [after[f"sessiond_call_seconds_bucket {bound} {CREATE}"] for bound in (*BOUNDS, "+Inf")]
    assert within == sorted(within)
    assert within[-1] == after[f"sessiond_call_seconds_count {CREATE}"] == 3
    assert after[f"sessiond_call_seconds_count {GET}"] == 2
    assert 0 < after[f"sessiond_call_seconds_sum {CREATE}"] < 60
    assert after["sessiond_batched_commands_total"] == 3
    assert 1 <= after["sessiond_batches_total"] <= 3
    assert after["sessiond_queue_commands"] == after["sessiond_queue_bytes"] == 0
    assert after["sessiond_queue_seconds_count"] == 3
    assert after["sessiond_batch_seconds_count"] == after["sessiond_batches_total"]
    assert after["sessiond_queue_oldest_seconds"] == after["sessiond_hub_lag_seconds"] == 0
    assert after["sessiond_sweeps_total done sweeper"] >= 1
    assert after["sessiond_sweeps_total failed reaper"] == after["sessiond_swept_total sessions"] == 0
    assert after["sessiond_calls_in_progress"] == after["sessiond_watchers"] == 0
    assert after["sessiond_store_reachable"] == 1
    assert after[f"sessiond_build_info {version('sessiond')}"] == 1
    assert "python_gc_collections_total 0" in after
    assert not [name for name in after if name.startswith("sessiond_cache")]
    # Nothing that a tenant or its operators name.
    for secret in ("reader-of-books", "alexandria", "papyrus", "hypatia", "burnt", key):
        assert secret not in repr(after)


async def test_streams_are_seen_while_they_are_open() -> None:
    async with serving("--store", "memory", *METRICS) as server, sessiond.Client(server.target) as client:
        await client.create_session(session_id="s1")
        async with client.watch("s1", from_beginning=True) as watch:
            await anext(watch)
            seen = await server.metrics()
            assert seen["sessiond_watchers"] == seen["sessiond_calls_in_progress"] == 1
        await server.until_metric("sessiond_watchers", 0)


async def test_transfers_and_their_bytes_are_counted() -> None:
    content = bytes(300_000)
    async with serving("--store", "memory", *METRICS) as server, sessiond.Client(server.target) as client:
        await client.create_session(session_id="s1", active=True)
        attachment = await client.upload("s1", content)
        after = await server.metrics()
        assert after["sessiond_transfer_bytes_total received"] >= len(content)
        assert after["sessiond_transfer_bytes_total sent"] == 0
        times = 20
        for _ in range(times):
            assert await client.download("s1", attachment.attachment_id).read() == content

        async def counted() -> bool:  # what had to be sent again counts as well
            return (await server.metrics())["sessiond_transfer_bytes_total sent"] >= times * len(content)

        await until(counted)
        await server.until_metric("sessiond_transfers", 0)


async def test_the_cache_going_away_and_coming_back_shows(postgres_dsn: str, tmp_path: Path) -> None:
    valkey = Valkey(tmp_path / "valkey")
    await valkey.start()
    try:
        async with serving("--postgres-dsn", postgres_dsn, "--redis-url", valkey.url, *METRICS) as server:
            await server.until_metric("sessiond_cache_usable", 1)
            async with sessiond.Client(server.target) as client:
                await client.create_session(session_id="s1", active=True)
                await _reads_are_counted(client, server)
                before = await server.metrics()
                valkey.kill()
                await server.until_metric("sessiond_cache_usable", 0)
                await client.append_messages("s1", [sessiond.user("unheard")])
                away = await server.metrics()
                await valkey.start()
                await server.until_metric("sessiond_cache_usable", 1)
                await server.until_metric("sessiond_cache_dirty_sessions", 0)
                after = await server.metrics()
            assert await server.stop() == 0
    finally:
        valkey.kill()
    assert before["sessiond_cache_dirty_sessions"] == 0
    assert away["sessiond_cache_dirty_sessions"] == 1
    assert away["sessiond_store_reachable"] == 1
    assert after["sessiond_cache_epochs_total"] > before["sessiond_cache_epochs_total"]
    assert away["sessiond_cache_openings_total"] > before["sessiond_cache_openings_total"]


async def _reads_are_counted(client: sessiond.Client, server: Serving) -> None:
    before = await server.metrics()
    for _ in range(5):
        await client.get_session("s1")
    after = await server.metrics()
    hits, misses = (after[name] - before[name] for name in (HITS, MISSES))
    assert hits + misses == 5
    assert hits


def test_a_taken_port_is_said_in_words() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        refused = command("serve", "--listen", "127.0.0.1:0", "--store", "memory", "--metrics-listen", address)
    assert refused.returncode == 1
    assert f"cannot listen on {address}" in refused.stderr
    assert "--metrics-listen" in refused.stderr
    assert "Traceback" not in refused.stderr
