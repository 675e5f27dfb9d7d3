"""deploy/smoke.py against real servers: what it tries, its exit codes, and that it leaves nothing behind."""

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sessiond
from sessiond_server.auth import SESSIONS_READ, new_key
from tests.support.certificates import authority, issued
from tests.support.ports import free_port
from tests.support.proxy import Proxy
from tests.support.serve_process import Serving, environment, serving
from tests.support.waiting import PATIENCE, until
from tests.support.web import Web, opened_web
from tests.support.wire import ALICE, READER, TENANT

SMOKE_HTTP = Path(__file__).parents[2] / "deploy" / "smoke_http.sh"
SMOKE = Path(__file__).parents[2] / "deploy" / "smoke.py"


async def smoke(*arguments: str | Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, str(SMOKE), *map(str, arguments)],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        stdin=subprocess.DEVNULL,
    )


async def sessions(server: Serving) -> int:
    async with sessiond.Client(server.target) as client:
        return await client.count_sessions()


async def some(server: Serving) -> bool:
    return await sessions(server) > 0


async def test_it_tries_everything_and_deletes_its_session(postgres_dsn: str) -> None:
    async with serving("--postgres-dsn", postgres_dsn) as server:
        ran = await smoke(server.target)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert await sessions(server) == 0
    lines = ran.stdout.splitlines()
    assert all(line.startswith("ok ") for line in lines)
    for thing in ("create", "append", "watch", "upload 300000 bytes", "read", "delete"):
        assert any(line.startswith(f"ok      {thing}") for line in lines), thing


@pytest.mark.long
async def test_it_shows_a_key_and_a_certificate(tmp_path: Path) -> None:
    ours = authority(tmp_path / "authority")
    issued(ours, tmp_path / "server")
    key, entry = new_key("smoke", "acme", "ada")
    (tmp_path / "keys.toml").write_text(entry)
    (tmp_path / "key").write_text(key + "\n")
    ca, certificate, private = tmp_path / "server" / "ca.pem", "certificate.pem", "key.pem"
    identity = ("--tls-cert-file", tmp_path / "server" / certificate, "--tls-key-file", tmp_path / "server" / private)
    trust = ("--tls-ca-file", ca, "--tls-server-name", "sessiond.example", "--timeout", "2")
    service = ("--store", "memory", "--keys-file", tmp_path / "keys.toml", *identity, "--tls-client-ca-file", ca)
    async with serving(*service) as server:
        shown = await smoke(server.target, *trust, *identity, "--key-file", tmp_path / "key", "--user", "ada")
        from_environment = await smoke(server.target, *trust, *identity, "--user", "ada", SESSIOND_KEY=key)
        without_key = await smoke(server.target, *trust, *identity)
        without_certificate = await smoke(server.target, *trust, "--key-file", tmp_path / "key")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert from_environment.returncode == 0, from_environment.stdout
    assert without_key.returncode == 3
    assert "Unauthenticated" in without_key.stdout
    assert without_certificate.returncode == 3
    assert key not in shown.stdout + shown.stderr + without_certificate.stdout


async def test_a_step_that_fails_is_named_and_the_session_is_deleted() -> None:
    async with serving("--store", "memory", "--max-attachment-size", "1000") as server:
        ran = await smoke(server.target)
        assert await sessions(server) == 0
    assert ran.returncode == 1
    assert "FAILED  upload 300000 bytes, and read them back: AttachmentTooLarge" in ran.stdout
    assert ran.stdout.splitlines()[-1].startswith("ok      delete")


@pytest.mark.long
async def test_a_key_that_may_only_read_creates_nothing(tmp_path: Path) -> None:
    key, entry = new_key("reader", "acme", "", [SESSIONS_READ])
    (tmp_path / "keys.toml").write_text(entry)
    async with serving("--store", "memory", "--keys-file", tmp_path / "keys.toml") as server:
        ran = await smoke(server.target, SESSIOND_KEY=key)
    assert ran.returncode == 1
    assert "FAILED  create a session: ScopeMissing" in ran.stdout
    assert "left behind" not in ran.stdout


@pytest.mark.long
async def test_a_session_that_cannot_be_deleted_is_named() -> None:
    async with serving("--store", "memory") as server, Proxy("127.0.0.1", server.port) as proxy:
        running = asyncio.create_task(smoke(f"127.0.0.1:{proxy.port}", "--timeout", "1", "--bytes", "100000000"))
        await until(lambda: some(server))
        proxy.stall()
        ran = await running
        assert await sessions(server) == 1
    assert ran.returncode == 4
    assert "the session is left behind: smoke-" in ran.stdout


async def test_a_service_that_is_not_there_has_an_exit_code_of_its_own() -> None:
    ran = await smoke(f"127.0.0.1:{free_port()}", "--timeout", "1")
    assert ran.returncode == 3
    assert "FAILED  reach 127.0.0.1:" in ran.stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "target"),
        (("h:1", "--tls-cert-file", "c"), "belong together"),
        (("h:1", "--timeout", "0"), "--timeout"),
        (("h:1", "--bytes", "0"), "--bytes"),
        (("h:1", "--key-file", "/nowhere/key"), "/nowhere/key"),
        (("h:1", "--tls-ca-file", "/nowhere/ca"), "/nowhere/ca"),
    ],
)
async def test_wrong_usage_is_said(arguments: tuple[str, ...], problem: str) -> None:
    ran = await smoke(*arguments)
    assert ran.returncode == 2
    assert problem in ran.stderr
    assert "Traceback" not in ran.stderr


async def test_a_key_without_tls_is_not_sent_over_the_network() -> None:
    ran = await smoke("192.0.2.1:50051", SESSIOND_KEY="secret-key")
    assert ran.returncode == 2
    assert "secret-key" not in ran.stdout + ran.stderr


async def smoke_http(web: Web, key: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return await asyncio.to_thread(
        subprocess.run,
        ["bash", str(SMOKE_HTTP), f"http://127.0.0.1:{web.port}", *arguments],
        env=environment(SESSIOND_KEY=key),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("openssl")), reason="needs curl and openssl")
async def test_it_goes_by_curl_alone_and_deletes_its_session() -> None:
    async with opened_web() as web:
        for key, user in ((TENANT, ()), (ALICE, ("alice",))):
            ran = await smoke_http(web, key, *user)
            assert ran.returncode == 0, ran.stdout + ran.stderr
            assert all(line.startswith("ok ") for line in ran.stdout.splitlines())
            assert len(ran.stdout.splitlines()) == 6
        for key, shown in (("wrong", "UNAUTHENTICATED"), (READER, "SCOPE_MISSING")):
            ran = await smoke_http(web, key)
            assert (ran.returncode, shown in ran.stdout) == (1, True), ran.stdout + ran.stderr
            assert key not in ran.stdout + ran.stderr
        assert (await web.get("/v1/sessions:count")).json() == {}
