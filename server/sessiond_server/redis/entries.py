"""Copies as Redis holds them; put.lua has the layout."""

from typing import Any

from sessiond_server.domain.rows import Key
from sessiond_server.redis.link import pack
from sessiond_server.redis.scripts import FORGET, PUT
from sessiond_server.store.cached.contract import CacheLimits, Copy, Forget, Put, placed, seq_of

_LIVE = ord("S")
_HEADER = 49
"""Letter, version, after_seq, bytes. Behind it: content_version (16 digits), length of the user id (3), it, core."""


class Names:
    """The keys of one epoch. One session's share a slot: what stands in braces decides."""

    def __init__(self, prefix: bytes, epoch: bytes) -> None:
        self._start = prefix + epoch + b":{"

    def of(self, key: Key) -> tuple[bytes, bytes]:
        """(copy, content)."""
        name = self._start + tag(key) + b"}"
        return name, name + b"c"


def tag(key: Key) -> bytes:
    """What decides on the slot. Session ids have neither braces nor slashes, so no two keys have the same."""
    return f"{key[1]}/{key[0]}".encode()


def read(names: tuple[bytes, bytes], content: bool, newest: int) -> tuple[bytes, int]:
    """(packed commands, how many): their replies are what `copy` takes."""
    name = names[0]
    if newest:
        command = b"*4\r\n$6\r\nLRANGE\r\n$%d\r\n%b\r\n$%d\r\n-%d\r\n$2\r\n-1\r\n" % (
            len(name), name, len(str(newest + 1)) + 1, newest + 1,
        )  # fmt: skip
    else:
        command = b"*3\r\n$6\r\nLINDEX\r\n$%d\r\n%b\r\n$2\r\n-1\r\n" % (len(name), name)
    if content:
        name = names[1]
        return command + b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(name), name), 2
    return command, 1


def copy(replies: Any, newest: int) -> Copy | None:
    """The copy from the replies to `read`; None when there is none, or when one of them is an error."""
    found = replies[0]
    messages: list[bytes] = []
    if newest:
        if not found or not isinstance(found, list):
            return None
        messages = found
        found = messages.pop()
    if not isinstance(found, bytes) or found[0] != _LIVE:
        return None
    version, after_seq = int(found[1:17]), int(found[17:33])
    if len(messages) == newest and messages:
        # There may be more of them; nothing lies between these.
        after_seq = seq_of(messages[0]) - 1
    content_version, start = int(found[_HEADER:65]), 68 + int(found[65:68])
    content: bytes | None = None
    if len(replies) > 1:
        held = replies[1]
        if not content_version:
            content = b""
        elif isinstance(held, bytes) and int(held[:16]) == content_version:
            content = held[16:]
    return Copy(version, found[68:start].decode(), content_version, found[start:], content, after_seq, messages)


def forgetting(names: tuple[bytes, bytes], forget: Forget, limits: CacheLimits) -> bytes:
    return pack(
        b"EVALSHA", FORGET.sha, b"2", *names, b"%016d" % forget.version, b"%d" % round(limits.ttl * 1000)
    )  # fmt: skip


def putting(names: tuple[bytes, bytes], put: Put, limits: CacheLimits, latest_ms: int, ttl_ms: int) -> bytes:
    """The command that puts a copy, cut to the limits; `latest_ms` by the server's clock."""
    what = put.copy
    user = what.user_id.encode()
    after_seq, messages = within(what, limits)
    content = b""
    if what.content_version and what.content is not None and len(what.content) <= limits.content_bytes:
        content = placed(what.content_version, what.content)
    return pack(
        b"EVALSHA", PUT.sha, b"2", *names,
        b"%d" % latest_ms,
        b"%d" % ttl_ms,
        b"%016d" % what.version,
        b"%016d" % after_seq,
        b"1" if put.extends else b"0",
        b"%016d%03d%b%b" % (what.content_version, len(user), user, what.core),
        content,
        b"%016d%016d" % (limits.window, limits.window_bytes),
        *messages,
    )  # fmt: skip


def within(what: Copy, limits: CacheLimits) -> tuple[int, list[bytes]]:
    """(after_seq, the newest messages): no more than the limits allow."""
    messages = list(what.messages[-limits.window :])
    left, size = len(messages), 0
    while left and size + len(messages[left - 1]) <= limits.window_bytes:
        left -= 1
        size += len(messages[left])
    kept = messages[left:]
    if len(kept) == len(what.messages):
        return what.after_seq, kept
    return seq_of(what.messages[-len(kept) - 1]), kept
