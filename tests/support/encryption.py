"""Encryption with keys that tests know, and keys in memory."""

import base64
from collections.abc import Collection, Sequence
from dataclasses import replace

from sessiond_server.encryption.keyring import Encryption, Keyring, StoredKey, new_key
from sessiond_server.encryption.wrapping import LocalKeys


def line(name: str) -> str:
    """A line of a file of key-encryption keys: the same for the same name."""
    return f"{name}:{base64.b64encode(name.encode().ljust(32, b'.')).decode()}"


def local_keys(*names: str) -> LocalKeys:
    """Keys of these names, the first of which wraps."""
    return LocalKeys(lambda: "\n".join(map(line, names or ("test",))))


def encryption(*names: str, seals: bool = True) -> Encryption:
    return Encryption(local_keys(*names), seals)


class MemoryKeys:
    """Implements KeyStore in memory, with what operators do to keys."""

    def __init__(self) -> None:
        self.stored: dict[str, list[StoredKey]] = {}
        self.version = 0
        self.reads = 0
        self._changes: list[tuple[int, str]] = []

    async def keys(self, tenant_id: str) -> Sequence[StoredKey]:
        self.reads += 1
        return list(self.stored.get(tenant_id, ()))

    async def add_first_key(self, key: StoredKey) -> None:
        self.stored.setdefault(key.tenant_id, [key])

    async def changed(self, since: int) -> tuple[int, Collection[str]]:
        return self.version, {tenant for version, tenant in self._changes if version > since >= 0}

    async def rotate(self, tenant_id: str) -> None:
        """Gives the tenant a new data key, at once."""
        keys = [replace(key, active=False) for key in self.stored[tenant_id]]
        self._change(tenant_id, [*keys, await new_key(tenant_id, local_keys(), active=True)])

    def shred(self, tenant_id: str) -> None:
        self._change(tenant_id, [replace(key, wrapped=None, active=False) for key in self.stored[tenant_id]])

    def _change(self, tenant_id: str, keys: list[StoredKey]) -> None:
        self.stored[tenant_id] = keys
        self.version += 1
        self._changes.append((self.version, tenant_id))


def keyring(store: MemoryKeys | None = None, *names: str, seals: bool = True) -> Keyring:
    return Keyring(store or MemoryKeys(), local_keys(*names), seals=seals)
