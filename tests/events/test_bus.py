"""Every sentence of events/bus.py, over every bus."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from sessiond_server.domain.rows import Key
from sessiond_server.events.bus import Bus, Deltas, Hint
from tests.support import buses
from tests.support.buses import Backend
from tests.support.listener import Ear
from tests.support.odd_ids import ODD_IDS
from tests.support.redis_cluster import ClusterOfThree

ONE: Key = ("acme", "one")
TWO: Key = ("acme", "two")
SAME_ID: Key = ("other", "one")


@pytest.fixture(params=["memory", "redis", "cluster", "notify", "combined"])
def servers(request: pytest.FixtureRequest) -> list[str]:
    """Started here, where no event loop runs yet."""
    match request.param:
        case "redis":
            return ["redis", request.getfixturevalue("redis_url")]
        case "cluster":
            cluster: ClusterOfThree = request.getfixturevalue("cluster_of_three")
            return ["redis", *[server.url for server in cluster.servers]]
        case "notify":
            return ["notify", request.getfixturevalue("bus_dsn")]
        case "combined":
            return ["combined", request.getfixturevalue("redis_url"), request.getfixturevalue("bus_dsn")]
        case _:
            return ["memory"]


@pytest.fixture
async def backend(servers: list[str], bus_prefix: str) -> AsyncIterator[Backend]:
    async with AsyncExitStack() as stack:
        match servers:
            case ["redis", *urls]:
                yield buses.redis(stack, urls, bus_prefix)
            case ["notify", dsn]:
                yield buses.notify(stack, dsn, bus_prefix)
            case ["combined", url, dsn]:
                yield buses.combined(stack, url, dsn, bus_prefix)
            case _:
                yield buses.memory()


@pytest.fixture
async def bus(backend: Backend) -> Bus:
    return await backend.open()


async def test_hint_reaches_every_listener(backend: Backend) -> None:
    mine, other = await backend.open(), await backend.open()
    ears = [Ear(mine), Ear(mine), Ear(other)]
    mine.publish_hints([Hint(ONE, 3), Hint(SAME_ID, 8)])
    for ear in ears:
        await ear.heard(Hint(ONE, 3), Hint(SAME_ID, 8))
        assert ear.hints == {ONE: 3, SAME_ID: 8}


async def test_hints_of_a_session_are_merged_and_the_latest_arrives(backend: Backend) -> None:
    mine, other = await backend.open(), await backend.open()
    ear = Ear(other)
    for seq in range(1, 501):
        mine.publish_hints([Hint(ONE, seq), Hint(TWO, seq + 1)])
    await ear.heard(Hint(ONE, 500), Hint(TWO, 501))
    assert ear.hints == {ONE: 500, TWO: 501}
    assert ear.calls < 100, "what waited was merged"


async def test_hints_that_come_out_of_order_do_not_go_backwards(bus: Bus) -> None:
    ear = Ear(bus)
    bus.publish_hints([Hint(ONE, 9), Hint(ONE, 4), Hint(TWO, 1)])
    await ear.heard(Hint(ONE, 9), Hint(TWO, 1))
    assert ear.hints == {ONE: 9, TWO: 1}


async def test_flood_of_hints_is_delivered_or_reported_as_missed(backend: Backend) -> None:
    mine, other = await backend.open(), await backend.open()
    ear = Ear(other)
    keys = [("acme", f"{number:0128}") for number in range(20_000)]
    for first in range(0, len(keys), 100):
        mine.publish_hints([Hint(key, 5) for key in keys[first : first + 100]])
    await ear.until(lambda: ear.missed > 0 or len(ear.hints) == len(keys))
    mine.publish_hints([Hint(ONE, 1)])
    await ear.heard(Hint(ONE, 1))


async def test_closed_listener_gets_no_hints(bus: Bus) -> None:
    left, stayed = Ear(bus), Ear(bus)
    left.close()
    left.close()
    bus.publish_hints([Hint(ONE, 1)])
    bus.publish_deltas(Deltas(ONE, [b"d"]))
    await stayed.heard(Hint(ONE, 1))
    await stayed.until(lambda: bool(stayed.deltas))
    assert not left.hints
    assert not left.deltas


async def test_listener_is_never_called_inside_publish(bus: Bus) -> None:
    ear = Ear(bus)
    bus.publish_hints([Hint(ONE, 1)])
    bus.publish_deltas(Deltas(ONE, [b"d"]))
    assert not ear.hints
    assert not ear.deltas
    await ear.heard(Hint(ONE, 1))


async def test_deltas_arrive_in_order_and_unchanged(backend: Backend) -> None:
    mine, other = await backend.open(), await backend.open()
    ears = [Ear(mine), Ear(other)] if backend.deltas_travel else [Ear(mine)]
    awkward = [b"a\nb c\r\n", b"*", b"", bytes(range(256)), "gr\u00fc\u00df".encode(), b"\n"]
    for number in range(50):
        mine.publish_deltas(Deltas(ONE, [b"%d" % number, *awkward]))
        mine.publish_deltas(Deltas(TWO, [b"two %d" % number]))
    for ear in ears:
        await ear.until(lambda ear=ear: len(ear.deltas.get(TWO, ())) == 50)  # type: ignore[misc]
        assert ear.deltas[ONE] == [data for number in range(50) for data in (b"%d" % number, *awkward)]
        assert ear.deltas[TWO] == [b"two %d" % number for number in range(50)]


async def test_large_deltas_arrive(backend: Backend) -> None:
    mine, other = await backend.open(), await backend.open()
    ear = Ear(other if backend.deltas_travel else mine)
    pieces = [bytes([number]) * 65_536 for number in range(4)]
    mine.publish_deltas(Deltas(ONE, pieces))
    await ear.until(lambda: len(ear.deltas.get(ONE, ())) == 4)
    assert ear.deltas[ONE] == pieces


async def test_a_bus_that_works_is_ready_and_says_so_once(bus: Bus) -> None:
    assert bus.ready
    ear = Ear(bus)
    bus.publish_hints([Hint(ONE, 1)])
    await ear.heard(Hint(ONE, 1))
    assert bus.ready
    assert ear.missed == 0


async def test_empty_publish_sends_nothing(bus: Bus) -> None:
    ear = Ear(bus)
    bus.publish_hints([])
    bus.publish_hints([Hint(ONE, 1)])
    await ear.heard(Hint(ONE, 1))
    assert ear.hints == {ONE: 1}
    assert ear.missed == 0


async def test_hints_and_deltas_of_every_id_arrive(backend: Backend) -> None:
    mine, other = await backend.open(), await backend.open()
    heard = Ear(other)
    ear = Ear(other if backend.deltas_travel else mine)
    hints = [Hint(("acme", session_id), number) for number, session_id in enumerate(ODD_IDS, 1)]
    for hint in hints:
        mine.publish_hints([hint])
    mine.publish_hints(hints)
    await heard.heard(*hints)
    assert heard.hints == {hint.key: hint.seq for hint in hints}
    for hint in hints:
        mine.publish_deltas(Deltas(hint.key, [b"\n 1 \x00", b""]))
    await ear.until(lambda: len(ear.deltas) == len(hints))
    assert ear.deltas == {hint.key: [b"\n 1 \x00", b""] for hint in hints}
