"""A cache in the memory of this process, for tests. It passes the same suite as the Redis cache.

A `MemoryServer` stands for the server, each `MemoryCache` for one process's connection to it.
"""

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from sessiond_server.domain.rows import Key
from sessiond_server.store.cached.contract import (
    MAX_AGE,
    CacheLimits,
    CacheState,
    CacheTime,
    Change,
    Copy,
    Forget,
    Put,
    seq_of,
)


class Mark(NamedTuple):
    """Keeps copies below `version` out; from `ends` on those below `floor`: the highest that it kept out before."""

    version: int
    ends: float
    floor: int = 0

    def at(self, time: float) -> int:
        """The version below which no copy is taken."""
        return self.version if time < self.ends else self.floor


Entry = tuple[float, Copy | Mark]
"""(expiry, a copy or a mark)."""

Content = tuple[float, int, bytes]
"""(expiry, content_version, content)."""

Place = tuple[int, Key]
"""(number of the epoch, key)."""

Snapshot = tuple[tuple[int, int] | None, dict[Place, Entry], dict[Place, Content]]


class MemoryServer:
    """The state that all processes share. `time` returns seconds."""

    def __init__(
        self, time: Callable[[], float], limits: CacheLimits | None = None, random: Random | None = None
    ) -> None:
        self.limits = limits or CacheLimits()
        self.run_id = 1
        self.epoch: tuple[int, int] | None = None
        """(run id of the server that began the epoch, its number); None without an epoch."""
        self.entries: dict[Place, Entry] = {}
        self.contents: dict[Place, Content] = {}
        self.time = time
        self._random = random or Random()
        self._epochs = 0

    def greet(self, begin_new: bool) -> int:
        """Returns the number of the current epoch. Begins a new one if asked to, or if the server has restarted."""
        if begin_new or self.epoch is None or self.epoch[0] != self.run_id:
            self._epochs += 1
            self.epoch = (self.run_id, self._epochs)
        return self.epoch[1]

    def flush(self) -> None:
        """Removes everything, including the epoch."""
        self.entries.clear()
        self.contents.clear()
        self.epoch = None

    def restart_from(self, snapshot: Snapshot) -> None:
        """Restarts as another server with the contents of the snapshot."""
        self.run_id += 1
        self.epoch, self.entries, self.contents = snapshot[0], dict(snapshot[1]), dict(snapshot[2])

    def snapshot(self) -> Snapshot:
        return self.epoch, dict(self.entries), dict(self.contents)

    def held(self, place: Place) -> Copy | int | None:
        """The copy, or the version below which no copy is taken."""
        entry = self.entries.get(place)
        if entry is None or entry[0] <= self.time():
            return None
        return entry[1].at(self.time()) if isinstance(entry[1], Mark) else entry[1]

    def _keep_out(self, place: Place, version: int, until: float) -> None:
        """Remembers what a mark keeps out: it may be newer than a read that arrives when the mark is over."""
        expiry, mark = self.entries[place]
        assert isinstance(mark, Mark)
        if self.time() < mark.ends:
            self.entries[place] = (max(expiry, until), mark._replace(floor=max(mark.floor, version)))

    def put(self, epoch: int, put: Put) -> bool:
        """Applies the put. False if its copy is older than MAX_AGE."""
        if self.time() > put.as_of.time + MAX_AGE:
            return False
        place, new = (epoch, put.key), put.copy
        until = self.time() + self.limits.ttl * (0.8 + 0.2 * self._random.random())
        held = self.held(place)
        reach, messages = new.after_seq, list(new.messages)
        if isinstance(held, Copy):
            if held.version > new.version:
                return True
            if held.version == new.version and held.after_seq <= new.after_seq:
                self._put_content(place, new, until)
                return True
            if put.extends and held.version == new.after_seq:
                reach, messages = held.after_seq, [*held.messages, *messages]
        elif held is not None and held > new.version:
            self._keep_out(place, new.version, until)
            return True
        while len(messages) > self.limits.window or sum(map(len, messages)) > self.limits.window_bytes:
            reach = seq_of(messages.pop(0))
        self.entries[place] = (until, new._replace(after_seq=reach, messages=messages, content=None))
        if (kept := self.contents.get(place)) is not None:
            self.contents[place] = (until, kept[1], kept[2])
        self._put_content(place, new, until)
        return True

    def _put_content(self, place: Place, new: Copy, until: float) -> None:
        if not new.content_version or new.content is None or len(new.content) > self.limits.content_bytes:
            return
        kept = self.contents.get(place)
        if kept is None or kept[0] <= self.time() or kept[1] < new.content_version:
            self.contents[place] = (until, new.content_version, new.content)

    def forget(self, epoch: int, forget: Forget) -> None:
        place = (epoch, forget.key)
        held, until = self.held(place), self.time() + self.limits.ttl
        if isinstance(held, Copy):
            if held.version >= forget.version:
                return
        elif held is not None and held > forget.version:
            self._keep_out(place, forget.version, until)
            return
        self.entries[place] = (until, Mark(forget.version, until))
        self.contents.pop(place, None)

    def get(self, epoch: int, key: Key, content: bool, newest: int) -> Copy | None:
        held = self.held((epoch, key))
        if not isinstance(held, Copy):
            return None
        messages = list(held.messages)[-newest:] if newest else []
        cut = newest and len(messages) == newest
        found = held._replace(messages=messages, after_seq=seq_of(messages[0]) - 1 if cut else held.after_seq)
        if content:
            kept = self.contents.get((epoch, key))
            if not held.content_version:
                found = found._replace(content=b"")
            elif kept is not None and kept[0] > self.time() and kept[1] == held.content_version:
                found = found._replace(content=kept[2])
        return found


