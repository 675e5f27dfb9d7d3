"""Which calls cannot be served before their deadlines: told from how long calls have taken while some came too late."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

KEEP: Final = 1.0
"""Seconds after the last call that was too late for which calls are judged."""
MANY: Final = 20.0
"""So many calls that were too late within about HALF_LIFE begin the judging. Fewer are no overload: the database may be
away, or a caller have little patience."""
HALF_LIFE: Final = 0.5
"""Seconds after which a call that was too late counts half."""
WEIGHT: Final = 0.02
"""Of each new duration in the mean. So the last fifty or so count."""
MARGIN: Final = 1.5
"""A call needs so many times the mean. With the mean itself, half of those that are let in end too late."""


@dataclass(slots=True)
class _Tenant:
    until: float
    level: float = 0.0
    """Calls that were too late, the older ones counting less; as of KEEP before `until`."""
    judged: bool = False
    """Whether there have been MANY. It stays so while further ones come."""
    mean: float | None = None
    """Seconds that calls have taken, those included whose deadline passed before they were served; None: not known."""

    def take(self, seconds: float) -> None:
        self.mean = seconds if self.mean is None else self.mean + WEIGHT * (seconds - self.mean)


class Pace:
    """Of one method. Refuses nothing while calls end before their deadlines, however slow they are, nor for a few that
    do not.

    Once the service has more calls than it can serve, they wait, first of all in grpc's core, where nothing but their
    number bounds them. Then each is accepted when its time is nearly over, work is done on it in vain, and nobody is
    served. A call that has less time left than calls of its tenant have taken lately is better refused before any work:
    the queue shortens to where calls arrive in time (tests/unit/test_pace.py has a simulation).

    Tenants are judged by their own calls. Does not read a clock of its own; costs nothing while no call is late.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: seconds."""
        self._clock = clock
        self._tenants: dict[str, _Tenant] = {}
        """Those of which a call was too late within the last KEEP seconds, or shortly before."""

    @property
    def judges(self) -> bool:
        """Whether any call is judged: then each is to be asked for with `hopeless`, and its end told with `ended`."""
        return bool(self._tenants)

    def late(self, tenant_id: str, seconds: float | None) -> None:
        """A call has ended because its deadline has passed: so many seconds after it was accepted, or before (None)."""
        now = self._clock()
        tenant = self._tenants.get(tenant_id)
        if tenant is None:
            # Tenants that call no more do not ask for themselves again.
            self._tenants = {name: each for name, each in self._tenants.items() if now <= each.until}
            tenant = self._tenants[tenant_id] = _Tenant(now)
        since = now + KEEP - tenant.until
        tenant.level = tenant.level * 0.5 ** (since / HALF_LIFE) + 1
        tenant.judged = tenant.judged or tenant.level >= MANY
        tenant.until = now + KEEP
        if seconds is not None:
            tenant.take(seconds)

    def ended(self, tenant_id: str, seconds: float) -> None:
        """A call has ended in time, so many seconds after it was accepted."""
        tenant = self._tenants.get(tenant_id)
        if tenant is not None:
            tenant.take(seconds)

    def hopeless(self, tenant_id: str, remaining: float | None) -> float | None:
        """Seconds that a call needs, if these are more than `remaining`, those until its deadline; None: it may well be
        served in time."""
        tenant = self._tenants.get(tenant_id)
        if tenant is None or remaining is None:
            return None
        if self._clock() > tenant.until:
            del self._tenants[tenant_id]
            return None
        if tenant.mean is None or not tenant.judged:
            return None
        needed = MARGIN * tenant.mean
        return needed if needed > remaining else None
