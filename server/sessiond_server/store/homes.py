"""Where tenants live: the map from tenants to databases, as one database says."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set


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
        self._of: Mapping[str, str] = {}

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

    def use(self, version: int, here: str, homes: Mapping[str, str]) -> None:
        """Replaces the map by what the database says."""
        changed = {each for each in self._of.keys() | homes.keys() if self._of.get(each) != homes.get(each)}
        self.version, self.here, self._of = version, here, homes
        if changed:
            self.on_change(changed)


def _ignore(tenant_ids: Set[str]) -> None:
    """Does nothing: no stream depends on the map."""
