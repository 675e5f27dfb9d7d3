"""HTTP of a process that serves: its port, TLS, log, and stop."""

import asyncio
import json
import signal
import ssl
from pathlib import Path
from typing import Any

import httpx

from sessiond_server.auth import new_key
from tests.support.certificates import authority, issued
from tests.support.serve_process import Serving, command, serving
from tests.support.waiting import PATIENCE
from tests.support.web import MEMORY, Reader, url_of


async def test_http_is_announced_and_logged_with_the_callers_address_and_stops() -> None:
    async with serving(
        *MEMORY, "--access-log", "all", "--log-format", "json", "--http-trusted-proxies", "127.0.0.1"
    ) as server:
        async with httpx.AsyncClient(base_url=url_of(server), timeout=PATIENCE, trust_env=False) as client:
            assert (await client.get("/healthz")).json() == {"status": "SERVING"}
            proxied = {"x-request-id": "proxied", "x-forwarded-for": "203.0.113.7, 198.51.100.9"}
            assert (await client.get("/v1/sessions", headers=proxied)).status_code == 200
        await server.until_logged('"proxied"')
        assert _record(server, "proxied")["peer"] == "ipv4:198.51.100.9:0"
        assert await server.stop() == 0
        assert await server.rest() == "stopped\n"


async def test_address_that_an_unknown_caller_gives_is_ignored() -> None:
    async with serving(
        *MEMORY, "--access-log", "all", "--log-format", "json", "--http-trusted-proxies", "192.0.2.1"
    ) as server:
        async with httpx.AsyncClient(base_url=url_of(server), timeout=PATIENCE, trust_env=False) as client:
            forged = {"x-request-id": "forged", "x-forwarded-for": "203.0.113.7"}
            assert (await client.get("/v1/sessions", headers=forged)).status_code == 200
        await server.until_logged('"forged"')
        assert _record(server, "forged")["peer"].startswith("ipv4:127.0.0.1:")
        assert "203.0.113.7" not in server.log.read_text()


def _record(server: Serving, request_id: str) -> dict[str, Any]:
    """Of the access log."""
    (found,) = (line for line in server.log.read_text().splitlines() if f'"{request_id}"' in line)
    return dict(json.loads(found))


async def test_taken_port_is_named(tmp_path: Path) -> None:
    async with serving(*MEMORY) as server:
        taken = url_of(server).removeprefix("http://")
        ended = command("serve", "--store", "memory", "--listen", "127.0.0.1:0", "--http-listen", taken)
        assert ended.returncode == 1
        assert f"cannot listen on {taken}" in ended.stderr
        assert "--http-listen" in ended.stderr


async def test_certificates_are_those_of_grpc_and_renewed_with_them(tmp_path: Path) -> None:
    signer, other = authority(tmp_path / "ca"), authority(tmp_path / "other")
    first, second = issued(signer, tmp_path / "first"), issued(other, tmp_path / "second")
    mine = issued(signer, tmp_path / "mine")
    files = {name: tmp_path / name for name in ("cert", "key", "client-ca")}
    files["cert"].write_bytes(first.certificate)
    files["key"].write_bytes(first.key)
    files["client-ca"].write_bytes(signer.certificate)
    keys = tmp_path / "keys.toml"
    key, entry = new_key("me", "default")
    keys.write_text(entry)
    arguments = (
        *(*MEMORY, "--keys-file", keys, "--tls-cert-file", files["cert"], "--tls-key-file", files["key"]),
        *("--tls-client-ca-file", files["client-ca"]),
    )

    def client(base_url: str, trusted: bytes, *, identity: bool = True) -> httpx.AsyncClient:
        context = ssl.create_default_context(cadata=trusted.decode())
        context.check_hostname = False
        if identity:
            context.load_cert_chain(tmp_path / "mine/certificate.pem", tmp_path / "mine/key.pem")
        headers = {"authorization": f"Bearer {key}"}
        return httpx.AsyncClient(verify=context, base_url=base_url, headers=headers, timeout=PATIENCE, trust_env=False)

    assert mine.key
    async with serving(*arguments) as server:
        url = url_of(server)
        assert url.startswith("https://")
        async with client(url, signer.certificate) as found:
            assert (await found.get("/v1/sessions")).json() == {}
        async with client(url, signer.certificate, identity=False) as anonymous:
            refused = await asyncio.gather(anonymous.get("/v1/sessions"), return_exceptions=True)
            assert isinstance(refused[0], httpx.TransportError)
        files["cert"].write_bytes(second.certificate)
        files["key"].write_bytes(second.key)
        server.process.send_signal(signal.SIGHUP)
        await server.until_logged("for connections from now on")
        async with client(url, other.certificate) as found:
            assert (await found.get("/healthz")).status_code == 200


async def test_on_a_stop_requests_end_and_streams_say_so() -> None:
    async with serving(*MEMORY, "--drain-pause", "1s") as server:
        async with httpx.AsyncClient(base_url=url_of(server), timeout=PATIENCE, trust_env=False) as client:
            assert (await client.post("/v1/sessions", json={"session_id": "s"})).status_code == 201
            async with client.stream("GET", "/v1/sessions/s/events") as response:
                reader = Reader(response)
                assert (await reader.until("snapshot")).id
                server.process.send_signal(signal.SIGTERM)
                await server.until_logged("stopping")
                # Load balancers learn of it while calls are still taken.
                health = await client.get("/healthz")
                assert (health.status_code, health.json()) == (503, {"status": "NOT_SERVING"})
                assert (await client.get("/v1/sessions/s")).status_code == 200
                leaving = await reader.until("going_away")
                end = await reader.until("end")
                assert (end.data["reason"], end.data["come_back"], end.data["position"]) == (
                    "DRAINING", True, leaving.id,
                )  # fmt: skip
                assert await reader.read() is None
        assert await server.ended() == 0
