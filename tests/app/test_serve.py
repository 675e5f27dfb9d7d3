"""`sessiond serve` as a process: what it prints, when it is ready, how it stops, what it refuses."""

import asyncio
import gc
import os
import resource
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import sessiond
from sessiond_server.auth import SCOPES, new_key
from sessiond_server.cli import open_files, serve
from sessiond_server.embedded import running_dsn
from sessiond_server.embedded.postgres import read_postmaster
from sessiond_server.rpc import probe
from tests.support.serve_process import command, data_folder, serving
from tests.support.waiting import PATIENCE, until


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_serves_from_memory_until_it_gets_a_signal(how: signal.Signals) -> None:
    async with serving("--store", "memory") as server:
        assert "in memory: lost when the service stops" in server.announced
        assert "without keys, from this machine only" in server.announced
        assert probe.health("127.0.0.1", server.port, PATIENCE) == "SERVING"
        async with sessiond.Client(server.target) as client:
            session = await client.create_session(user_id="ada")
            assert (await client.get_session(session.session_id)).user_id == "ada"
        assert await server.stop(how) == 0
        assert await server.rest() == "stopped\n"
        assert probe.health("127.0.0.1", server.port, 1.0) == "UNREACHABLE"


def test_what_the_start_has_made_is_kept_from_the_garbage_collector() -> None:
    thresholds = gc.get_threshold()
    try:
        serve.spare_the_collector()
        assert gc.get_freeze_count() > 10_000
        assert len(gc.get_objects()) < 1_000, "a search would look at what the start has made"
        assert gc.get_threshold() == serve.COLLECTED_AFTER
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)


async def test_it_may_open_as_many_files_as_the_system_allows() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        async with serving("--store", "memory") as server:
            allowed = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
            assert allowed == (open_files.most(), hard)
            assert allowed[0] > 512
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_second_signal_ends_it_at_once() -> None:
    async with serving("--store", "memory", "--drain-pause", "10m") as server:
        server.process.send_signal(signal.SIGTERM)
        await server.until_logged("stopping")
        assert probe.health("127.0.0.1", server.port, PATIENCE) == "NOT_SERVING"
        assert await server.stop(signal.SIGTERM) == 128 + signal.SIGTERM
        assert await server.rest() == ""


@pytest.mark.long
async def test_bundled_servers_keep_what_was_acknowledged_through_a_kill_and_leave_nothing_behind() -> None:
    with data_folder() as data:
        async with serving("--data-dir", data) as server:
            assert f"{data} (new; bundled Postgres and Valkey)" in server.announced
            async with sessiond.Client(server.target) as client:
                await client.create_session(session_id="kept", active=True)
                await client.append_messages("kept", [sessiond.user("acknowledged")])
            shown = command("show", "kept", "--data-dir", data)
            assert await server.stop(signal.SIGKILL) == -signal.SIGKILL
            await until(lambda: running_dsn(data) is None)
        async with serving("--data-dir", data) as server:
            assert f"{data} (bundled Postgres and Valkey)" in server.announced
            async with sessiond.Client(server.target) as client:
                messages = [message async for message in client.list_messages("kept")]
            assert [message.parts[0].text for message in messages] == ["acknowledged"]
            assert await server.stop() == 0
        assert running_dsn(data) is None
        again = command("show", "kept", "--data-dir", data)
    assert shown.returncode == again.returncode == 0, shown.stderr + again.stderr
    assert "acknowledged" in shown.stdout
    assert shown.stdout == again.stdout


@pytest.mark.long
async def test_starts_the_bundled_postgres_again_when_it_dies(used_data: Path) -> None:
    async with serving("--data-dir", used_data) as server, sessiond.Client(server.target) as client:
        await client.create_session(session_id="before")
        first = read_postmaster(used_data / "postgres")
        assert first
        os.kill(first.pid, signal.SIGKILL)
        await until(lambda: (now := read_postmaster(used_data / "postgres")) and now.ready and now.pid != first.pid)
        await client.create_session(session_id="after", timeout=PATIENCE)
        assert (await client.get_session("before")).session_id == "before"
        await until(lambda: probe.health("127.0.0.1", server.port, 1.0) == "SERVING")
        assert await server.stop() == 0


async def test_two_cannot_serve_from_one_data_folder(used_data: Path) -> None:
    async with serving("--data-dir", used_data) as server:
        second = command("serve", "--listen", "127.0.0.1:0", "--data-dir", used_data)
        assert second.returncode == 1
        assert f"another sessiond (process {server.process.pid}) is running on the data folder" in second.stderr
        assert await server.stop() == 0


