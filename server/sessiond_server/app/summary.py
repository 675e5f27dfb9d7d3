"""What a running service tells its operator."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sessiond_server.embedded import EmbeddedServers
from sessiond_server.settings import Address, Settings


@dataclass(frozen=True, slots=True)
class Service:
    """A running service, with what the operator needs to know."""

    settings: Settings
    listening: Address
    embedded: EmbeddedServers | None
    keys: int
    """0: no keys are needed."""
    metrics: Address | None
    """Where they are served."""
    http: Address | None
    """Where HTTP is served."""
    failed: Callable[[], str | None] = lambda: None
    """Name of a background task that has failed, so that the service cannot be used any more."""
    workers: Sequence[int] = ()
    """Ids of the processes that serve, if they are others than this one."""
