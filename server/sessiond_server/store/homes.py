"""Where tenants live: the map from tenants to databases, as one database says."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from math import inf
from types import MappingProxyType
from typing import Final

LEASE: Final = 0.3
"""Seconds for which a process may serve a tenant that is about to leave a database, since it asked the database, which
had the tenant."""
HURRY: Final = 0.06
"""Seconds between two questions to the databases while a tenant is about to leave one, or has left it."""

_NO_KEYS: Final[Mapping[str, bytes]] = MappingProxyType({})


class Homes:
    """The tenants that have a home other than the default database.

    The database keeps the map, so that all replicas agree. It is read again when its version has changed, which a write
    learns in its own transaction, and a ping within a second.
    """

    def __init__(self) -> None:
        self.version = 0
        """Changes with every change of the map in the database."""
        self.here = ""
        """Id of the database that the map is from; empty while it has none."""
        self.on_change: Callable[[Set[str]], None] = _ignore
        """Called with the tenants whose home has changed."""
        self.on_use: Callable[[], None] = _nothing
        """Called when the map was replaced."""
        self.on_look: Callable[[], None] = _nothing
        """Called after that, and when the map was found to be the newest one."""
        self.confirmed = -inf
        """Monotonic time, in seconds, at which the map was still what the database says."""
        self.leaving: Set[str] = frozenset()
        """Those of the tenants of this database that are about to leave it."""
        self.keys: Mapping[str, bytes] = _NO_KEYS
        """Tenant -> the key that signs its page tokens and positions here, where it is not that of the database."""
        self._of: Mapping[str, str] = {}
        self.left: Set[str] = frozenset()
        """All tenants of the map for which this database must not be written."""

    @property
    def any(self) -> bool:
        """Whether the map has a tenant."""
        return bool(self._of)

    def of(self, tenant_id: str) -> str | None:
        """Id of the tenant's database; None: the default one."""
        return self._of.get(tenant_id)

    def counts(self) -> Mapping[str, int]:
        """How many tenants of the map live in each database."""
        return Counter(self._of.values())

    def elsewhere(self, tenant_ids: Iterable[str]) -> Set[str]:
        """Those of the tenants for which this database must not be written."""
        return {each for each in tenant_ids if self._of.get(each, self.here) != self.here}

    def use(
        self,
        version: int,
        here: str,
        homes: Mapping[str, str],
        leaving: Set[str] = frozenset(),
        keys: Mapping[str, bytes] = _NO_KEYS,
    ) -> None:
        """Replaces the map by what the database says."""
        # A tenant that the map did not name lives where its first row says that it does.
        named = self._of.keys() | homes.keys()
        changed = {each for each in named if self._of.get(each, here) != homes.get(each, here)}
        self.version, self.here, self._of, self.leaving, self.keys = version, here, homes, leaving, keys
        self.left = frozenset(each for each, home in homes.items() if home != here)
        self.on_use()
        self.on_look()
        if changed:
            self.on_change(changed)

    def confirm(self, time: float) -> None:
        """The map was what the database says, or was replaced by it, after that monotonic time."""
        self.confirmed = time
        self.on_look()


def _ignore(tenant_ids: Set[str]) -> None:
    """Does nothing: no stream depends on the map."""


def _nothing() -> None:
    """No call depends on the map."""