async def test_migrates_a_given_database_and_prints_no_password(empty_postgres_dsn: str) -> None:
    dsn = empty_postgres_dsn + ("&" if "?" in empty_postgres_dsn else "?") + "sslpassword=hunter2"
    async with serving(SESSIOND_POSTGRES_DSN=dsn) as server:
        async with sessiond.Client(server.target) as client:
            await client.create_session(session_id="there")
        assert await server.stop() == 0
        assert "hunter2" not in server.announced + await server.rest() + server.log.read_text()
    assert "sslpassword=***" in server.announced


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds the processes of Postgres through /proc")
async def test_health_follows_the_database(used_data: Path) -> None:
    async with serving("--data-dir", used_data, "--outage", "0", "--metrics-listen", "127.0.0.1:0") as server:
        assert (await server.metrics())["sessiond_store_reachable"] == 1
        running = read_postmaster(used_data / "postgres")
        assert running
        os.kill(running.pid, signal.SIGSTOP)
        for child in _children(running.pid):
            os.kill(child, signal.SIGSTOP)
        await until(lambda: probe.health("127.0.0.1", server.port, 1.0) == "NOT_SERVING")
        await server.until_metric("sessiond_store_reachable", 0)
        for child in _children(running.pid):
            os.kill(child, signal.SIGCONT)
        os.kill(running.pid, signal.SIGCONT)
        await until(lambda: probe.health("127.0.0.1", server.port, 1.0) == "SERVING")
        await server.until_metric("sessiond_store_reachable", 1)
        assert await server.stop() == 0


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_calls_without_a_known_key_are_refused(tmp_path: Path) -> None:
    key, entry = new_key("billing", "acme", "", SCOPES)
    (tmp_path / "keys.toml").write_text(entry)
    async with serving("--store", "memory", "--keys-file", tmp_path / "keys.toml") as server:
        assert "(1 key)" in server.announced
        async with sessiond.Client(server.target) as nobody:
            with pytest.raises(sessiond.Unauthenticated):
                await nobody.get_session("any")
        async with sessiond.Client(server.target, api_key=key) as billing:
            await billing.create_session(session_id="mine")
        assert await server.stop() == 0
        assert key not in server.log.read_text()


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """(certificate, private key) of a name that is not the server's address."""
    paths = (tmp_path / "cert.pem", tmp_path / "key.pem")
    made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    named = ["-subj", "/CN=sessiond", "-addext", "subjectAltName=DNS:sessiond.example"]
    subprocess.run(["openssl", *made, *named, "-out", paths[0], "-keyout", paths[1]], check=True, capture_output=True)
    return paths


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate")
async def test_serves_tls_and_its_own_probe_knows(certificate: tuple[Path, Path]) -> None:
    tls = ("--tls-cert-file", certificate[0], "--tls-key-file", certificate[1])
    async with serving("--store", "memory", *tls) as server:
        assert ", TLS)" in server.announced
        plain = command("healthcheck", "--listen", server.target)
        secure = command("healthcheck", "--listen", server.target, *tls)
        assert await server.stop() == 0
    assert (plain.returncode, secure.returncode) == (1, 0)
    assert secure.stdout == f"{server.target}: SERVING\n"


def test_refuses_to_listen_on_the_network_without_keys_and_says_what_to_do() -> None:
    refused = command("serve", "--listen", "0.0.0.0:0", "--store", "memory")
    assert refused.returncode == 2
    for advice in ("sessiond keys new", "--keys-file", "--allow-unauthenticated-network"):
        assert advice in refused.stderr


def test_a_taken_port_is_said_in_words() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused = command("serve", "--listen", f"127.0.0.1:{taken.getsockname()[1]}", "--store", "memory")
    assert refused.returncode == 1
    assert "--listen" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_keys_file_without_keys_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keys.toml").write_text("keys = []\n")
    refused = command("serve", "--listen", "127.0.0.1:0", "--store", "memory", "--keys-file", tmp_path / "keys.toml")
    assert refused.returncode == 1
    assert "keys.toml" in refused.stderr
    assert "Traceback" not in refused.stderr


async def _cache_health(port: int) -> int:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service="cache"), timeout=20)
        return int(answer.status)


@pytest.mark.long
async def test_health_reports_the_cache_and_does_not_depend_on_it(postgres_dsn: str, redis_url: str) -> None:
    serving_, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    async with serving("--postgres-dsn", postgres_dsn, "--redis-url", redis_url) as server:
        async with asyncio.timeout(60):
            while await _cache_health(server.port) != serving_:  # noqa: ASYNC110  another process's state
                await asyncio.sleep(0.05)
        assert await server.stop() == 0
    async with serving("--postgres-dsn", postgres_dsn, "--redis-url", "redis://127.0.0.1:1/0") as server:
        assert await _cache_health(server.port) == not_serving
        assert probe.health("127.0.0.1", server.port, 20.0) == "SERVING"
        assert await server.stop() == 0


@pytest.mark.long
async def test_configured_redis_is_used_with_the_bundled_postgres(redis_url: str) -> None:
    with data_folder() as data:
        async with serving("--data-dir", data, "--redis-url", "redis://127.0.0.1:1/0") as server:
            assert f"{data} (new; bundled Postgres)" in server.announced
            assert await _cache_health(server.port) == health_pb2.HealthCheckResponse.NOT_SERVING
            assert await server.stop() == 0
        assert not (data / "log" / "valkey.log").exists()
        async with serving("--data-dir", data, "--redis-url", redis_url) as server:
            async with asyncio.timeout(60):
                while await _cache_health(server.port) != health_pb2.HealthCheckResponse.SERVING:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert await server.stop() == 0
