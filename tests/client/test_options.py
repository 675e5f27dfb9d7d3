"""The options of a client: keys, TLS, names, bounds."""

from pathlib import Path

import grpc
import pytest

import sessiond
from sessiond.channel import channel_options
from sessiond.target import is_local
from tests.support.certificates import self_signed
from tests.support.scripted_server import QUIET, ScriptedServer, scripted_server
from tests.support.watch_frames import snapshot

KEY = "sd_not-a-key"


@pytest.mark.parametrize(
    ("target", "local"),
    [
        ("127.0.0.1:50051", True),
        ("127.8.8.8:1", True),
        ("localhost:50051", True),
        ("localhost", True),
        ("[::1]:50051", True),
        ("::1", True),
        ("dns:localhost:50051", True),
        ("dns:///127.0.0.1:50051", True),
        ("dns://8.8.8.8/127.0.0.1:50051", True),
        ("dns://8.8.8.8/localhost:50051", False),
        ("ipv4:127.0.0.1:50051", True),
        ("ipv4:127.0.0.1:1,127.0.0.2:2", True),
        ("ipv6:[::1]:50051", True),
        ("unix:/run/sessiond", True),
        ("unix:///run/sessiond", True),
        ("unix-abstract:sessiond", True),
        ("sessiond:50051", False),
        ("unix:50051x.example", True),
        ("10.0.0.1:50051", False),
        ("0.0.0.0:50051", False),
        ("localhost.example:50051", False),
        ("127.0.0.1.example:50051", False),
        ("[2001:db8::1]:50051", False),
        ("dns:///sessiond:50051", False),
        ("dns://127.0.0.1/sessiond:50051", False),
        ("ipv4:127.0.0.1:1,10.0.0.1:2", False),
        ("ipv6:[2001:db8::1]:50051", False),
        ("xds:///sessiond", False),
        ("", False),
    ],
)
def test_local_targets_are_recognised(target: str, local: bool) -> None:
    assert is_local(target) is local


async def test_key_is_sent_with_every_call(server: ScriptedServer) -> None:
    server.script.append([snapshot(1), QUIET])
    async with sessiond.Client(server.target, api_key=KEY) as client:
        async with client.watch("s"):
            await client.get_session("s")
        await client.append_messages("s", [sessiond.user("hi")])
        assert KEY not in repr(client)
    assert [seen.metadata["authorization"] for seen in server.seen] == [f"Bearer {KEY}"] * 3


async def test_without_a_key_no_header_is_sent(client: sessiond.Client, server: ScriptedServer) -> None:
    await client.get_session("s")
    assert "authorization" not in server.seen[0].metadata


def test_a_key_does_not_cross_the_network_in_clear_text() -> None:
    with pytest.raises(ValueError, match="allow_insecure_key") as caught:
        sessiond.Client("sessiond.example:50051", api_key=KEY)
    assert KEY not in str(caught.value)
    sessiond.Client("sessiond.example:50051", api_key=KEY, allow_insecure_key=True)
    sessiond.Client("sessiond.example:50051", api_key=KEY, tls=sessiond.TLS())


async def test_tls_verifies_the_server_and_its_name(tmp_path: Path) -> None:
    key, root = self_signed(tmp_path)
    credentials = grpc.ssl_server_credentials([(key, root)])
    async with scripted_server(credentials=credentials) as server:
        trusting = sessiond.TLS(root_certificates=root, server_name="sessiond.example")
        async with sessiond.Client(server.target, api_key=KEY, tls=trusting) as client:
            await client.get_session("s")
        assert server.seen[0].metadata["authorization"] == f"Bearer {KEY}"
        once = sessiond.Retry(max_attempts=1)
        for tls in (sessiond.TLS(root_certificates=root), sessiond.TLS(server_name="sessiond.example"), None):
            async with sessiond.Client(server.target, tls=tls, retry=once) as client:
                with pytest.raises(sessiond.Unavailable):
                    await client.get_session("s")
        assert len(server.seen) == 1


async def test_user_agent_names_program_and_library(server: ScriptedServer) -> None:
    async with sessiond.Client(server.target, user_agent="billing/7") as client:
        await client.get_session("s")
    agent = str(server.seen[0].metadata["user-agent"])
    assert agent.startswith("billing/7 sessiond-python/")


@pytest.mark.parametrize("key", ["sd_secret\n", "sd_secret ", "sd_sécret", "sd_\udcffsecret", "\0sd_secret", ""])
def test_invalid_key_is_refused_and_not_quoted(key: str) -> None:
    with pytest.raises(ValueError, match="api_key: must be") as caught:
        sessiond.Client(api_key=key)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: sessiond.Client(timeout=0),
        lambda: sessiond.Client(user_agent="a\nb"),
        lambda: sessiond.Client(user_agent="\udcff"),
        lambda: sessiond.Retry(max_attempts=6),
        lambda: sessiond.Retry(max_attempts=0),
        lambda: sessiond.Retry(initial_backoff=0.001),
        lambda: sessiond.Retry(max_backoff=0.001),
        lambda: sessiond.Retry(multiplier=0.9),
        lambda: sessiond.Retry(token_ratio=0),
        lambda: sessiond.Retry(tokens=1001),
        lambda: sessiond.Keepalive(interval=9),
        lambda: sessiond.Keepalive(timeout=0),
        lambda: sessiond.TLS(client_certificate=b"without its key"),
    ],
)
def test_options_out_of_bounds_are_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=r"must|above|together"):
        make()


def test_keepalive_sets_the_options_that_grpc_uses() -> None:
    options = dict(channel_options("", None, sessiond.Retry(), sessiond.Keepalive(20, 7), 1000, ""))
    assert options["grpc.keepalive_time_ms"] == 20_000
    assert options["grpc.keepalive_timeout_ms"] == options["grpc.http2.ping_timeout_ms"] == 7_000


def test_repr_does_not_show_a_private_key() -> None:
    assert "secret" not in repr(sessiond.TLS(client_certificate=b"c", client_key=b"secret"))
