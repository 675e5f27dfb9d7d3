"""Encryption at rest as the settings ask for it, and whether it fits the database."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from sessiond_server.encryption.keyring import Encryption, StoredKey
from sessiond_server.encryption.wrapping import CannotUnwrap, LocalKeys
from sessiond_server.postgres.fitness import DatabaseUnfit
from sessiond_server.settings import SettingError, Settings, encryption_lines

if TYPE_CHECKING:
    from sessiond_server.postgres.store import PostgresStore


class KeysUnfit(DatabaseUnfit):
    """The key-encryption keys are not those of the database."""


def encryption_of(settings: Settings) -> Encryption | None:
    """How contents are encrypted; None: they are not. Raises SettingError."""
    if settings.encryption_keys is None:
        return None
    try:
        from sessiond_server.encryption import aead  # noqa: F401  whether it can be imported
    except ImportError as error:
        raise SettingError("--encryption-keys needs cryptography: install sessiond[encryption]") from error
    return Encryption(LocalKeys(encryption_lines(settings.encryption_keys)), settings.encryption_writes)


async def check_keys(store: "PostgresStore") -> None:
    """Raises KeysUnfit if the database has encrypted contents that this process could not read, StoreUnavailable."""
    await keys_fit(await store.keys_in_use(), None if store.keyring is None else store.keyring.check)


async def keys_fit(in_use: Sequence[StoredKey], check: Callable[[Sequence[StoredKey]], Awaitable[None]] | None) -> None:
    """Raises KeysUnfit unless `check` accepts the keys of the database; None: no keys are configured."""
    if check is None:
        if in_use:
            raise KeysUnfit(
                "the database has encrypted contents, and no keys are configured: set --encryption-keys, as the other "
                "servers have it (docs/encryption.md)"
            )
        return
    try:
        await check(in_use)
    except CannotUnwrap as error:
        raise KeysUnfit(f"--encryption-keys: {error} (docs/encryption.md)") from None
