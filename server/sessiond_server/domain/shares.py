"""How much each tenant may hold of what all tenants share: places, bytes, streams, queued commands."""

from collections.abc import Callable
from typing import Final

TIMES_WHAT_IS_LEFT: Final = 3
"""A tenant that holds something may hold three times of what it leaves to others: alone three quarters of all, one of
two three sevenths. So a tenant that comes later finds something, however many callers others have."""


def may_hold(held: int, amount: int, left: int) -> bool:
    """Whether a tenant that holds `held` may take `amount` more, which leaves `left` to all. One that holds nothing may
    take the last."""
    return left >= 0 and (not held or held + amount <= TIMES_WHAT_IS_LEFT * left)


def never_alone() -> bool:
    """For what is shared where nothing is known of how many tenants there are."""
    return False


def one_tenant() -> bool:
    """For what belongs to one tenant."""
    return True


class Shares:
    """Amounts of one thing. What was taken must be given back, however a call ends."""

    def __init__(self, most: int, *, alone: Callable[[], bool] = never_alone) -> None:
        """`alone`: whether there is only one tenant, which may then hold all."""
        self.most = most
        self._alone = alone
        self._held: dict[str, int] = {}
        self.used = 0

    def take(self, tenant_id: str, amount: int = 1) -> bool:
        """Takes the amount where there is enough of it for this tenant."""
        left = self.most - self.used - amount
        held = self._held.get(tenant_id, 0)
        if left < 0 or not (may_hold(held, amount, left) or self._alone()):
            return False
        self._held[tenant_id] = held + amount
        self.used += amount
        return True

    def give(self, tenant_id: str, amount: int = 1) -> None:
        """Gives back what was taken."""
        self.used -= amount
        held = self._held[tenant_id] - amount
        if held:
            self._held[tenant_id] = held
        else:
            del self._held[tenant_id]
