"""Metrics of several databases in one: sums of what is counted, and the worst of what is measured.

The metrics of a single database are passed on as they are.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from sessiond_server.events.hub import HubState
from sessiond_server.measures import Durations
from sessiond_server.search.indexer import IndexState
from sessiond_server.store.batcher import BatcherState
from sessiond_server.store.cached.contract import CacheState
from sessiond_server.store.cached.store import CachedState
from sessiond_server.store.condition import Growth, Pool, Replication, Slots, Standbys, StoreCondition, Table
from sessiond_server.summaries.worker import SummaryState

T = TypeVar("T")


def of_durations(all_of_them: Sequence[Durations]) -> Durations:
    if len(all_of_them) == 1:
        return all_of_them[0]
    total = Durations()
    total.counts = [sum(counts) for counts in zip(*(each.counts for each in all_of_them), strict=True)]
    total.seconds = sum(each.seconds for each in all_of_them)
    return total


def of_hubs(states: Sequence[HubState]) -> HubState:
    return HubState(
        streams=_sum(states, "streams"),
        sessions=_sum(states, "sessions"),
        feeds=_sum(states, "feeds"),
        ring_bytes=_sum(states, "ring_bytes"),
        away=any(state.away for state in states),
        reads_waiting=_sum(states, "reads_waiting"),
        lag_seconds=max(state.lag_seconds for state in states),
        feed_lag_seconds=max(state.feed_lag_seconds for state in states),
    )


def of_batchers(states: Sequence[BatcherState]) -> BatcherState:
    return BatcherState(
        queued_commands=_sum(states, "queued_commands"),
        queued_bytes=_sum(states, "queued_bytes"),
        batches=_sum(states, "batches"),
        batched_commands=_sum(states, "batched_commands"),
        under_way=_sum(states, "under_way"),
        stalled_seconds=max(state.stalled_seconds for state in states),
        oldest_seconds=max(state.oldest_seconds for state in states),
    )


def of_summaries(states: Sequence[SummaryState]) -> SummaryState:
    outcomes = {name: sum(state.outcomes[name] for state in states) for name in states[0].outcomes}
    return SummaryState(_sum(states, "in_progress"), outcomes)


def of_caches(states: Sequence[CachedState]) -> CachedState:
    caches = [state.cache for state in states]
    cache = CacheState(
        ready=all(each.ready for each in caches),
        reason="; ".join(sorted({each.reason for each in caches if each.reason})),
        epochs=_sum(caches, "epochs"),
        unreadable=_sum(caches, "unreadable"),
        openings=_sum(caches, "openings"),
    )
    return CachedState(cache, _sum(states, "hits"), _sum(states, "misses"), _sum(states, "dirty"))


def of_indexes(states: Sequence[IndexState]) -> IndexState:
    return IndexState(max(state.lag for state in states), any(state.keeps for state in states))


def of_stores(conditions: Sequence[StoreCondition]) -> StoreCondition:
    if len(conditions) == 1:
        return conditions[0]
    causes: Counter[str] = Counter()
    for condition in conditions:
        causes.update(condition.causes)
    holders = [condition.feed_holder for condition in conditions if condition.feed_holder is not None]
    pools = [condition.pool for condition in conditions]
    return StoreCondition(
        causes=causes,
        given_up=_sum(conditions, "given_up"),
        feed_holder=max(holders, key=lambda holder: holder.seconds, default=None),
        pool=Pool(
            in_use=_sum(pools, "in_use"),
            idle=_sum(pools, "idle"),
            waiting=_sum(pools, "waiting"),
            waits=of_durations([pool.waits for pool in pools]),
        ),
        replication=_replication([each.replication for each in conditions if each.replication is not None]),
        growth=_growth([each.growth for each in conditions if each.growth is not None]),
        writes={name: sum(each.writes[name] for each in conditions) for name in conditions[0].writes},
    )


def _replication(states: Sequence[Replication]) -> Replication | None:
    """The worst of each kind: databases of one server all show the same standbys and slots."""
    if not states:
        return None
    standbys = _grouped(
        [each for state in states for each in state.standbys], lambda each: (each.state, each.sync_state)
    )
    slots = _grouped([each for state in states for each in state.slots], lambda each: each.active)
    return Replication(
        [
            Standbys(state, sync_state, _most(group, "count") or 0, _most(group, "bytes"), _most(group, "seconds"))
            for (state, sync_state), group in standbys.items()
        ],
        [Slots(active, _most(group, "count") or 0, _most(group, "bytes") or 0.0) for active, group in slots.items()],
    )


def _growth(states: Sequence[Growth]) -> Growth | None:
    """Tables of one name as one table, for which vacuum was last where it was longest ago, or has never been."""
    if not states:
        return None
    groups = _grouped([table for state in states for table in state.tables], lambda table: table.name)
    tables = [
        Table(
            name,
            _sum(group, "bytes"),
            _sum(group, "index_bytes"),
            _sum(group, "rows"),
            _sum(group, "dead_rows"),
            None if any(table.vacuum_seconds is None for table in group) else _most(group, "vacuum_seconds"),
        )
        for name, group in groups.items()
    ]
    return Growth(tables, _most(states, "transaction_age"), min(state.freeze_age for state in states))


def _grouped(items: Iterable[T], kind: Callable[[T], Any]) -> dict[Any, list[T]]:
    groups: dict[Any, list[T]] = {}
    for item in items:
        groups.setdefault(kind(item), []).append(item)
    return groups


def _sum(states: Iterable[object], name: str) -> int:
    return sum(getattr(state, name) for state in states)


def _most(items: Iterable[object], name: str) -> Any:
    """The highest value that is known; None if none is."""
    return max((value for item in items if (value := getattr(item, name)) is not None), default=None)
