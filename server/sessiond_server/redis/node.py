"""One Redis or Valkey server: connects, checks its identity and epoch, and uses it while both stay the same."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Final

import hiredis

from sessiond_server.domain.rows import Key
from sessiond_server.redis import entries, scripts
from sessiond_server.redis.lane import QUIET_TURNS, Lane
from sessiond_server.redis.link import Link, LinkLost, open_link
from sessiond_server.store.cached.contract import MAX_AGE, CacheLimits, Change, Copy, Forget

_log = logging.getLogger("sessiond.cache")

HEARTBEAT: Final = 1.0
"""Seconds between two checks of the server's identity. This bounds how long the cache still reads a server that was
demoted, or was replaced behind a proxy that keeps connections open."""

LONGEST_PAUSE: Final = 2.0
"""Longest backoff in seconds before the next attempt to connect; half of each backoff is random."""

STEADY: Final = 5.0
"""Seconds of use after which the backoff starts again from its shortest value."""

MOST_WAITING: Final = 4096
"""Most reads that wait for one server; a further read is answered with None, a cache miss."""

MOST_OFFERS: Final = 256
"""Number of waiting changes from which offers to this server are dropped."""

_RUN_ID = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Timeouts of the cache in seconds."""

    connect: float = 1.0
    """Timeout of opening a connection, including TLS and sign-in. No caller waits for it: until the connection is open,
    the cache is not used."""
    answer: float = 0.05
    """Time from a call to its reply."""


