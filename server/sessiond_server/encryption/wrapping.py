"""Key-encryption keys: the contract by which data keys are wrapped, and keys from a file or a variable."""

import base64
import binascii
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from sessiond_server.encryption.envelope import KEY_BYTES

_NONCE_BYTES: Final = 12
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A data key, encrypted by the key-encryption key `by`."""

    by: str
    data: bytes


class CannotUnwrap(Exception):
    """A data key cannot be unwrapped. The text says why, names keys by their ids, and holds no secret."""


class KeyEncryption(Protocol):
    """Wraps and unwraps data keys. Safe to call concurrently; called rarely, for each tenant once in some minutes."""

    async def wrap(self, secret: bytes, context: bytes) -> Wrapped:
        """Encrypts a data key with the current key-encryption key, bound to `context`. Raises CannotUnwrap if that key
        cannot be had now."""
        ...

    async def unwrap(self, wrapped: Wrapped, context: bytes) -> bytes:
        """The data key. Raises CannotUnwrap: the key-encryption key is unknown, cannot be reached, or is another one;
        or the context differs."""
        ...

    async def current(self) -> str:
        """Id of the key-encryption key that wraps now. Raises CannotUnwrap."""
        ...


class LocalKeys:
    """Implements KeyEncryption with keys from a text, which is read again at each use: a new key needs no restart.

    Each line of the text, or each part between commas, is `ID:KEY`: a name, and 32 bytes in base 64. The first key
    wraps; all of them unwrap.
    """

    def __init__(self, read: Callable[[], str]) -> None:
        """`read` may raise OSError, or ValueError with a text to show."""
        self._read = read

    async def wrap(self, secret: bytes, context: bytes) -> Wrapped:
        from sessiond_server.encryption.aead import AESGCM

        by, key = next(iter(self._keys().items()))
        nonce = os.urandom(_NONCE_BYTES)
        return Wrapped(by, nonce + AESGCM(key).encrypt(nonce, secret, context))

    async def unwrap(self, wrapped: Wrapped, context: bytes) -> bytes:
        from sessiond_server.encryption.aead import AESGCM, InvalidTag

        key = self._keys().get(wrapped.by)
        if key is None:
            raise CannotUnwrap(f"the key-encryption key {wrapped.by} is not among those that are configured")
        try:
            return AESGCM(key).decrypt(wrapped.data[:_NONCE_BYTES], wrapped.data[_NONCE_BYTES:], context)
        except (InvalidTag, ValueError):
            raise CannotUnwrap(f"the key-encryption key {wrapped.by} is another one than has wrapped the key") from None

    async def current(self) -> str:
        return next(iter(self._keys()))

    def _keys(self) -> Mapping[str, bytes]:
        try:
            return parsed(self._read())
        except OSError as error:
            raise CannotUnwrap(f"the key-encryption keys cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise CannotUnwrap(f"the key-encryption keys cannot be read: {error}") from None


def parsed(text: str) -> Mapping[str, bytes]:
    """The keys by id, in their order; at least one. Raises ValueError, whose text names no key."""
    found: dict[str, bytes] = {}
    for number, line in enumerate(text.replace(",", "\n").splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, _, encoded = line.partition(":")
        if not _ID.fullmatch(name):
            raise ValueError(f"line {number} must begin with an id of at most 64 letters, digits, dots and dashes")
        if name in found:
            raise ValueError(f"line {number} has an id that another line has")
        try:
            key = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            key = b""
        if len(key) != KEY_BYTES:
            raise ValueError(f"line {number} must be ID:KEY, with a key of {KEY_BYTES} bytes in base 64")
        found[name] = key
    if not found:
        raise ValueError("there is no key; make one with: sessiond encryption new-key")
    return found


def new_line(name: str) -> str:
    """A line with a new random key. Raises ValueError for a name that is none."""
    if not _ID.fullmatch(name):
        raise ValueError("must be 1 to 64 letters, digits, dots and dashes")
    return f"{name}:{base64.b64encode(os.urandom(KEY_BYTES)).decode()}"
