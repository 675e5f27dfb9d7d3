"""A cache whose reads and changes are spans."""

from asyncio import Future
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from sessiond_server.domain.rows import Key
from sessiond_server.spans import Span, recorded
from sessiond_server.store.cached.contract import Cache, CacheLimits, Change, Copy

_GET: Final = {"db.system.name": "redis", "db.operation.name": "get"}
_PUT: Final = {"db.system.name": "redis", "db.operation.name": "put"}


class TracedCache:
    """Implements `contract.Cache` on another one. The span of a read has `sessiond.cache.hit`."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self.moment = cache.moment
        self.offer = cache.offer
        self.new_epoch = cache.new_epoch
        self.became_ready = cache.became_ready
        self.state = cache.state

    @property
    def ready(self) -> bool:
        return self._cache.ready

    @property
    def limits(self) -> CacheLimits:
        return self._cache.limits

    def get(self, key: Key, *, content: bool = False, newest: int = 0) -> "Future[Copy | None]":
        found = self._cache.get(key, content=content, newest=newest)
        if (call := recorded()) is not None:
            found.add_done_callback(partial(_got, call.child("cache get", _GET, client=True)))
        return found

    def put(self, changes: Sequence[Change]) -> "Future[Sequence[bool]]":
        done = self._cache.put(changes)
        if changes and (batch := recorded()) is not None:
            span = batch.child("cache put", {**_PUT, "db.operation.batch.size": len(changes)}, client=True)
            done.add_done_callback(partial(_put, span))
        return done


def _got(span: Span, found: "Future[Copy | None]") -> None:
    if not found.cancelled():
        span.set({"sessiond.cache.hit": found.result() is not None})
    span.end(_error(found))


def _put(span: Span, done: "Future[Sequence[bool]]") -> None:
    span.end(_error(done) or ("" if done.cancelled() or all(done.result()) else "unconfirmed"))


def _error(future: "Future[Any]") -> str:
    return "CancelledError" if future.cancelled() else ""
