"""The memory store's counters of usage, which every commit brings up to date; see store/usage.py."""

from collections.abc import Callable, Mapping

from sessiond.v1.run_pb2 import Run
from sessiond_server.domain import rows as r
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.usage.figures import (
    COUNTED,
    NOTHING,
    Figures,
    Group,
    added,
    bounded,
    day_of,
    of_models,
    shares,
)
from sessiond_server.memory.session import MemorySession
from sessiond_server.store.usage import Key, UsagePage, UsageQuery


class MemoryUsage:
    """Implements `store.usage.UsageReads` and `UsageCounting`. As in MemoryStore, nothing awaits between reading and
    writing."""

    def __init__(self, logs: Mapping[r.Key, MemorySession], clock: Callable[[], int]) -> None:
        """`clock`: microseconds since 1970-01-01 UTC."""
        self._logs = logs
        self._clock = clock
        self._of_users: dict[str, dict[Group, Figures]] = {}
        self._of_tenants: dict[str, dict[Group, Figures]] = {}
        """Without users."""

    def write(self, writes: r.Writes) -> None:
        """Counts what a batch has written. Runs are those of after the batch."""
        gone = {deletion.key: deletion for deletion in writes.deletions}
        for event in writes.dropped:
            self._count(event, gone[event.key].user_id, gone[event.key].agent_id)
        for event in writes.events:
            log = self._logs[event.key]
            self._count(event, log.head.user_id, log.index.agent_id if log.index is not None else "")

    def _count(self, event: r.EventRow, user_id: str, agent_id: str) -> None:
        if event.type not in COUNTED:
            return
        found = list(shares(event.type, event.head, event.body))
        log = self._logs.get(event.key)
        runs = {part.run_id: log.runs.get(part.run_id) for part in found} if log is not None else {}
        models = {run_id: Run.FromString(run.body).model for run_id, run in runs.items() if run is not None}
        for model, figures in of_models(found, models).items():
            group = Group(user_id, day_of(event.create_time_us), agent_id, model)
            for counters, key in ((self._of_users, group), (self._of_tenants, group._replace(user_id=""))):
                of_tenant = counters.setdefault(event.key[0], {})
                of_tenant[key] = added(of_tenant.get(key, NOTHING), figures)

    def erase(self, tenant_id: str, user_id: str) -> None:
        of_users = self._of_users.get(tenant_id, {})
        for group in [group for group in of_users if group.user_id == user_id]:
            del of_users[group]

    async def get_usage(self, scope: Scope, query: UsageQuery, *, after: Key | None, limit: int) -> UsagePage:
        by_user = "user_id" in query.by or query.user_id is not None
        counters = (self._of_users if by_user else self._of_tenants).get(scope.tenant_id, {})
        sums: dict[Key, Figures] = {}
        for group, figures in counters.items():
            if _selects(query, group):
                key = _key(query, group)
                sums[key] = added(sums.get(key, NOTHING), figures)
        keys = [key for key in sorted(sums, key=_order) if after is None or _order(key) > _order(after)]
        return UsagePage([(key, bounded(sums[key])) for key in keys[:limit]], len(keys) > limit, self._clock())

    async def take_lease(self, holder: str, seconds: float) -> bool:
        return True

    async def count(self) -> tuple[int, bool]:
        return 0, True


def _selects(query: UsageQuery, group: Group) -> bool:
    return (
        query.first_day <= group.day <= query.last_day
        and query.user_id in (None, group.user_id)
        and query.agent_id in (None, group.agent_id)
        and query.model in (None, group.model)
    )


def _key(query: UsageQuery, group: Group) -> Key:
    by = query.by
    return (
        group.user_id if "user_id" in by else "",
        group.day if "day" in by else None,
        group.agent_id if "agent_id" in by else "",
        group.model if "model" in by else "",
    )


def _order(key: Key) -> tuple[str, str, str, str]:
    return (key[0], key[1].isoformat() if key[1] is not None else "", key[2], key[3])
