"""The cache on Redis 6.2 or later, or on Valkey: a single server or a cluster.

docs/cache.md lists the permissions that the ACL user needs.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from random import Random
from types import TracebackType

import hiredis

from sessiond_server.domain.rows import Key
from sessiond_server.redis.cluster import Cluster
from sessiond_server.redis.entries import tag
from sessiond_server.redis.link import LinkLost, open_link, parse
from sessiond_server.redis.node import Node, Timeouts, about_server
from sessiond_server.store.cached.contract import CacheLimits, CacheState, CacheTime, Change, Copy, Forget, Put
from sessiond_server.tasks import run_in_background

_log = logging.getLogger("sessiond.cache")


class RedisCache:
    """Implements `store.cached.contract.Cache`. Use as `async with RedisCache(url) as cache`, then call `begin`.

    `__aenter__` and `begin` do not wait for the server. Closing the cache leaves its entries in Redis.
    """

    def __init__(
        self,
        url: str,
        *,
        limits: CacheLimits | None = None,
        timeouts: Timeouts | None = None,
        random: Random | None = None,
    ) -> None:
        """Raises ValueError for a URL that redis-py does not know."""
        self._limits = limits or CacheLimits()
        self._timeouts = timeouts or Timeouts()
        self._arguments = parse(url)
        self._prefix = b""
        self._random = random or Random()
        self._cluster: Cluster | None = None
        self._node: Node | None = None
        self._reason = "not begun yet"
        self._ready = False
        self._epoch = 0
        """Number of epochs begun so far, on all servers that the cluster has or had. It never decreases."""
        self._unreadable = self._openings = 0
        self._waiters: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None

    def begin(self, prefix: str) -> None:
        """Starts connecting in the background, and reconnecting whenever a connection is lost.

        `prefix` starts all keys and contains no braces. All processes that serve one database must use the same prefix,
        and no other process may use it: two databases may have sessions with the same key.
        """
        self._prefix = prefix.encode()
        self._task = run_in_background(self._run(), "cache")

    async def __aenter__(self) -> "RedisCache":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for waiter in self._waiters:
            waiter.cancel()

    @property
    def ready(self) -> bool:
        return self._ready

    @property
    def limits(self) -> CacheLimits:
        return self._limits

    def moment(self) -> CacheTime:
        return CacheTime(asyncio.get_running_loop().time(), self._epoch)

    def get(self, key: Key, *, content: bool = False, newest: int = 0) -> "asyncio.Future[Copy | None]":
        node = self._node_of(key)
        if node is not None:
            return node.get(key, content, newest)
        nothing: asyncio.Future[Copy | None] = asyncio.get_running_loop().create_future()
        nothing.set_result(None)
        return nothing

    def put(self, changes: Sequence[Change]) -> "asyncio.Future[Sequence[bool]]":
        answer: asyncio.Future[Sequence[bool]] = asyncio.get_running_loop().create_future()
        epoch = self._epoch
        if (
            self._cluster is None
            and self._node is not None
            and all(isinstance(change, Forget) or change.as_of.epoch == epoch for change in changes)
        ):
            self._node.put(changes, partial(_settle, answer))
            return answer
        shares: dict[int, tuple[Node | None, list[int]]] = {}
        for place, change in enumerate(changes):
            node = self._node_of(change.key)
            if isinstance(change, Put) and change.as_of.epoch != epoch:
                # The copy was read in an earlier epoch. This epoch has no newer entry that would keep it out.
                node = None
            shares.setdefault(id(node), (node, []))[1].append(place)
        gathered = [False] * len(changes)
        missing = len(shares)

        def did(places: Sequence[int], results: Sequence[bool]) -> None:
            nonlocal missing
            for place, result in zip(places, results, strict=True):
                gathered[place] = result
            missing -= 1
            if not missing:
                _settle(answer, gathered)

        for node, places in shares.values():
            if node is None:
                did(places, [False] * len(places))
            else:
                node.put([changes[place] for place in places], partial(did, places))
        if not shares:
            _settle(answer, gathered)
        return answer

    def offer(self, put: Put) -> None:
        node = self._node_of(put.key)
        if node is not None and put.as_of.epoch == self._epoch and not node.busy():
            node.put((put,), _ignore)

    def new_epoch(self) -> None:
        for node in self._nodes():
            node.new_epoch()

    async def became_ready(self) -> None:
        while not self._ready:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def state(self) -> CacheState:
        nodes = self._nodes()
        reasons = [node.reason for node in nodes if not node.ready] or ([] if nodes else [self._reason])
        ready = self._ready and not reasons
        return CacheState(ready, "; ".join(reasons), self._epoch, self._unreadable, self._openings)

    async def _run(self) -> None:
        if await self._is_cluster():
            self._cluster = Cluster(
                self._arguments, self._prefix, self._timeouts.connect, self._random, self._make_node
            )  # fmt: skip
            await self._cluster.run()
        else:
            self._node = self._make_node(self._arguments, self._prefix + b"epoch")
            await self._node.run()

    async def _is_cluster(self) -> bool:
        """Whether the server is part of a cluster. Retries until it answers."""
        pause = 0.02
        while True:
            try:
                link = await open_link(self._arguments, self._timeouts.connect)
                try:
                    about = await about_server(link)
                    return b"cluster" in (about.get(b"redis_mode"), about.get(b"server_mode"))
                finally:
                    link.close()
            except LinkLost as lost:
                reason = str(lost)
            except hiredis.ReplyError:
                reason = "the server refuses INFO"
            except Exception as error:
                # The server's answer, or the client library that signs in, failed in an unexpected way.
                reason = type(error).__name__
            if reason != self._reason:
                self._reason = reason
                _log.warning("the cache cannot be used: %s", reason)
            await asyncio.sleep(pause * (0.5 + self._random.random() / 2))
            pause = min(2 * pause, 2.0)

    def _make_node(self, arguments: object, epoch_key: bytes) -> Node:
        assert isinstance(arguments, dict)
        return Node(
            arguments,
            prefix=self._prefix,
            epoch_key=epoch_key,
            limits=self._limits,
            timeouts=self._timeouts,
            random=self._random,
            changed=self._changed,
            begun=self._begun,
            moved=self._cluster.moved if self._cluster else _nowhere,
            unreadable=self._found_unreadable,
        )

    def _node_of(self, key: Key) -> Node | None:
        return self._node if self._cluster is None else self._cluster.node_of(tag(key))

    def _nodes(self) -> Sequence[Node]:
        if self._cluster is not None:
            return list(self._cluster.nodes.values())
        return [self._node] if self._node is not None else []

    def _begun(self) -> None:
        self._epoch += 1

    def _found_unreadable(self) -> None:
        if not self._unreadable:
            _log.warning("a cache entry is damaged and was not used; the metric cache_unreadable counts such entries")
        self._unreadable += 1

    def _changed(self, ready: bool) -> None:
        self._openings += not ready
        self._ready = any(node.ready for node in self._nodes())
        if self._ready:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                with suppress(asyncio.InvalidStateError):
                    waiter.set_result(None)


def _settle(answer: "asyncio.Future[Sequence[bool]]", results: Sequence[bool]) -> None:
    if not answer.done():
        answer.set_result(results)


def _ignore(results: Sequence[bool]) -> None:
    """Drops the results of `offer`: an offered copy may be lost."""


def _nowhere() -> None:
    """Does nothing: on a single server no key ever moves."""
