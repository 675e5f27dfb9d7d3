"""The map from sessions to servers of a Redis Cluster, kept up to date.

Each master has its own Node, with its own connections and its own epoch. When a slot moves to another master, by a
failover or by resharding, that master begins a new epoch: entries that this process wrote to the former master may not
have moved with the slot.
"""

import asyncio
import logging
from binascii import crc_hqx
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from random import Random
from typing import Any, Final

import hiredis
from redis.asyncio.connection import Connection, SSLConnection

from sessiond_server.redis.link import LinkLost, open_link
from sessiond_server.redis.node import Node
from sessiond_server.tasks import run_in_background

_log = logging.getLogger("sessiond.cache")

SLOTS: Final = 16384
PAUSE: Final = 5.0
PAUSE_IN_TROUBLE: Final = 0.5
"""Seconds between two requests for the slot map: PAUSE while all servers are ready, else PAUSE_IN_TROUBLE."""

Address = tuple[str, int]
Make = Callable[[Mapping[str, Any], bytes], Node]
"""Makes a node from (arguments of the connection, key of the epoch)."""


def slot_of(tag: bytes) -> int:
    """The slot of the keys with the hash tag `tag`."""
    return crc_hqx(tag.partition(b"}")[0], 0) % SLOTS


class Cluster:
    """The nodes of the cluster's masters. `run` keeps the map of `node_of` up to date until it is cancelled."""

    def __init__(self, seed: Mapping[str, Any], prefix: bytes, timeout: float, random: Random, make: Make) -> None:
        self.nodes: dict[Address, Node] = {}
        self._seed = seed
        self._prefix = prefix
        self._timeout = timeout
        self._random = random
        self._make = make
        self._slots: list[Node | None] = [None] * SLOTS
        self._tasks: dict[Address, asyncio.Task[None]] = {}
        self._moved = asyncio.Event()

    def node_of(self, tag: bytes) -> Node | None:
        """The node that has the keys with the hash tag `tag`; None while no master is known to have them."""
        return self._slots[slot_of(tag)]

    def moved(self) -> None:
        """Requests the slot map soon, because a server no longer has a slot."""
        self._moved.set()

    async def run(self) -> None:
        try:
            while True:
                self._moved.clear()
                self._apply(await self._ask())
                well = bool(self.nodes) and all(node.ready for node in self.nodes.values())
                with suppress(TimeoutError):
                    async with asyncio.timeout(PAUSE if well else PAUSE_IN_TROUBLE):
                        await self._moved.wait()
                        await asyncio.sleep(PAUSE_IN_TROUBLE / 2)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _ask(self) -> Mapping[Address, Sequence[range]]:
        """The masters and their slots, from the first server that answers; empty if none answers."""
        known: list[Mapping[str, Any]] = [toward(self._seed, address) for address in self.nodes]
        self._random.shuffle(known)
        for arguments in (*known, self._seed):
            with _passing_over_errors():
                link = await open_link(arguments, self._timeout)
                try:
                    return masters_of(await link.ask(b"CLUSTER", b"SLOTS"), str(arguments.get("host", "localhost")))
                finally:
                    link.close()
        return {}

    def _apply(self, masters: Mapping[Address, Sequence[range]]) -> None:
        if not masters:
            return
        slots: list[Node | None] = [None] * SLOTS
        for address, ranges in masters.items():
            mine = [slot for part in ranges for slot in part]
            epoch_key = self._epoch_key(set(mine))
            node = self.nodes.get(address)
            if node is None:
                node = self.nodes[address] = self._make(toward(self._seed, address), epoch_key)
                self._tasks[address] = run_in_background(node.run(), f"cache-{address[1]}")
            else:
                node.keep_epoch_in(epoch_key)
            for slot in mine:
                slots[slot] = node
            if any(self._slots[slot] not in (None, node) for slot in mine):
                node.new_epoch()
        self._slots = slots
        for address in self.nodes.keys() - masters.keys():
            self.nodes.pop(address)
            self._tasks.pop(address).cancel()

    def _epoch_key(self, slots: set[int]) -> bytes:
        """The first key of a fixed series whose slot is in `slots`, so that all processes choose the same key."""
        number = 0
        while slot_of(b"epoch%d" % number) not in slots:
            number += 1
        return self._prefix + b"{epoch%d}" % number


@contextmanager
def _passing_over_errors() -> Iterator[None]:
    """Suppresses every error of one server: the caller asks the next server, and this one again later."""
    try:
        yield
    except (LinkLost, hiredis.ReplyError):
        pass
    except Exception as error:
        _log.warning("cannot read the slot map from a server of the cluster: %s", type(error).__name__)


def toward(seed: Mapping[str, Any], address: Address) -> Mapping[str, Any]:
    """The connection arguments of `seed`, changed to connect to another server of the cluster."""
    kind = seed.get("connection_class", Connection)
    kind = kind if issubclass(kind, SSLConnection) else Connection
    return {**seed, "connection_class": kind, "host": address[0], "port": address[1]}


def masters_of(reply: Any, asked: str) -> dict[Address, list[range]]:
    """The masters and their slots from a reply to CLUSTER SLOTS. An empty host stands for `asked`, the queried host."""
    masters: dict[Address, list[range]] = {}
    for first, last, master, *_ in reply:
        host = _text(master[0]) or asked
        masters.setdefault((host, int(master[1])), []).append(range(int(first), int(last) + 1))
    return masters


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
