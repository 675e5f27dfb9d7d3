"""Fair shares: how much each tenant may hold of a resource that all share, such as places, bytes or streams."""

from collections.abc import Callable
from typing import Final

TIMES_WHAT_IS_LEFT: Final = 3
"""A tenant may hold at most three times the amount that is left for others. So a single tenant can hold three quarters
of all, and each of two tenants three sevenths. A tenant that arrives later always finds something left."""


def may_hold(held: int, amount: int, left: int) -> bool:
    """Whether a tenant that holds `held` may take `amount` more, after which `left` would be left. A tenant that holds
    nothing may take the last."""
    return left >= 0 and (not held or held + amount <= TIMES_WHAT_IS_LEFT * left)


def never_alone() -> bool:
    """Use this for `alone` where the number of tenants is unknown."""
    return False


def one_tenant() -> bool:
    """Use this for `alone` where there is only one tenant."""
    return True


class Shares:
    """The shares of one resource. Each amount that was taken must be given back, however the call ends."""

    def __init__(self, most: int, *, alone: Callable[[], bool] = never_alone) -> None:
        """`most`: the total amount. `alone` returns whether there is only one tenant, which may then hold all."""
        self.most = most
        self._alone = alone
        self._held: dict[str, int] = {}
        self.used = 0

    def take(self, tenant_id: str, amount: int = 1) -> bool:
        """Takes the amount if the tenant may hold it; returns whether it did."""
        left = self.most - self.used - amount
        held = self._held.get(tenant_id, 0)
        if left < 0 or not (may_hold(held, amount, left) or self._alone()):
            return False
        self._held[tenant_id] = held + amount
        self.used += amount
        return True

    def give(self, tenant_id: str, amount: int = 1) -> None:
        """Gives back an amount that was taken."""
        self.used -= amount
        held = self._held[tenant_id] - amount
        if held:
            self._held[tenant_id] = held
        else:
            del self._held[tenant_id]
