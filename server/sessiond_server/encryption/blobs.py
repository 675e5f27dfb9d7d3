"""A storage of attachments whose pieces are encrypted, each segment by itself, so that ranges can be read.

    magic (4) | key id (8) | nonce (12) | AES-256-GCM of the segment | tag (16)

The key is derived from the tenant's data key for each piece. A segment is bound to its piece and its number there. Ids
of encrypted pieces are UUIDs of version 8, those of others of version 7: both may be in one storage, and in one file.
"""

import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Final, cast

from sessiond_server.blobs.contract import READ_BYTES, BlobStore, Buffer, BytesMissing
from sessiond_server.domain.attachments.rows import Piece
from sessiond_server.encryption.aead import AESGCM, InvalidTag
from sessiond_server.encryption.envelope import DataKey
from sessiond_server.encryption.keyring import Keyring

_MAGIC: Final = b"\x06sp\x01"
_KEY_BYTES: Final = 8
_NONCE_BYTES: Final = 12
_OVERHEAD: Final = len(_MAGIC) + _KEY_BYTES + _NONCE_BYTES + 16
_VERSION: Final = 14
"""Place of the version in a UUID's text."""


def sealed_id(new_id: Callable[[], str]) -> Callable[[], str]:
    """Makes ids of pieces that are encrypted."""

    def make() -> str:
        plain = new_id()
        return f"{plain[:_VERSION]}8{plain[_VERSION + 1 :]}"

    return make


def _is_sealed(piece: Piece) -> bool:
    return piece.piece_id[_VERSION] == "8"


class SealedBlobs:
    """Implements `blobs.contract.BlobStore` on another one. Besides what that raises, methods raise TenantKeyDestroyed
    and TenantKeyUnavailable. A segment that is not authentic is BytesMissing."""

    def __init__(self, blobs: BlobStore, keyring: Keyring) -> None:
        self._blobs = blobs
        self._keyring = keyring
        self.pieces = blobs.pieces
        self.delete = blobs.delete
        self.commit = blobs.commit

    @property
    def segment(self) -> int:
        return self._blobs.segment - (_OVERHEAD if self._keyring.seals else 0)

    async def append(self, piece: Piece, offset: int, data: Sequence[Buffer]) -> None:
        if not _is_sealed(piece):
            await self._blobs.append(piece, offset, data)
            return
        key = (await self._keyring.sealing(piece.tenant_id)).active
        assert key is not None
        number, nonce = offset // self.segment, os.urandom(_NONCE_BYTES)
        sealed = _cipher(key, piece).encrypt(nonce, b"".join(data), _bound_to(piece, number, key.id))
        await self._blobs.append(piece, number * self._blobs.segment, [_MAGIC, _id(key.id), nonce, sealed])

    async def length(self, piece: Piece) -> int:
        stored = await self._blobs.length(piece)
        if not _is_sealed(piece):
            return stored
        number, rest = divmod(stored, self._blobs.segment)
        whole = number * (self._blobs.segment - _OVERHEAD)
        if rest <= _OVERHEAD:
            return whole
        try:
            # The last append may have been cut short; what it left cannot be opened.
            return whole + len(await self._segment(piece, number, stored))
        except BytesMissing:
            return whole

    def read(self, piece: Piece, start: int, end: int) -> AsyncIterator[Buffer]:
        return self._read(piece, start, end) if _is_sealed(piece) else self._blobs.read(piece, start, end)

    async def _read(self, piece: Piece, start: int, end: int) -> AsyncGenerator[Buffer, None]:
        size = self._blobs.segment - _OVERHEAD
        # Where the last segment ends only the storage knows, unless it is a whole one.
        stored = await self._blobs.length(piece) if end % size else end // size * self._blobs.segment
        while start < end:
            number, within = divmod(start, size)
            opened = memoryview(await self._segment(piece, number, stored))[within : end - number * size]
            if not opened:
                raise BytesMissing
            start += len(opened)
            for place in range(0, len(opened), READ_BYTES):
                yield opened[place : place + READ_BYTES]
            if start < end and within + len(opened) < size:
                raise BytesMissing

    async def _segment(self, piece: Piece, number: int, stored: int) -> bytes:
        first = number * self._blobs.segment
        last = min(first + self._blobs.segment, stored)
        if last - first <= _OVERHEAD:
            raise BytesMissing
        parts = cast("AsyncGenerator[Buffer, None]", self._blobs.read(piece, first, last))
        async with aclosing(parts):
            data = b"".join([bytes(part) async for part in parts])
        body = len(_MAGIC) + _KEY_BYTES
        key_id = int.from_bytes(data[len(_MAGIC) : body], "big")
        key = (await self._keyring.of(piece.tenant_id)).by_id.get(key_id)
        if key is None:
            self._keyring.forget(piece.tenant_id)
            key = (await self._keyring.of(piece.tenant_id)).by_id.get(key_id)
        if key is None or not data.startswith(_MAGIC):
            raise BytesMissing
        nonce, sealed = data[body : body + _NONCE_BYTES], data[body + _NONCE_BYTES :]
        try:
            return _cipher(key, piece).decrypt(nonce, sealed, _bound_to(piece, number, key_id))
        except InvalidTag:
            raise BytesMissing from None


def _cipher(key: DataKey, piece: Piece) -> AESGCM:
    return AESGCM(key.derived(b"piece " + piece.piece_id.encode()))


def _id(key_id: int) -> bytes:
    return key_id.to_bytes(_KEY_BYTES, "big")


def _bound_to(piece: Piece, number: int, key_id: int) -> bytes:
    return b"%b%b%d of %b" % (_MAGIC, _id(key_id), number, piece.piece_id.encode())