class MemoryCache:
    """A Cache (see contract.py)."""

    def __init__(self, server: MemoryServer) -> None:
        self._server = server
        self._run_id = server.run_id
        self._epoch = server.greet(False)
        self._epochs = 0

    @property
    def ready(self) -> bool:
        return True

    @property
    def limits(self) -> CacheLimits:
        return self._server.limits

    def moment(self) -> CacheTime:
        return CacheTime(self._server.time(), self._epoch)

    def get(self, key: Key, *, content: bool = False, newest: int = 0) -> "asyncio.Future[Copy | None]":
        answer: asyncio.Future[Copy | None] = asyncio.get_running_loop().create_future()
        answer.set_result(None if self._changed() else self._server.get(self._epoch, key, content, newest))
        return answer

    def put(self, changes: Sequence[Change]) -> "asyncio.Future[Sequence[bool]]":
        answer: asyncio.Future[Sequence[bool]] = asyncio.get_running_loop().create_future()
        if self._changed():
            answer.set_result([False] * len(changes))
        else:
            answer.set_result([self._apply(change) for change in changes])
        return answer

    def offer(self, put: Put) -> None:
        self.put([put])

    def new_epoch(self) -> None:
        self._epoch = self._server.greet(True)
        self._epochs += 1

    async def became_ready(self) -> None:
        """Returns at once: this cache is always ready."""

    def state(self) -> CacheState:
        return CacheState(True, "", self._epochs, unreadable=0)

    def _apply(self, change: Change) -> bool:
        if isinstance(change, Put):
            return change.as_of.epoch == self._epoch and self._server.put(self._epoch, change)
        self._server.forget(self._epoch, change)
        return True

    def _changed(self) -> bool:
        """Whether the server has another epoch than before. If so, this process uses it from now on."""
        server = self._server
        if server.epoch == (self._run_id, self._epoch):
            return False
        # Changes that this process put on another server may be missing here.
        self._epoch = server.greet(self._run_id != server.run_id)
        self._run_id = server.run_id
        self._epochs += 1
        return True
