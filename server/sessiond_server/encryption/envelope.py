"""What an encrypted value looks like, and one data key at work.

    magic (4) | key id (8) | kind (1) | log (8) | item (8) | nonce (12) | AES-256-GCM of the value | tag (16)

All before the nonce is authenticated. `log` is a keyed hash of whose value it is (a session, or another owner), `item`
its place there, such as the seq of an event. Each log has a key of its own, derived from the data key: random nonces
are safe for 2^32 values of one log, whatever the tenant writes.

A value that is not encrypted begins with another byte: 0x06 is no tag of a protobuf message. A patch of a session's
content keeps the byte 0x07 in front, by which SQL tells patches from whole contents.
"""

import os
from collections import OrderedDict
from enum import IntEnum
from hashlib import blake2b
from struct import Struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sessiond_server.encryption.aead import AESGCM

KEY_BYTES: Final = 32
MAGIC: Final = b"\x06sd\x01"
PATCH: Final = b"\x07"
_PATCH_MAGIC: Final = PATCH + MAGIC
_NONCE_BYTES: Final = 12
_HEADER: Final = Struct("!4sQB8sQ")
_pack, _unpack = _HEADER.pack, _HEADER.unpack
HEADER_BYTES: Final = _HEADER.size
OVERHEAD: Final = HEADER_BYTES + _NONCE_BYTES + 16
"""Bytes that a value grows by."""
_ID: Final = Struct("!Q")
_ITEM: Final = 2**64 - 1

LOGS_KEPT: Final = 4096
"""Derived keys that a data key keeps. Deriving one costs a few microseconds."""


class Kind(IntEnum):
    """Which column an encrypted value is of."""

    EVENT_HEAD = 1
    EVENT_BODY = 2
    EVENT_CONTENT = 3
    EVENT_CORE = 4
    HEAD_CORE = 5
    HEAD_LIMITS = 6
    RUN = 7
    TOOL_CALL = 8
    ATTACHMENT = 9
    FINGERPRINT = 10
    ANSWER = 11
    DOCUMENT_BODY = 12
    DOCUMENT_VALUE = 13
    DOCUMENT_CHANGE = 14
    SPREAD = 15
    CACHED_CORE = 16
    CACHED_CONTENT = 17
    CACHED_MESSAGE = 18


class NotAuthentic(Exception):
    """An encrypted value was changed, or moved from another place. The text names no contents."""


Opened = tuple[bytes, "DataKey", int, bytes, int]
"""A decrypted value, the key that has sealed it, and the kind, log and item to which it was bound. A plain tuple,
because every value that is read makes one."""


class DataKey:
    """A data key of a tenant: seals values, and opens them. No I/O."""

    __slots__ = ("_ciphers", "_nonces", "_nonces_used", "_secret", "_tagging", "_tags", "id", "tenant_id")

    def __init__(self, tenant_id: str, id: int, secret: bytes) -> None:
        self.tenant_id = tenant_id
        self.id = id
        self._secret = secret
        self._tagging = derived(secret, b"logs")
        self._tags: OrderedDict[str, bytes] = OrderedDict()
        self._ciphers: OrderedDict[bytes, AESGCM] = OrderedDict()
        self._nonces, self._nonces_used = b"", 0

    def tag(self, log: str) -> bytes:
        """The keyed hash of a log's name."""
        tags = self._tags
        found = tags.get(log)
        if found is None:
            found = blake2b(log.encode(), digest_size=8, key=self._tagging).digest()
            tags[log] = found
            if len(tags) > LOGS_KEPT:
                tags.popitem(last=False)
        return found

    def seal(self, kind: int, log: str, item: int, data: bytes) -> bytes:
        """The value, encrypted and bound to its place. `item` may be negative."""
        tag = self._tags.get(log) or self.tag(log)
        header = _pack(MAGIC, self.id, kind, tag, item & _ITEM)
        used = self._nonces_used
        if used == len(self._nonces):
            # One call for many nonces: a call of the system costs as much as encrypting a message.
            self._nonces, used = os.urandom(256 * _NONCE_BYTES), 0
        self._nonces_used = beyond = used + _NONCE_BYTES
        nonce = self._nonces[used:beyond]
        sealed = b"".join((header, nonce, (self._ciphers.get(tag) or self._cipher(tag)).encrypt(nonce, data, header)))
        return PATCH + sealed if kind == Kind.EVENT_CONTENT and data[:1] == PATCH else sealed

    def open(self, data: bytes) -> Opened:
        """Decrypts a value of which `sealed_by` names this key. Raises NotAuthentic."""
        start = data[0] & 1  # 7 is the byte before a patch
        beyond = start + HEADER_BYTES
        header = data[start:beyond]
        _, _, kind, tag, item = _unpack(header)
        behind = beyond + _NONCE_BYTES
        try:
            opened = (self._ciphers.get(tag) or self._cipher(tag)).decrypt(data[beyond:behind], data[behind:], header)
        except _invalid_tag():
            raise NotAuthentic("an encrypted value was changed") from None
        return opened, self, kind, tag, item

    def opened(self, kind: int, log: str, item: int, data: bytes) -> bytes:
        """Decrypts a value that must be of this place. Raises NotAuthentic."""
        found, _, *place = self.open(data)
        if place != [kind, self._tags.get(log) or self.tag(log), item & _ITEM]:
            raise NotAuthentic("an encrypted value is not of this place")
        return found

    def derived(self, purpose: bytes) -> bytes:
        """A key of 32 bytes for another use."""
        return derived(self._secret, purpose)

    def _cipher(self, tag: bytes) -> "AESGCM":
        from sessiond_server.encryption.aead import AESGCM

        ciphers = self._ciphers
        found = ciphers[tag] = AESGCM(derived(self._secret, b"log " + tag))
        if len(ciphers) > LOGS_KEPT:
            ciphers.popitem(last=False)
        return found


def _invalid_tag() -> type[Exception]:
    from sessiond_server.encryption.aead import InvalidTag

    return InvalidTag


def derived(secret: bytes, purpose: bytes) -> bytes:
    """A key derived from a secret: BLAKE2b with the secret as its key is a pseudorandom function."""
    return blake2b(purpose, digest_size=KEY_BYTES, key=secret, person=b"sessiond data").digest()


def is_sealed(data: bytes) -> bool:
    """Whether the value is encrypted."""
    return (data[:4] == MAGIC or data[:5] == _PATCH_MAGIC) and len(data) >= OVERHEAD


def sealed_by(data: bytes) -> int:
    """The id of the data key that has sealed an encrypted value."""
    found: int = _ID.unpack_from(data, 4 + (data[0] & 1))[0]
    return found
