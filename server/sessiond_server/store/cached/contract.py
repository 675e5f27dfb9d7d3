"""The contract of the cache: copies of sessions that all processes share and that may be lost at any moment.

Every implementation passes tests/cache/test_conformance.py. The server relies on these promises and on nothing else:

- A copy names its version and is whole: it has the core, and every message after `after_seq` up to that version.
- A copy never replaces one of a higher version (G6), and no copy older than a `Forget` that was put is served.
- Copies belong to an epoch. A new epoch hides all copies of earlier epochs, at once and for every process. It begins on
  request, when the server has lost its memory, and when another server answers than before.
- A copy that was read before the epoch began, or more than MAX_AGE seconds ago, is refused, however late it arrives.
  A `Forget` and a copy live longer than that, so that nothing that was read before them can follow them.
- A copy expires at most `ttl` seconds after it was put, which bounds the effect of a lost update.

No method raises because of the cache's state: a copy that is unavailable is None, and a change that is not confirmed is
False. An entry that is not a whole copy of the requested session (damaged, written by another program, of another
layout) is also None; it is counted, and the next copy that is put replaces it. No call waits longer than the cache's
own timeout, and none waits at all while `ready` is False.
A cache belongs to one event loop. Keys are (tenant_id, session_id). Times are seconds of the loop's clock.
"""

from asyncio import Future
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol
from zlib import crc32

from sessiond_server.domain.rows import Key

MAX_AGE: Final = 10.0
"""Seconds after which a copy that was read from the store is too old to put."""

ALL: Final = 2**31
"""Value of `newest` that asks for every message that the cache holds."""

EMBARGO: Final = 10**16 - 1
"""Version of a `Forget` that refuses every copy of the session until the `Forget` expires. Above every version."""

PLACE_BYTES: Final = 16
"""Length of the `seq` in digits, in front of a placed message."""

SUM_BYTES: Final = 4
"""Length of the checksum behind a placed message."""

_RESIDUE: Final = 0x2144DF1C
"""The CRC-32 of any bytes followed by their own CRC-32 in little endian."""


def summed(data: bytes, start: int = 0) -> bytes:
    """Appends a checksum to the data, for `is_whole`. `start`: the checksum of data that precedes it elsewhere."""
    return data + crc32(data, start).to_bytes(SUM_BYTES, "little")


def is_whole(data: bytes, start: int = 0) -> bool:
    """Whether the checksum that `summed` appended still matches the data."""
    return crc32(data, start) == _RESIDUE


def placed(seq: int, message: bytes) -> bytes:
    """A serialised Message with its `seq` in front and its checksum behind, as copies hold it."""
    return summed(b"%016d%b" % (seq, message))


def message_of(placed_message: bytes) -> bytes:
    return placed_message[PLACE_BYTES:-SUM_BYTES]


def seq_of(placed_message: bytes) -> int:
    return int(placed_message[:PLACE_BYTES])


class Copy(NamedTuple):
    """One session at one version, as the cache holds it."""

    version: int
    user_id: str
    content_version: int
    """Session.content_version; 0: no content."""
    core: bytes
    """Serialised Session in SESSION_VIEW_BASIC."""
    content: bytes | None
    """The content of `content_version`; None if it is unknown, not held or not requested."""
    after_seq: int
    """`messages` has every message with a higher `seq`, up to `version`."""
    messages: Sequence[bytes]
    """Placed messages, ascending."""


class CacheTime(NamedTuple):
    """The time as of which a copy is valid; see `Cache.moment`."""

    time: float
    epoch: int
    """Number of the epoch, as this process counts them."""


class Put(NamedTuple):
    """Offers a copy. The cache takes it unless it has a newer one; of the same version it keeps the one with the lower
    `after_seq`."""

    key: Key
    copy: Copy
    as_of: CacheTime
    """`Cache.moment()` from before the read or commit that returned `copy` began."""
    extends: bool = False
    """Whether `copy.messages` are all changes to messages after `copy.after_seq`. A held copy of exactly that version
    then keeps its own messages in front of them."""


class Forget(NamedTuple):
    """From now on no copy of the session below `version` is served or taken. A copy at `version` or above stays.

    With the final version of a deleted session plus one, it is the session's tombstone and also removes its content.
    """

    key: Key
    version: int


Change = Put | Forget


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLimits:
    """How much the cache keeps, and for how long."""

    ttl: float = 60.0
    """Longest life of a copy in seconds; at least 2 * MAX_AGE. Jitter shortens it to 80 to 100 %, so that copies that
    were put together do not expire together."""
    window: int = 101
    """Most messages of a session: one more than the longest page that the cache serves."""
    window_bytes: int = 256 * 1024
    """Most bytes of these messages in total. The oldest are dropped first."""
    content_bytes: int = 256 * 1024
    """Largest content that the cache keeps."""


@dataclass(frozen=True, slots=True)
class CacheState:
    """For health and metrics."""

    ready: bool
    reason: str
    """Why the cache is not ready; "" if it is."""
    epochs: int
    """How often this process found a new epoch or began one."""
    unreadable: int
    """How often a read found an entry that was not a whole copy of its session."""
    openings: int = 0
    """How often the cache, or a server of a cluster, that could be used could not be used any more."""


class Cache(Protocol):
    """A cache of sessions. Calls within one turn of the event loop, and calls while a request is in flight, are sent
    together."""

    @property
    def ready(self) -> bool:
        """Whether the cache is usable. While it is not, `get` and `put` return None and False at once."""
        ...

    @property
    def limits(self) -> CacheLimits: ...

    def moment(self) -> CacheTime:
        """Returns the current time, for Put.as_of. Call it before the read or commit whose result is to be put."""
        ...

    def get(self, key: Key, *, content: bool = False, newest: int = 0) -> "Future[Copy | None]":
        """The session's copy, read after this call; None if there is none or the cache is unavailable.

        The copy has the `newest` messages, or all held ones if these are fewer, and its `after_seq` matches them. With
        `newest` 0 it has no messages, and `after_seq` shows how far back the held ones reach. Its `content` is None
        unless requested. Cancelling the future abandons only this answer.
        """
        ...

    def put(self, changes: Sequence[Change]) -> "Future[Sequence[bool]]":
        """Applies the changes. For each, True if it is in place in the current epoch, or if a newer one was there.

        False means unknown: the change may be in place, or may still arrive. Cancelling does not undo a change.
        """
        ...

    def offer(self, put: Put) -> None:
        """As `put`, without a result. The cache may drop the copy, and does so under load."""
        ...

    def new_epoch(self) -> None:
        """Invalidates all copies: for this process at once, for others as soon as the server can be reached."""
        ...

    async def became_ready(self) -> None:
        """Returns once `ready` is True."""
        ...

    def state(self) -> CacheState: ...