class Node:
    """A server of the cache. `run` connects to it and keeps it in use.

    Callbacks: `changed` with `ready` when that has changed; `begun` when the server has another epoch, before that
    epoch is used; `moved` when the server no longer has a key; `unreadable` when a read found a damaged entry.

    The node is also the circuit breaker: `ready` says whether it lets calls through, and the attempts of `run`, for
    which no caller waits, are the half-open state. Reads and writes use separate connections, so that a read never
    waits behind a batch of writes.
    """

    def __init__(
        self,
        arguments: Mapping[str, Any],
        *,
        prefix: bytes,
        epoch_key: bytes,
        limits: CacheLimits,
        timeouts: Timeouts,
        random: Random,
        changed: Callable[[bool], None],
        begun: Callable[[], None],
        moved: Callable[[], None],
        unreadable: Callable[[], None],
    ) -> None:
        self.ready = False
        self.reason = "not connected yet"
        self._epoch_key = epoch_key
        self._arguments = arguments
        self._prefix = prefix
        self._limits = limits
        self._timeouts = timeouts
        self._random = random
        self._changed = changed
        self._begun = begun
        self._moved = moved
        self._unreadable = unreadable
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._run_id: bytes | None = None
        self._begin_new = False
        """Whether the next handshake must begin a new epoch."""
        self._load = True
        """Whether the next handshake must load the scripts."""
        self._epoch = b""
        self._clock_ms = 0.0
        """The server's clock minus the loop's, in milliseconds."""
        self._names: entries.Names
        self._reads: Lane
        self._writes: Lane
        self._outage_logged = False
        """Whether the log says that the server cannot be used."""

    def get(self, key: Key, content: bool, newest: int) -> "asyncio.Future[Copy | None]":
        """See `Cache.get`."""
        answer: asyncio.Future[Copy | None] = self._loop.create_future()
        if not self.ready or self._reads.waiting >= MOST_WAITING:
            answer.set_result(None)
        else:
            names = self._names.of(key)
            commands, count = entries.read(names, content, newest)
            self._reads.add(commands, count, partial(self._got, answer, names, newest))
        return answer

    def put(self, changes: Sequence[Change], done: Callable[[Sequence[bool]], None]) -> None:
        """See `Cache.put`; `done` receives the results."""
        if not self.ready:
            done([False] * len(changes))
        else:
            try:
                commands = b"".join([self._packed(change) for change in changes])
            except Exception:
                # This is a defect of this process. The caller has committed its write and must get an answer.
                _log.exception("cannot encode a change for the cache")
                done([False] * len(changes))
                return
            self._writes.add(commands, len(changes), partial(self._did, len(changes), done))

    def busy(self) -> bool:
        """Whether the server is not ready, or has too many waiting changes to accept optional ones."""
        return not self.ready or self._writes.waiting >= MOST_OFFERS

    def new_epoch(self) -> None:
        """See `Cache.new_epoch`."""
        self._begin_new = True
        self._doubt("a new epoch is due")

    def keep_epoch_in(self, key: bytes) -> None:
        """Stores the epoch under `key`, which must be the same in all processes. Another key begins a new epoch."""
        if key != self._epoch_key:
            self._epoch_key = key
            self.new_epoch()

    async def run(self) -> None:
        """Connects, and reconnects with backoff, until cancelled."""
        failures = 0
        while True:
            began = self._loop.time()
            try:
                await self._use()
            except LinkLost as lost:
                self._fail(str(lost))
            except hiredis.ReplyError as refusal:
                self._fail(code(refusal))
            except Exception as error:
                # The server's answer, or the client library that signs in, failed in an unexpected way.
                self._fail(type(error).__name__)
            if self._loop.time() - began > STEADY:
                failures = 0
            longest = min(0.01 * 4**failures, LONGEST_PAUSE)
            failures = min(failures + 1, 10)
            await asyncio.sleep(longest * (0.5 + self._random.random() / 2))

    async def _use(self) -> None:
        """Connects, and repeats the handshake at intervals. Raises once a connection is lost or a handshake fails."""
        reader = await open_link(self._arguments, self._timeouts.connect, self._timeouts.answer)
        try:
            writer = await open_link(self._arguments, self._timeouts.connect, self._timeouts.answer)
            try:
                self._load = True
                reader.on_lost = writer.on_lost = self._wake.set
                await self._handshake_until_lost(reader, writer)
            finally:
                writer.close()
        finally:
            reader.close()

    async def _handshake_until_lost(self, reader: Link, writer: Link) -> None:
        fresh, began = True, self._loop.time()
        while True:
            self._wake.clear()
            await self._handshake(reader, writer, fresh)
            fresh = False
            # A new epoch or a doubt that came up during the handshake requires another handshake.
            if not self._begin_new and not self._wake.is_set():
                self._set_ready(True, "")
            try:
                async with asyncio.timeout(HEARTBEAT):
                    await self._wake.wait()
            except TimeoutError:
                if self._outage_logged and self.ready and self._loop.time() - began > STEADY:
                    self._outage_logged = False
                    _log.info("the cache is used again")
                continue
            if lost := reader.lost or writer.lost:
                raise LinkLost(lost)

    async def _handshake(self, reader: Link, writer: Link, fresh: bool) -> None:
        """The handshake: reads the server's run id, epoch and clock, and creates new lanes for a new epoch."""
        run_id = (await about_server(writer)).get(b"run_id", b"").ljust(_RUN_ID)[:_RUN_ID]
        if fresh and (await about_server(reader)).get(b"run_id", b"").ljust(_RUN_ID)[:_RUN_ID] != run_id:
            raise LinkLost("the two connections reached different servers")
        begin_new, self._begin_new = self._begin_new, False
        # Entries that this process wrote to another server, or before a restart, may be missing here.
        forced = begin_new or self._run_id not in (None, run_id)
        try:
            epoch, clock = await self._current_epoch(writer, run_id, forced)
        except BaseException:
            self._begin_new = forced
            raise
        self._run_id = run_id
        self._clock_ms = int(clock) - self._loop.time() * 1000
        if fresh or epoch != self._epoch:
            if epoch != self._epoch:
                self._begun()
            self._epoch = epoch
            self._names = entries.Names(self._prefix, epoch[_RUN_ID:])
            self._reads = Lane(reader, self._epoch_key, epoch, self._lane_changed, QUIET_TURNS)
            self._writes = Lane(writer, self._epoch_key, epoch, self._lane_changed, 0)

    async def _current_epoch(self, writer: Link, run_id: bytes, forced: bool) -> tuple[bytes, bytes]:
        name = secrets.token_hex(8).encode()
        ask = (b"EVALSHA", scripts.EPOCH.sha, b"1", self._epoch_key, run_id, name, b"1" if forced else b"0")
        if not self._load:
            try:
                epoch, clock = await writer.ask(*ask)
            except hiredis.ReplyError as refusal:
                if not code(refusal).endswith("NOSCRIPT"):
                    raise
            else:
                return epoch, clock
        for script in scripts.ALL:
            await writer.ask(b"SCRIPT", b"LOAD", script.source)
        self._load = False
        epoch, clock = await writer.ask(*ask)
        return epoch, clock

    def _packed(self, change: Change) -> bytes:
        names = self._names.of(change.key)
        if isinstance(change, Forget):
            return entries.forgetting(names, change, self._limits)
        latest = round((change.as_of.time + MAX_AGE) * 1000 + self._clock_ms)
        ttl = round(self._limits.ttl * 1000 * (0.8 + 0.2 * self._random.random()))
        return entries.putting(names, change, self._limits, latest, ttl)

    def _got(
        self,
        answer: "asyncio.Future[Copy | None]",
        names: tuple[bytes, bytes],
        newest: int,
        replies: Sequence[Any] | None,
    ) -> None:
        copy: Copy | None = None
        try:
            if replies is not None:
                copy = entries.copy(names[0], replies, newest)
        except hiredis.ReplyError as refusal:
            self._refused(refusal)
        except Exception:
            self._discard(names, replies, newest)
        finally:
            if not answer.done():
                answer.set_result(copy)

    def _discard(self, names: tuple[bytes, bytes], replies: Sequence[Any] | None, newest: int) -> None:
        """Removes a damaged entry. If that fails, the next read finds the entry again."""
        self._unreadable()
        if not self.busy():
            self._writes.add(entries.discarding(names, replies, newest), 1, self._discarded)

    def _discarded(self, replies: Sequence[Any] | None) -> None:
        """Handles an error reply: the scripts may have been flushed, or the server may have become a replica."""
        if replies is not None and isinstance(replies[0], Exception):
            self._refused(replies[0])

    def _did(self, count: int, done: Callable[[Sequence[bool]], None], replies: Sequence[Any] | None) -> None:
        if replies is None:
            done([False] * count)
            return
        done([isinstance(reply, int) and reply >= 0 for reply in replies])
        for reply in replies:
            if isinstance(reply, Exception):
                self._refused(reply)
                break
            if reply < 0:
                self._doubt("its clock was set")
                break

    def _refused(self, error: Exception) -> None:
        """Handles an error reply to a command on entries: the server is full, is read-only, lacks the scripts or the
        key, and so on."""
        why = code(error)
        if why.endswith("NOSCRIPT"):
            self._load = True
        elif why.endswith(("MOVED", "ASK", "CLUSTERDOWN")):
            self._moved()
            return
        self._doubt(why)

    def _lane_changed(self) -> None:
        self._doubt("the epoch changed")

    def _doubt(self, why: str) -> None:
        """Takes the server out of use until the next handshake, and requests that handshake at once."""
        self._set_ready(False, why)
        self._wake.set()

    def _fail(self, why: str) -> None:
        self._set_ready(False, why)
        if not self._outage_logged:
            self._outage_logged = True
            _log.warning("the cache cannot be used: %s", why)

    def _set_ready(self, ready: bool, reason: str) -> None:
        was, self.ready, self.reason = self.ready, ready, reason
        if was != ready:
            self._changed(ready)


async def about_server(link: Link, *command: bytes) -> dict[bytes, bytes]:
    """The fields of INFO server, or of another command that answers in the same form. Raises LinkLost and
    hiredis.ReplyError."""
    info: Any = await link.ask(*(command or (b"INFO", b"server")))
    text: bytes = info.encode() if isinstance(info, str) else info
    return dict(line.partition(b":")[::2] for line in text.split(b"\r\n") if b":" in line)


def code(error: Exception) -> str:
    """A text with the first word of an error reply, its code. The rest is left out: it may name keys or users."""
    return f"the server answers {str(error).partition(' ')[0]}"
