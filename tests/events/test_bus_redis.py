"""The bus on a Redis that is hurt, and on kinds of servers."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from sessiond_server.domain.rows import Key
from sessiond_server.events.bus import Deltas, Hint
from sessiond_server.events.combined_bus import CombinedBus
from sessiond_server.events.outbox import MOST_DELTA_BYTES
from sessiond_server.redis.bus import BusTimeouts, RedisBus
from tests.support.buses import PATIENT, opened_notify, opened_redis
from tests.support.listener import Ear
from tests.support.proxy import Proxy
from tests.support.redis_cluster import ClusterOfThree
from tests.support.valkey import Valkey
from tests.support.waiting import until

ONE: Key = ("acme", "one")
BRISK = BusTimeouts(connect=0.2, answer=0.2, heartbeat=0.05)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def rings(bus: RedisBus, ear: Ear, seq: int) -> None:
    bus.publish_hints([Hint(ONE, seq)])
    await ear.heard(Hint(ONE, seq))


async def test_bus_reconnects_after_a_restart_and_reports_missed_hints(
    stack: AsyncExitStack, valkey: Valkey, bus_prefix: str
) -> None:
    bus, other = [await opened_redis(stack, valkey.url, bus_prefix) for _ in range(2)]
    ear = Ear(other)
    await rings(bus, ear, 1)
    valkey.kill()
    await until(lambda: not bus.ready and not other.ready)
    bus.publish_hints([Hint(ONE, 2)])
    bus.publish_deltas(Deltas(ONE, [b"gone"]))
    assert bus.dropped_hints >= 1
    assert bus.dropped_deltas == 1
    assert ear.missed == 0
    await valkey.start()
    await until(lambda: bus.ready and other.ready)
    assert ear.missed == 1
    await rings(bus, ear, 3)
    assert not ear.deltas


async def test_stalled_server_is_not_ready_and_blocks_no_caller(
    stack: AsyncExitStack, valkey: Valkey, bus_prefix: str
) -> None:
    bus = await opened_redis(stack, valkey.url, bus_prefix, BRISK)
    ear = Ear(bus)
    valkey.freeze()
    await until(lambda: not bus.ready)
    bus.publish_hints([Hint(ONE, 1)])
    assert bus.dropped_hints == 1
    valkey.thaw()
    await until(lambda: bus.ready)
    assert ear.missed >= 1
    await rings(bus, ear, 2)


@pytest.mark.parametrize("way", ["both", "onward", "back", "crawling"])
async def test_silent_connection_is_replaced_while_new_ones_work(
    stack: AsyncExitStack, valkey: Valkey, bus_prefix: str, way: str
) -> None:
    proxy = await stack.enter_async_context(Proxy("127.0.0.1", valkey.port))
    bus = await opened_redis(stack, f"redis://127.0.0.1:{proxy.port}/0", bus_prefix, BRISK)
    ear = Ear(bus)
    if way == "crawling":
        proxy.crawling = True
    else:
        proxy.silence(onward=way != "back", back=way != "onward")
    if way == "crawling":
        await until(lambda: not bus.ready)
        proxy.flow()
    await until(lambda: bus.ready and ear.missed >= 1)
    await rings(bus, ear, 1)


async def test_what_waits_for_a_stalled_server_is_bounded(
    stack: AsyncExitStack, valkey: Valkey, bus_prefix: str
) -> None:
    bus = await opened_redis(stack, valkey.url, bus_prefix, PATIENT)
    ear = Ear(bus)
    valkey.freeze()
    piece = bytes(64 * 1024)
    for number in range(100):
        bus.publish_deltas(Deltas(ONE, [piece, b"%d" % number]))
        bus.publish_hints([Hint(("acme", f"{number}-{many}"), 1) for many in range(300)])
    assert bus.dropped_deltas >= 2 * (100 - MOST_DELTA_BYTES // len(piece) - 4)
    valkey.thaw()
    await ear.until(lambda: ear.missed > 0 and bool(ear.deltas) and ear.deltas[ONE][-1] == b"99")
    assert len(ear.deltas[ONE]) + bus.dropped_deltas == 200
    assert bus.ready


async def test_sliced_bytes_are_reassembled(stack: AsyncExitStack, valkey: Valkey, bus_prefix: str) -> None:
    proxy = await stack.enter_async_context(Proxy("127.0.0.1", valkey.port))
    proxy.slicing = True
    bus = await opened_redis(stack, f"redis://127.0.0.1:{proxy.port}/0", bus_prefix)
    ear = Ear(bus)
    bus.publish_hints([Hint(("acme", f"{number:0128}"), number) for number in range(1, 501)])
    bus.publish_deltas(Deltas(ONE, [bytes([number]) * 999 for number in range(30)]))
    await ear.until(lambda: len(ear.hints) == 500 and len(ear.deltas.get(ONE, ())) == 30)
    assert ear.hints == {("acme", f"{number:0128}"): number for number in range(1, 501)}
    assert ear.deltas[ONE] == [bytes([number]) * 999 for number in range(30)]


async def test_cut_connection_is_reopened(stack: AsyncExitStack, valkey: Valkey, bus_prefix: str) -> None:
    proxy = await stack.enter_async_context(Proxy("127.0.0.1", valkey.port))
    bus = await opened_redis(stack, f"redis://127.0.0.1:{proxy.port}/0", bus_prefix)
    ear = Ear(bus)
    for turn in range(1, 4):
        proxy.cut()
        await ear.until(lambda turn=turn: ear.missed >= turn)  # type: ignore[misc]
        await rings(bus, ear, turn)


async def test_undecodable_payload_is_reported_as_missed(
    stack: AsyncExitStack, valkey: Valkey, bus_prefix: str
) -> None:
    bus = await opened_redis(stack, valkey.url, bus_prefix)
    ear = Ear(bus)
    async with valkey.client() as client:
        for missed, payload in enumerate((b"", b"\xff\xfe", b"a b c", b"a b 1 2", b"*", b"acme one 1\n"), start=1):
            await client.publish(f"{bus_prefix}hints", payload)
            await ear.until(lambda missed=missed: ear.missed == missed)  # type: ignore[misc]
        for payload in (b"", b"no line", b"a b x\n", b"a b 9\nshort", b"a\n", b"a b -5\n", b"\xff\n", b"a b \n"):
            await client.publish(f"{bus_prefix}deltas", payload)
    await rings(bus, ear, 1)
    assert not ear.deltas
    assert bus.ready


async def test_a_replica_is_not_used(stack: AsyncExitStack, valkey: Valkey, tmp_path: Path, bus_prefix: str) -> None:
    replica = Valkey(tmp_path / "replica", "--replicaof", "127.0.0.1", str(valkey.port))
    stack.callback(replica.stop)
    await replica.start()
    bus = await opened_redis(stack, replica.url, bus_prefix, ready=False)
    await until(lambda: bus.reason == "the server is a replica")
    async with replica.client() as client:
        await client.replicaof("NO", "ONE")
        await until(lambda: bus.ready)
        await client.replicaof("127.0.0.1", str(valkey.port))
    await until(lambda: not bus.ready)


async def test_the_acl_user_of_the_documentation_suffices(
    stack: AsyncExitStack, valkey: Valkey, cluster_of_three: ClusterOfThree
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "cache.md").read_text()
    (rule,) = [line for line in text.splitlines() if line.startswith("ACL SETUSER ")]
    for server in (valkey, cluster_of_three.servers[0]):
        async with server.client() as client:
            await client.execute_command(*rule.replace("PASSWORD", "secret").split())  # type: ignore[no-untyped-call]
        url = f"redis://sessiond:secret@127.0.0.1:{server.port}/0"
        bus = await opened_redis(stack, url, "sessiond:1f:")
        ear = Ear(bus)
        bus.publish_deltas(Deltas(ONE, [b"d"]))
        await rings(bus, ear, 1)
        await ear.until(lambda ear=ear: bool(ear.deltas))  # type: ignore[misc]
        foreign = await opened_redis(stack, url, "foreign:", ready=False)
        await until(lambda foreign=foreign: foreign.reason == "the server answers NOPERM")  # type: ignore[misc]
        assert not foreign.ready


async def test_revoked_permission_makes_the_bus_not_ready(
    stack: AsyncExitStack, valkey: Valkey, bus_prefix: str
) -> None:
    async with valkey.client() as client:
        await client.execute_command("ACL", "SETUSER", "default", "-publish")  # type: ignore[no-untyped-call]
    bus = await opened_redis(stack, valkey.url, bus_prefix)
    bus.publish_hints([Hint(ONE, 1)])
    await until(lambda: bus.reason == "the server answers NOPERM")
    assert bus.dropped_hints == 1


async def test_a_cluster_passes_hints_on_after_a_server_has_gone(tmp_path: Path, bus_prefix: str) -> None:
    cluster = ClusterOfThree(tmp_path)
    try:
        await cluster.start()
        for server in cluster.servers:
            async with server.client() as client:
                await client.config_set("cluster-require-full-coverage", "no")
        async with AsyncExitStack() as stack:
            bus = await opened_redis(stack, cluster.servers[0].url, bus_prefix)
            other = await opened_redis(stack, cluster.servers[1].url, bus_prefix)
            ear = Ear(other)
            await rings(bus, ear, 1)
            cluster.servers[1].kill()
            await ear.until(lambda: ear.missed > 0)
            await until(lambda: other.ready)
            await rings(bus, ear, 2)
    finally:
        cluster.stop()


async def test_outage_is_logged_once(valkey: Valkey, bus_prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    valkey.kill()
    with caplog.at_level(logging.INFO, "sessiond.bus"):
        async with RedisBus(f"redis://u:hidden@127.0.0.1:{valkey.port}/0", timeouts=BRISK) as bus:
            bus.begin(bus_prefix)
            await until(lambda: bus.reason != "not begun yet")
            for _ in range(3):
                bus.publish_hints([Hint(("acme", "private"), 1)])
                await asyncio.sleep(0)
            await valkey.start()
    (record,) = caplog.records
    assert record.getMessage().startswith("hints cannot go through Redis: cannot connect: ConnectionError")
    assert "hidden" not in record.getMessage()


async def test_notify_carries_hints_while_redis_is_down(
    stack: AsyncExitStack, valkey: Valkey, bus_dsn: str, bus_prefix: str
) -> None:
    """One process is cut off from Redis; the other has it, and hears the first through Postgres all the same."""
    proxy = await stack.enter_async_context(Proxy("127.0.0.1", valkey.port))
    redis = await opened_redis(stack, f"redis://127.0.0.1:{proxy.port}/0", bus_prefix, BRISK)
    notify = await opened_notify(stack, bus_dsn, bus_prefix)
    mine = CombinedBus(redis, notify)
    other = CombinedBus(
        await opened_redis(stack, valkey.url, bus_prefix), await opened_notify(stack, bus_dsn, bus_prefix)
    )
    ear, through_postgres = Ear(other), Ear(notify)
    mine.publish_hints([Hint(ONE, 1)])
    await ear.heard(Hint(ONE, 1))
    assert not through_postgres.hints
    proxy.stall()
    await until(lambda: not mine.ready)
    assert notify.ready
    mine.publish_hints([Hint(ONE, 2)])
    own = Ear(mine)
    mine.publish_deltas(Deltas(ONE, [b"here only"]))
    await ear.heard(Hint(ONE, 2))
    await own.until(lambda: ONE in own.deltas)
    proxy.flow()
    await until(lambda: mine.ready)
    assert own.missed >= 1
    own.close()
    mine.publish_hints([Hint(ONE, 3)])
    await ear.heard(Hint(ONE, 3))
    assert ONE not in ear.deltas
    assert own.hints.get(ONE, 0) < 3, "it has left both"
