"""A fair queue in which tenants take turns, without I/O. A tenant's own commands keep their order.

It uses start-time fair queueing: each tenant has a mark, the cost of its commands so far, and the tenant with the
lowest mark is next. A tenant that arrives or returns starts at the mark of the command taken last, so that it cannot
claim turns that it did not use. A single tenant costs no more CPU time than a plain queue.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush, heapreplace
from math import inf
from typing import Final, Generic, Protocol, TypeVar

from sessiond_server.domain.commands import Command

EACH: Final = 4096
"""What a command costs besides the bytes of its request, in bytes. Batches are bounded by both, 128 commands and 4 MiB:
without it a tenant of small commands would pay nothing for filling them, with 32 KiB one of large commands."""


class Queued(Protocol):
    """An item of the queue, hashed by identity."""

    @property
    def command(self) -> Command: ...


Q = TypeVar("Q", bound=Queued)


class _Lane(Generic[Q]):
    """The queue of one tenant. It exists while its tenant is in the order, even if it is empty."""

    __slots__ = ("size", "tickets")

    def __init__(self) -> None:
        self.tickets: OrderedDict[Q, None] = OrderedDict()
        self.size = 0


class Turns(Generic[Q]):
    """The queue. Its owner bounds it. A tenant without commands keeps its mark until the queue is empty."""

    def __init__(self) -> None:
        self._lanes: dict[str, _Lane[Q]] = {}
        self._order: list[tuple[int, int, str]] = []
        """Heap of the tenants in `_lanes`: (mark, when it was set, tenant)."""
        self._marks: dict[str, int] = {}
        """Tenant -> mark of its next command, for tenants that were in the queue since it was last empty."""
        self._now = 0
        """Mark of the command that was taken last."""
        self._moves = 0
        self._count = 0
        self.size = 0
        """Request bytes of all commands."""

    def __len__(self) -> int:
        return self._count

    def __contains__(self, ticket: Q) -> bool:
        lane = self._lanes.get(ticket.command.scope.tenant_id)
        return lane is not None and ticket in lane.tickets

    def __iter__(self) -> Iterator[Q]:
        for lane in self._lanes.values():
            yield from lane.tickets

    def firsts(self) -> Sequence[Q]:
        """The oldest command of each tenant. Any thread may call it: each copy below is one step of the interpreter."""
        return [ticket for lane in tuple(self._lanes.values()) for ticket in tuple(lane.tickets)[:1]]

    def held(self, tenant_id: str) -> tuple[int, int]:
        """(number, request bytes) of a tenant's commands."""
        lane = self._lanes.get(tenant_id)
        return (0, 0) if lane is None else (len(lane.tickets), lane.size)

    def append(self, ticket: Q) -> None:
        command = ticket.command
        tenant_id = command.scope.tenant_id
        lane = self._lanes.get(tenant_id)
        if lane is None:
            lane = self._lanes[tenant_id] = _Lane()
            heappush(self._order, self._place(max(self._now, self._marks.get(tenant_id, 0)), tenant_id))
        lane.tickets[ticket] = None
        lane.size += command.size
        self.size += command.size
        self._count += 1

    def remove(self, ticket: Q) -> None:
        """Removes a command. Raises KeyError if it is not in the queue."""
        lane = self._lanes[ticket.command.scope.tenant_id]
        del lane.tickets[ticket]
        self._left(lane, ticket)

    def take(self, largest: float = inf) -> Q | None:
        """Takes the next command; None if it is larger than `largest`. Raises IndexError if the queue is empty."""
        while True:
            mark, _, tenant_id = self._order[0]
            lane = self._lanes[tenant_id]
            if lane.tickets:
                break
            self._forget(mark, tenant_id)
        ticket = next(iter(lane.tickets))
        size = ticket.command.size
        if size > largest:
            return None
        del lane.tickets[ticket]
        self._left(lane, ticket)
        self._now = mark
        if not self._count:
            # One tenant alone stays in the order: its next command then costs no more than one of a plain queue.
            if len(self._lanes) > 1 or self._marks:
                self.clear()
            return ticket
        mark += EACH + size
        if lane.tickets:
            heapreplace(self._order, self._place(mark, tenant_id))
        else:
            self._forget(mark, tenant_id)
        return ticket

    def clear(self) -> None:
        """Empties the queue and resets all marks."""
        self._lanes.clear()
        self._order.clear()
        self._marks.clear()
        self._now = self._moves = self._count = self.size = 0

    def _left(self, lane: _Lane[Q], ticket: Q) -> None:
        size = ticket.command.size
        lane.size -= size
        self.size -= size
        self._count -= 1

    def _forget(self, mark: int, tenant_id: str) -> None:
        """Removes the first tenant, which has no commands, from the order."""
        heappop(self._order)
        del self._lanes[tenant_id]
        self._marks[tenant_id] = mark

    def _place(self, mark: int, tenant_id: str) -> tuple[int, int, str]:
        """The key of a tenant in the order. Of tenants with equal marks, the one that has waited longest is first."""
        self._moves += 1
        return mark, self._moves, tenant_id
