"""Keys and certificates that an operator replaces while `sessiond serve` runs."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest

import sessiond
from sessiond.v1 import attachment_service_pb2 as a
from sessiond.v1 import event_service_pb2 as e
from sessiond.v1 import session_service_pb2 as s
from sessiond.v1.attachment_service_pb2_grpc import AttachmentServiceStub
from sessiond.v1.session_pb2 import Session
from sessiond_server.auth import new_key
from sessiond_server.reloading import look
from tests.support.certificates import Identity, authority, issued
from tests.support.serve_process import Serving, command, serving
from tests.support.waiting import until
from tests.support.wire import Failure, Wire


def replace(path: Path, data: bytes | str) -> None:
    """In one step, as `mv` does."""
    beside = path.with_suffix(".new")
    beside.write_bytes(data.encode() if isinstance(data, str) else data)
    os.replace(beside, path)


@asynccontextmanager
async def talking(server: Serving, credentials: grpc.ChannelCredentials | None = None) -> AsyncIterator[Wire]:
    """A connection of its own."""
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", "sessiond.example"))
    if credentials is None:
        channel = grpc.aio.insecure_channel(server.target, options)
    else:
        channel = grpc.aio.secure_channel(server.target, credentials, options)
    async with channel:
        yield Wire(None, server.port, channel, None, None)  # type: ignore[arg-type]


async def refused(wire: Wire, key: str) -> bool:
    try:
        await wire.call("CountSessions", s.CountSessionsRequest(), key=key)
    except Failure as failure:
        return failure.reason == "UNAUTHENTICATED"
    return False


async def test_a_removed_key_is_refused_and_its_streams_end_with_their_positions(tmp_path: Path) -> None:
    """A key that is added is known, one that stays is not disturbed."""
    (kept, kept_entry), (gone, gone_entry), (added, added_entry) = (
        new_key(n, "acme") for n in ("kept", "gone", "added")
    )
    keys = tmp_path / "keys.toml"
    keys.write_text(kept_entry + gone_entry)
    async with serving("--store", "memory", "--keys-file", keys) as server, talking(server) as wire:
        await wire.call("CreateSession", s.CreateSessionRequest(session=Session(session_id="s")), key=kept)
        watches: dict[str, list[Any]] = {
            key: [
                wire.watch("WatchSession", e.WatchSessionRequest(session_id="s"), key=key, timeout=None),
                wire.watch("WatchEvents", e.WatchEventsRequest(), key=key, timeout=None),
            ]
            for key in (kept, gone)
        }
        for watch in (*watches[kept], *watches[gone]):
            await watch.read()
        replace(keys, kept_entry + added_entry)
        await until(lambda: refused(wire, gone))
        assert not await refused(wire, kept)
        assert not await refused(wire, added)
        await wire.call("TouchSession", s.TouchSessionRequest(session_id="s"), key=kept)
        for rpc, watch in zip(("WatchSession", "WatchEvents"), watches[gone], strict=True):
            *_, last = [frame async for frame in until_end(watch)]
            assert isinstance(last, Failure)
            assert (last.code, last.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
            position = watch.going_away.position
            requests = {
                "WatchSession": e.WatchSessionRequest(session_id="s", position=position),
                "WatchEvents": e.WatchEventsRequest(position=position),
            }
            again = wire.watch(rpc, requests[rpc], key=kept, timeout=None)
            assert (await again.read()).HasField("resumed")
            assert (await again.read()).events.events[0].seq == 2
            again.cancel()
        for watch in watches[kept]:
            assert (await watch.read()).events.events[0].seq == 2
            watch.cancel()
        assert await server.stop() == 0
        assert "the keys were read again: 2 in" in server.log.read_text()


@pytest.mark.long
async def test_transfers_of_a_removed_key_end_and_those_of_others_go_on(tmp_path: Path) -> None:
    (kept, kept_entry), (gone, gone_entry) = (new_key(name, "acme") for name in ("kept", "gone"))
    keys = tmp_path / "keys.toml"
    keys.write_text(kept_entry + gone_entry)
    content = bytes(range(256)) * (16 * 1024)
    half = len(content) // 2
    # A client that takes in no more than it is asked for: a download is not over before it is read.
    small = (("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536))
    async with (
        serving("--store", "memory", "--keys-file", keys) as server,
        grpc.aio.insecure_channel(server.target, small) as channel,
    ):
        async with sessiond.Client(server.target, api_key=kept) as client:
            await client.create_session("s", active=True)
            await client.upload("s", content, attachment_id="there")
        stub: Any = AttachmentServiceStub(channel)
        go, uploads, downloads = asyncio.Event(), {}, {}

        async def sending(name: str) -> AsyncIterator[a.UploadAttachmentRequest]:
            header = a.UploadHeader(
                session_id="s", attachment_id=name, size_bytes=len(content), sha256=sha256(content).digest()
            )
            yield a.UploadAttachmentRequest(header=header)
            for at in range(0, len(content), half // 8):
                if at == half:
                    await go.wait()
                yield a.UploadAttachmentRequest(chunk=content[at : at + half // 8])

        for name, key in (("kept", kept), ("gone", gone)):
            metadata = (("authorization", f"Bearer {key}"),)
            uploads[name] = stub.UploadAttachment(sending(name), metadata=metadata)
            await uploads[name].initial_metadata()
            request = a.DownloadAttachmentRequest(session_id="s", attachment_id="there")
            downloads[name] = stub.DownloadAttachment(request, metadata=metadata)
            await downloads[name].initial_metadata()
        replace(keys, kept_entry)
        await server.until_logged("2 streams end")
        for ended in (uploads["gone"], drained(downloads["gone"])):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ended
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        go.set()
        assert (await uploads["kept"]).size_bytes == len(content)
        assert await drained(downloads["kept"]) == len(content)
        assert await server.stop() == 0


async def drained(download: Any) -> int:
    """Bytes of all chunks that come."""
    return sum([len(frame.chunk) async for frame in download])


async def until_end(watch: Any) -> AsyncIterator[Any]:
    """The frames, and the failure; `watch.going_away` is the one that announced it."""
    while True:
        try:
            frame = await watch.read()
        except Failure as failure:
            yield failure
            return
        if frame.HasField("going_away"):
            watch.going_away = frame.going_away
        yield frame


@pytest.mark.long
async def test_a_broken_file_keeps_the_keys_and_says_so(tmp_path: Path) -> None:
    key, entry = new_key("ada", "acme")
    other, other_entry = new_key("eve", "acme")
    keys = tmp_path / "keys.toml"
    keys.write_text(entry)
    async with serving("--store", "memory", "--keys-file", keys) as server, talking(server) as wire:
        for broken, says in (
            (other_entry + "[[keys]]\n", "entry 2 of keys: name must be"),
            ("", "must hold [[keys]] entries"),
            ("keys = []", "holds no keys"),
        ):
            replace(keys, broken)
            await server.until_logged(says)
            assert not await refused(wire, key)
            assert await refused(wire, other)
        keys.unlink()
        await server.until_logged("the keys in use stay: " + str(keys) + ": No such file")
        assert not await refused(wire, key)
        replace(keys, other_entry)
        await until(lambda: refused(wire, key))
        assert not await refused(wire, other)
        assert await server.stop() == 0


async def test_sighup_reads_the_files_again_and_does_not_stop(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(new_key("ada", "acme")[1])
    async with serving("--store", "memory", "--keys-file", keys) as server:
        server.process.send_signal(signal.SIGHUP)
        await server.until_logged("the keys were read again: 1 in")
        assert await server.stop() == 0
    async with serving("--store", "memory") as server:
        server.process.send_signal(signal.SIGHUP)
        await server.until_logged("there are no files to read again")
        assert await server.stop() == 0


def test_change_of_rights_alone_is_seen(tmp_path: Path) -> None:
    """A file that could not be read for want of rights is read again once it has them."""
    keys = tmp_path / "keys.toml"
    keys.write_text("")
    keys.chmod(0o600)
    before = look((keys,))
    assert look((keys,)) == before
    keys.chmod(0o644)
    assert look((keys,)) != before


@pytest.mark.long
async def test_a_key_is_refused_from_its_expiry_on(tmp_path: Path) -> None:
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=20)
    key, entry = new_key("ada", "acme", expires=soon)
    keys = tmp_path / "keys.toml"
    keys.write_text(entry)
    async with serving("--store", "memory", "--keys-file", keys) as server, talking(server) as wire:
        watch: Any = wire.watch("WatchEvents", e.WatchEventsRequest(), key=key, timeout=None)
        await watch.read()
        *_, last = [frame async for frame in until_end(watch)]
        assert isinstance(last, Failure)
        assert last.reason == "UNAUTHENTICATED"
        assert watch.going_away.position
        assert await refused(wire, key)
        assert datetime.now(UTC) >= soon
        assert await server.stop() == 0


def trusting(identity: Identity, own: Identity | None = None) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(identity.certificate, *(own or ()))


async def serves(server: Serving, credentials: grpc.ChannelCredentials) -> bool:
    """Whether a new connection with these credentials can be made."""
    async with talking(server, credentials) as wire:
        try:
            await wire.call("CountSessions", s.CountSessionsRequest())
        except Failure as failure:
            return failure.code != grpc.StatusCode.UNAVAILABLE
        return True


@pytest.mark.long
async def test_new_connections_get_the_new_certificate_and_old_ones_stay(tmp_path: Path) -> None:
    ours = authority(tmp_path / "ca")
    old, new = issued(ours, tmp_path / "old"), issued(ours, tmp_path / "new")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificate.write_bytes(old.certificate)
    key.write_bytes(old.key)
    tls = ("--tls-cert-file", certificate, "--tls-key-file", key)
    async with serving("--store", "memory", *tls) as server, talking(server, trusting(old)) as wire:
        await wire.call("CountSessions", s.CountSessionsRequest())
        # The first half of a replacement does not belong to the other: what is served stays.
        replace(certificate, new.certificate)
        await server.until_logged("the certificates in use stay")
        assert await serves(server, trusting(old))
        # The probe asks for what is served, whatever lies on the disk.
        probed = await asyncio.to_thread(command, "healthcheck", "--listen", server.target, *tls)
        assert (probed.returncode, probed.stdout) == (0, f"{server.target}: SERVING\n")
        replace(key, new.key)
        await until(lambda: serves(server, trusting(new)))
        assert not await serves(server, trusting(old))
        await wire.call("CountSessions", s.CountSessionsRequest())
        probed = await asyncio.to_thread(command, "healthcheck", "--listen", server.target, *tls)
        assert probed.returncode == 0
        replace(key, "not a key")
        server.process.send_signal(signal.SIGHUP)
        await server.until_logged("both must be PEM, without a password, and belong together")
        assert await serves(server, trusting(new))
        assert await server.stop() == 0
        assert "PRIVATE" not in server.log.read_text()


@pytest.mark.long
async def test_mutual_tls_lets_in_certificates_of_its_authority_alone(tmp_path: Path) -> None:
    ours, theirs = authority(tmp_path / "ours"), authority(tmp_path / "theirs")
    own, friend, stranger = issued(ours, tmp_path / "own"), issued(ours, tmp_path / "f"), issued(theirs, tmp_path / "s")
    paths = {}
    for name, data in (("cert", own.certificate), ("key", own.key), ("client_ca", ours.certificate)):
        paths[name] = tmp_path / f"{name}.pem"
        paths[name].write_bytes(data)
    tls = (
        *("--tls-cert-file", paths["cert"], "--tls-key-file", paths["key"]),
        *("--tls-client-ca-file", paths["client_ca"]),
    )
    async with serving("--store", "memory", *tls) as server:
        assert "mutual TLS" in server.announced
        assert await serves(server, trusting(ours, friend))
        assert not await serves(server, trusting(ours, stranger))
        assert not await serves(server, trusting(ours))
        probed = await asyncio.to_thread(command, "healthcheck", "--listen", server.target, *tls)
        assert probed.returncode == 0, probed.stdout
        checked = await asyncio.to_thread(command, "check", "--store", "memory", "--listen", server.target, *tls)
        assert f"certificates of {paths['client_ca']}" in checked.stdout
        assert "says SERVING" in checked.stdout
        replace(paths["client_ca"], theirs.certificate)
        await until(lambda: serves(server, trusting(ours, stranger)))
        assert not await serves(server, trusting(ours, friend))
        assert await server.stop() == 0


def test_files_that_cannot_be_used_are_named_at_start(tmp_path: Path) -> None:
    ours = authority(tmp_path / "ca")
    one, other = issued(ours, tmp_path / "one"), issued(ours, tmp_path / "other")
    certificate, key, junk = tmp_path / "c.pem", tmp_path / "k.pem", tmp_path / "junk.pem"
    certificate.write_bytes(one.certificate)
    key.write_bytes(other.key)
    junk.write_bytes(b"junk")
    tls = ("--store", "memory", "--listen", "127.0.0.1:0", "--tls-cert-file", certificate, "--tls-key-file", key)
    for asked in ("serve", "check"):
        found = command(asked, *tls)
        assert found.returncode == 1
        assert "belong together" in found.stdout + found.stderr
        assert "Traceback" not in found.stderr
    key.write_bytes(one.key)
    refused_ca = command("check", *tls, "--tls-client-ca-file", junk)
    assert refused_ca.returncode == 1
    assert f"{junk}: must be PEM certificates" in refused_ca.stdout
    alone = command("check", "--tls-client-ca-file", junk)
    assert alone.returncode == 2
    assert "--tls-client-ca-file needs" in alone.stderr


def test_a_new_key_may_have_an_expiry() -> None:
    for given, shown in (("2999-01-31T00:00:00Z", "expires = 2999-01-31T00:00:00Z"), ("90d", "expires = 2")):
        made = command("keys", "new", "--name", "ada", "--expires", given)
        assert made.returncode == 0, made.stderr
        assert shown in made.stdout
    for wrong in ("2999-01-31", "soon", "90"):
        refused_time = command("keys", "new", "--name", "ada", "--expires", wrong)
        assert refused_time.returncode == 2
        assert "--expires must be a duration" in refused_time.stderr
