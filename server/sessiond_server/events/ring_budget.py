"""Bounds the total memory of all rings of a process."""

from typing import Protocol


class Ring(Protocol):
    """Recent events kept in memory for streams that are a little behind."""

    @property
    def tenant_id(self) -> str: ...

    size: int
    """Bytes."""

    def evict(self) -> None:
        """Drops all events that can be read from the store again."""
        ...


class Rings:
    """Keeps the total size of all rings below `most` bytes. Of the tenant whose rings are the largest together, the
    ring that has grown least recently is emptied first, so that no tenant takes the memory of others.

    After that, each slower stream of the ring needs one read of the store; no stream loses events.
    """

    def __init__(self, most: int) -> None:
        self.held = 0
        """Total bytes of all rings."""
        self._most = most
        self._tenants: dict[str, _Tenant] = {}

    def changed(self, ring: Ring) -> None:
        """To be called whenever a ring may have grown or shrunk."""
        self.removed(ring)
        if ring.size:
            tenant = self._tenants.setdefault(ring.tenant_id, _Tenant())
            tenant.sizes[ring] = ring.size
            tenant.held += ring.size
            self.held += ring.size
        while self.held > self._most and (oldest := self._oldest(ring)) is not None:
            oldest.evict()
            self.removed(oldest)

    def removed(self, ring: Ring) -> None:
        """Stops counting a ring that is no longer used."""
        tenant = self._tenants.get(ring.tenant_id)
        if tenant is not None and ring in tenant.sizes:
            size = tenant.sizes.pop(ring)
            tenant.held -= size
            self.held -= size
            if not tenant.sizes:
                del self._tenants[ring.tenant_id]

    def _oldest(self, grown: Ring) -> Ring | None:
        """The ring to empty; never the one that has just grown. It is the newest of its tenant, and so the oldest too
        only where the tenant has no other."""
        others = (tenant for tenant in self._tenants.values() if next(iter(tenant.sizes)) is not grown)
        largest = max(others, key=lambda tenant: tenant.held, default=None)
        return None if largest is None else next(iter(largest.sizes))


class _Tenant:
    __slots__ = ("held", "sizes")

    def __init__(self) -> None:
        self.held = 0
        self.sizes: dict[Ring, int] = {}
        """Sizes of the rings that are not empty, the one that grew least recently first."""
