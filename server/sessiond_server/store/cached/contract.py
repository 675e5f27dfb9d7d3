"""What a cache is: copies of sessions that other processes can use too, and that may be lost at any moment.

Every implementation passes tests/cache/test_conformance.py. A cache is never believed further than these promises:

- A copy says of which version it is, and is whole: the core, and every message after `after_seq` up to that version.
- No copy ever replaces one of a higher version (G6), and none is served that is older than a `Forget` that was put.
- Copies belong to an epoch. A new epoch hides all copies of earlier ones, at once and for every process. It begins when
  asked for, when the server lost its memory, and when another server answers than the one that answered before.
- What was known before the epoch, or longer than MAX_AGE seconds ago, is not taken any more, however late it arrives.
  A `Forget` and a copy live longer than that, so that nothing that was read before them can follow them.
- Copies vanish by themselves at most `ttl` seconds after they were put, which bounds what any lost update can do.

Nothing here raises because of the cache's state: a copy that cannot be had is None, a change that is not known to be in
place gives False. What is there and is no whole copy of the session that was asked for (damaged, written by another
program, of another layout) is None too; it is counted, and gives way to the next copy that is put. Nothing waits longer
than the cache's own timeout, and while `ready` is False nothing waits at all.
A cache belongs to one event loop. Keys are (tenant_id, session_id); times are seconds of the loop's clock.
"""

from asyncio import Future
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol
from zlib import crc32

from sessiond_server.domain.rows import Key

MAX_AGE: Final = 10.0
"""Seconds after which what was read from the store is too old to be put."""

ALL: Final = 2**31
"""As `newest`: every message that the cache holds."""

EMBARGO: Final = 10**16 - 1
"""As the version of a `Forget`: no copy of this session for now. Above every version."""

PLACE_BYTES: Final = 16
"""Digits in front of a placed message."""

SUM_BYTES: Final = 4
"""Behind a placed message: a checksum."""

_RESIDUE: Final = 0x2144DF1C
"""The CRC-32 of all bytes that end with their own CRC-32, in little endian."""


def summed(data: bytes, start: int = 0) -> bytes:
    """The data with its checksum behind it, for `is_whole`. `start`: checksum of what goes before it elsewhere."""
    return data + crc32(data, start).to_bytes(SUM_BYTES, "little")


def is_whole(data: bytes, start: int = 0) -> bool:
    """Whether the data is as `summed` made it."""
    return crc32(data, start) == _RESIDUE


def placed(seq: int, message: bytes) -> bytes:
    """A serialised Message between its place and its checksum, as copies hold it."""
    return summed(b"%016d%b" % (seq, message))


def message_of(placed_message: bytes) -> bytes:
    return placed_message[PLACE_BYTES:-SUM_BYTES]


def seq_of(placed_message: bytes) -> int:
    return int(placed_message[:PLACE_BYTES])


class Copy(NamedTuple):
    """What is known of one session at one version."""

    version: int
    user_id: str
    content_version: int
    """As in the session; 0: it has no content."""
    core: bytes
    """Serialised Session in SESSION_VIEW_BASIC."""
    content: bytes | None
    """The content of `content_version`; None when it is not known, not held or not asked for."""
    after_seq: int
    """Every message with a higher `seq`, up to `version`, is in `messages`."""
    messages: Sequence[bytes]
    """Placed messages, ascending."""


class CacheTime(NamedTuple):
    """When something was known, as the cache must know it: see `Cache.moment`."""

    time: float
    epoch: int
    """Of this process, as it counts them."""


class Put(NamedTuple):
    """Offers a copy. Taken when nothing newer is known of the session; at the same version, the longer reach wins."""

    key: Key
    copy: Copy
    as_of: CacheTime
    """From before the read or the commit was begun that `copy` is known from."""
    extends: bool = False
    """The messages of `copy` are all that happened to messages after its `after_seq`: a held copy of exactly that
    version may keep its own messages in front of them."""


class Forget(NamedTuple):
    """From now on nothing of the session below `version` is served or taken; a copy at `version` or above stays.

    With the final version of a deleted session plus one it is the session's tombstone; its content goes too.
    """

    key: Key
    version: int


Change = Put | Forget


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLimits:
    """How much is kept, and for how long."""

    ttl: float = 60.0
    """Seconds that a copy lives at most; at least 2 * MAX_AGE. Each lives 80 to 100 % of it, by chance, so that what
    was put together does not vanish together."""
    window: int = 101
    """Most messages of a session: one more than the longest page that they shall serve."""
    window_bytes: int = 256 * 1024
    """Most bytes of these, together; the oldest go first."""
    content_bytes: int = 256 * 1024
    """Largest content that is kept."""


@dataclass(frozen=True, slots=True)
class CacheState:
    """For health and metrics."""

    ready: bool
    reason: str
    """Why it is not ready; "" when it is."""
    epochs: int
    """How often this process found another epoch than before, or began one."""
    unreadable: int
    """How often a read found something that is no whole copy of its session."""


class Cache(Protocol):
    """Copies of sessions. Calls of one turn of the event loop, and those made while the cache is asked, go together."""

    @property
    def ready(self) -> bool:
        """False: `get` and `put` answer None and False at once."""
        ...

    @property
    def limits(self) -> CacheLimits: ...

    def moment(self) -> CacheTime:
        """Now. To be asked for before that is read or committed which is to be put."""
        ...

    def get(self, key: Key, *, content: bool = False, newest: int = 0) -> "Future[Copy | None]":
        """The copy, as it is after this call; None when there is none, or none can be had.

        Of the messages it has the `newest` ones, or all that are held when these are fewer; `after_seq` says how far
        back they reach. With `newest` 0 it has none, and `after_seq` says how far back those reach that are held. Its
        `content` is None unless asked for. Cancelling the future abandons this answer only.
        """
        ...

    def put(self, changes: Sequence[Change]) -> "Future[Sequence[bool]]":
        """For each change: True when it is in place in the current epoch, or outdone by what was there.

        False: it may be in place or not, or may come to be yet. Cancelling changes nothing about that.
        """
        ...

    def offer(self, put: Put) -> None:
        """As `put`, for what may as well be lost; dropped when there is much to do."""
        ...

    def new_epoch(self) -> None:
        """From now on this process uses no copy that is there now; all others as soon as the server can be reached."""
        ...

    async def became_ready(self) -> None:
        """Returns when `ready`."""
        ...

    def state(self) -> CacheState: ...
