"""Encodes and decodes cache entries. The comment of put.lua describes their layout."""

import hashlib
import re
from typing import Any
from zlib import crc32

import hiredis

from sessiond_server.domain.rows import Key
from sessiond_server.redis.link import pack
from sessiond_server.redis.scripts import DISCARD, FORGET, PUT
from sessiond_server.store.cached.contract import (
    PLACE_BYTES,
    SUM_BYTES,
    CacheLimits,
    Copy,
    Forget,
    Put,
    is_whole,
    message_of,
    placed,
    seq_of,
    summed,
)

_is_plain = re.compile(r"[^%{}]*").fullmatch

LAYOUT = b"3"
"""Version of the layout of entries, which this module and the scripts share. It is part of every key, so that servers
with different layouts, as during an upgrade, do not read each other's entries. Raise it with every layout change."""

_MARK = b"F"
_MARK_BYTES = (17, 49)
"""Lengths of a mark: letter (1), version (16); once it has kept something out, also when it ends, and a second version
(16 each)."""
_LIVE = b"S"
_HEADER = 49
"""Length of the header: letter (1), version, after_seq, bytes of all messages (16 each). The fields after it are read
by clients only: content_version (16 digits), length of the user id (3), user id, core, a checksum. The checksum covers
the key, the version and these fields, so an entry under another session's key is not valid."""
_USER = _HEADER + 19


class Names:
    """The keys of one epoch. The two keys of a session have the same hash tag, and so the same slot."""

    def __init__(self, prefix: bytes, epoch: bytes) -> None:
        self.start = prefix + LAYOUT + b":" + epoch + b":{"
        """Start of every key; the session's hash tag and a closing brace follow."""

    def of(self, key: Key) -> tuple[bytes, bytes]:
        """(key of the copy, key of the content)."""
        name = self.start + tag(key) + b"}"
        return name, name + b"c"


def tag(key: Key) -> bytes:
    """The session's hash tag: its id with braces escaped, since the first closing one would end the tag, a slash and
    the tenant. It is unique, because tenant ids contain neither braces nor slashes."""
    tenant_id, session_id = key
    if not _is_plain(session_id):
        session_id = session_id.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
    return f"{session_id}/{tenant_id}".encode()


def read(names: tuple[bytes, bytes], content: bool, newest: int) -> tuple[bytes, int]:
    """The packed commands that read an entry, and their number. `copy` decodes their replies."""
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


def copy(name: bytes, replies: Any, newest: int) -> Copy | None:
    """Decodes the replies to `read` for the key `name`. None if there is no entry, or only a mark that keeps older
    copies out.

    Raises the server's hiredis.ReplyError, and ValueError if the entry is damaged or belongs to another key.
    """
    found = replies[0]
    if isinstance(found, Exception):
        raise ValueError("not a list") if _is_of_another_type(found) else found
    messages: list[bytes] = []
    if newest and found:
        *messages, found = found
    if found is None or found == []:
        return None
    if found[:1] != _LIVE:
        if found[:1] == _MARK and len(found) in _MARK_BYTES and found[1:].isdigit() and not messages:
            return None
        raise ValueError("neither a copy nor a mark")
    if not is_whole(found[_HEADER:], crc32(found[1:17], crc32(name))):
        raise ValueError("damaged, or the copy of another session")
    reach = found[17:33]
    if not reach.isdigit():
        raise ValueError("no number where the reach should be")
    version, after_seq, content_version = int(found[1:17]), int(reach), int(found[_HEADER : _HEADER + 16])
    if messages:
        _check(messages, reach, found[1:17])
        if len(messages) == newest:
            # The entry may hold older messages, which were not read. Between those that were, none is missing.
            after_seq = seq_of(messages[0]) - 1
    content: bytes | None = None
    if len(replies) > 1:
        content = _content(replies[1], content_version)
    core = _USER + int(found[_USER - 3 : _USER])
    user, core_end = found[_USER:core].decode(), len(found) - SUM_BYTES
    return Copy(version, user, content_version, found[core:core_end], content, after_seq, messages)


def _content(held: Any, content_version: int) -> bytes | None:
    """The content of version `content_version`; None if the cache does not hold it. Raises as `copy`."""
    if isinstance(held, Exception):
        raise ValueError("not a string") if _is_of_another_type(held) else held
    if not content_version:
        return b""
    if held is None:
        return None
    if not is_whole(held):
        raise ValueError("a damaged content")
    return message_of(held) if seq_of(held) == content_version else None


def _check(messages: list[bytes], reach: bytes, version: bytes) -> None:
    """Raises ValueError unless all messages are whole, ascend, and lie in (reach, version]; both bounds are digits."""
    last = reach
    for message in messages:
        place = message[:PLACE_BYTES]
        if place <= last or not is_whole(message):
            raise ValueError("a damaged message, or one out of place")
        last = place
    if last > version:
        raise ValueError("a message after the version")


def _is_of_another_type(error: Exception) -> bool:
    return isinstance(error, hiredis.ReplyError) and str(error).startswith("WRONGTYPE")


def discarding(names: tuple[bytes, bytes], replies: Any, newest: int) -> bytes:
    """The command that removes an entry that `copy` could not decode, unless it has been replaced meanwhile."""
    seen = replies[0]
    if newest and isinstance(seen, list) and seen:
        seen = seen[-1]
    digest = hashlib.sha1(seen, usedforsecurity=False).hexdigest().encode() if isinstance(seen, bytes) else b""
    return pack(b"EVALSHA", DISCARD.sha, b"2", *names, digest)


def forgetting(names: tuple[bytes, bytes], forget: Forget, limits: CacheLimits) -> bytes:
    return pack(
        b"EVALSHA", FORGET.sha, b"2", *names, b"%016d" % forget.version, b"%d" % round(limits.ttl * 1000)
    )  # fmt: skip


def putting(names: tuple[bytes, bytes], put: Put, limits: CacheLimits, latest_ms: int, ttl_ms: int) -> bytes:
    """The command that puts a copy, cut to the limits. After `latest_ms` of the server's clock it has no effect."""
    what = put.copy
    user = what.user_id.encode()
    version = b"%016d" % what.version
    rest = b"%016d%03d%b%b" % (what.content_version, len(user), user, what.core)
    after_seq, messages = within(what, limits)
    content = b""
    if what.content_version and what.content is not None and len(what.content) <= limits.content_bytes:
        content = placed(what.content_version, what.content)
    return pack(
        b"EVALSHA", PUT.sha, b"2", *names,
        b"%d" % latest_ms,
        b"%d" % ttl_ms,
        version,
        b"%016d" % after_seq,
        b"1" if put.extends else b"0",
        summed(rest, crc32(version, crc32(names[0]))),
        content,
        b"%016d%016d" % (limits.window, limits.window_bytes),
        *messages,
    )  # fmt: skip


def within(what: Copy, limits: CacheLimits) -> tuple[int, list[bytes]]:
    """(after_seq, the newest messages), cut to the limits."""
    messages = list(what.messages[-limits.window :])
    left, size = len(messages), 0
    while left and size + len(messages[left - 1]) <= limits.window_bytes:
        left -= 1
        size += len(messages[left])
    kept = messages[left:]
    if len(kept) == len(what.messages):
        return what.after_seq, kept
    return seq_of(what.messages[-len(kept) - 1]), kept
