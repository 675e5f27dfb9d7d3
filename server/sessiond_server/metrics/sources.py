"""The metrics of a process, read from its parts at each scrape.

No label and no value reveals anything about tenants, sessions or contents. docs/metrics.md documents the names.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from sessiond_server.events.hub import HubState
from sessiond_server.measures import BOUNDS, Durations, Rounds
from sessiond_server.metrics.port import of_the_process
from sessiond_server.rpc.attachments.transfers import Transfers
from sessiond_server.rpc.interceptors.call_metrics import MethodMetrics
from sessiond_server.search.indexer import IndexState
from sessiond_server.store.batcher import BatcherState
from sessiond_server.store.cached.store import CachedState
from sessiond_server.store.condition import Growth, Pool, Replication, StoreCondition
from sessiond_server.summaries.worker import SummaryState


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Functions that return the metrics of each part. The thread of a scrape calls them, so they only read numbers."""

    version: str
    calls: Callable[[], Sequence[MethodMetrics]]
    refused_calls: Callable[[], Mapping[str, int]]
    calls_in_progress: Callable[[], int]
    hub: Callable[[], HubState]
    pipes: Callable[[], int]
    transfers: Transfers
    writes: Callable[[], BatcherState]
    write_waits: Callable[[], Durations]
    batch_times: Callable[[], Durations]
    cache: Callable[[], CachedState] | None
    """None: the service has no cache, and its metrics are left out."""
    rounds: Sequence[Sequence[Rounds]]
    """Of each periodic task, those of each database."""
    search: Callable[[], IndexState] | None
    """None: there is no index, and its metrics are left out."""
    summaries: Callable[[], SummaryState] | None
    """None: no summaries are made, and their metrics are left out."""
    loop_lag: Callable[[], float]
    store_reachable: Callable[[], bool]
    databases_reachable: Callable[[], Mapping[str, bool]]
    """By the id of the database."""
    store: Callable[[], StoreCondition] | None
    """None: the store is in memory."""


def registry(sources: Sources) -> CollectorRegistry:
    """All metrics of this process."""
    found = CollectorRegistry()
    found.register(_Metrics(sources))
    of_the_process(found)
    return found


class _Metrics(Collector):
    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        sources = self._sources
        build = GaugeMetricFamily("sessiond_build_info", "Always 1.", labels=["version"])
        build.add_metric([sources.version], 1)
        yield build
        yield from _calls(sources.calls())
        refused = CounterMetricFamily(
            "sessiond_refused_calls", "Calls refused to protect the service or other callers.", labels=["reason"]
        )
        for reason, count in sources.refused_calls().items():
            refused.add_metric([reason], count)
        yield refused
        yield _gauge(
            "calls_in_progress", "Calls whose answer is not sent yet, including streams.", sources.calls_in_progress()
        )
        yield from _streams(sources.hub())
        yield _gauge("pipes", "Open pipes.", sources.pipes())
        yield from _transfers(sources.transfers)
        yield from _writes(sources.writes())
        yield _histogram("queue_seconds", "How long writes waited for their transaction.", sources.write_waits())
        yield _histogram("batch_seconds", "Duration of transactions of writes.", sources.batch_times())
        yield from _rounds(sources.rounds)
        if sources.search is not None:
            yield from _search(sources.search())
        if sources.summaries is not None:
            yield from _summaries(sources.summaries())
        yield _gauge("loop_lag_seconds", "Longest lateness of the event loop in the last minute.", sources.loop_lag())
        yield _gauge(
            "store_reachable", "1 while the store, with all its databases, answers.", sources.store_reachable()
        )
        reachable = GaugeMetricFamily(
            "sessiond_database_reachable", "1 while the database answers.", labels=["database"]
        )
        for database_id, answers in sources.databases_reachable().items():
            reachable.add_metric([database_id], answers)
        yield reachable
        if sources.store is not None:
            yield from _store(sources.store())
        if sources.cache is not None:
            yield from _cache(sources.cache())

    def describe(self) -> Iterator[Metric]:
        """Describes nothing, so that registering the collector does not call the sources."""
        return iter(())


def _calls(methods: Sequence[MethodMetrics]) -> Iterator[Metric]:
    ended = CounterMetricFamily("sessiond_calls", "Calls that ended, by gRPC code.", labels=["method", "code"])
    times = HistogramMetricFamily("sessiond_call_seconds", "Duration of unary calls.", labels=["method"])
    for method in methods:
        for code, count in method.codes.copy().items():
            ended.add_metric([method.method, code], count)
        if not method.streaming:
            times.add_metric([method.method], _buckets(method.times), method.times.seconds)
    yield ended
    yield times


def _streams(state: HubState) -> Iterator[Metric]:
    yield _gauge("watchers", "Open streams of events.", state.streams)
    yield _gauge("hub_lag_seconds", "Age of the last answered poll of all watched logs.", state.lag_seconds)
    yield _gauge("hub_reads_waiting", "Reads for streams that wait for their turn.", state.reads_waiting)
    yield _gauge("feed_lag_seconds", "How far the watched feed farthest behind is behind now.", state.feed_lag_seconds)


def _transfers(transfers: Transfers) -> Iterator[Metric]:
    yield _gauge("transfers", "Uploads and downloads in progress.", transfers.in_progress)
    moved = CounterMetricFamily("sessiond_transfer_bytes", "Bytes of uploads and downloads.", labels=["direction"])
    moved.add_metric(["received"], transfers.received)
    moved.add_metric(["sent"], transfers.sent)
    yield moved


def _rounds(tasks: Sequence[Sequence[Rounds]]) -> Iterator[Metric]:
    ended = CounterMetricFamily("sessiond_sweeps", "Rounds of periodic tasks.", labels=["task", "outcome"])
    seconds = CounterMetricFamily("sessiond_sweep_seconds", "Time of rounds that went through.", labels=["task"])
    ages = GaugeMetricFamily("sessiond_sweep_age_seconds", "Seconds since a round went through.", labels=["task"])
    swept = CounterMetricFamily("sessiond_swept", "What rounds have ended or removed.", labels=["what"])
    for rounds in tasks:
        task = rounds[0].task
        ended.add_metric([task, "done"], sum(each.done for each in rounds))
        ended.add_metric([task, "failed"], sum(each.failed for each in rounds))
        seconds.add_metric([task], sum(each.seconds for each in rounds))
        # The oldest: databases in which the task goes on must not hide one in which it fails.
        ages.add_metric([task], max(each.age() for each in rounds))
        for name in rounds[0].achieved:
            swept.add_metric([name], sum(each.achieved[name] for each in rounds))
    yield from (ended, seconds, ages, swept)


def _search(state: IndexState) -> Iterator[Metric]:
    yield _gauge("search_lag_seconds", "Time since the index of searches was last known to be complete.", state.lag)
    yield _gauge("search_indexing", "1 while this process keeps the index of searches.", state.keeps)


def _summaries(state: SummaryState) -> Iterator[Metric]:
    yield _gauge("summaries_in_progress", "Summaries that this process is making.", state.in_progress)
    outcomes = CounterMetricFamily("sessiond_summaries", "Attempts at summaries that ended.", labels=["outcome"])
    for outcome, count in state.outcomes.items():
        outcomes.add_metric([outcome], count)
    yield outcomes


def _writes(state: BatcherState) -> Iterator[Metric]:
    yield _gauge("queue_commands", "Writes that wait for a transaction.", state.queued_commands)
    yield _gauge("queue_oldest_seconds", "Age of the oldest write that waits.", state.oldest_seconds)
    yield _gauge("queue_bytes", "Request bytes of writes that wait for a transaction.", state.queued_bytes)
    yield _gauge("writes_under_way", "Writes that were sent and have no answer yet.", state.under_way)
    yield _gauge("writes_stalled_seconds", "Age of the oldest write that has no answer yet.", state.stalled_seconds)
    yield _counter("batches", "Transactions of writes that the store answered.", state.batches)
    yield _counter("batched_commands", "Writes in these transactions.", state.batched_commands)


def _store(condition: StoreCondition) -> Iterator[Metric]:
    errors = CounterMetricFamily("sessiond_store_errors", "Failures of Postgres, by SQLSTATE.", labels=["cause"])
    for cause, count in condition.causes.items():
        errors.add_metric([cause], count)
    yield errors
    yield _counter("store_connections_given_up", "Connections that gave no answer.", condition.given_up)
    held = GaugeMetricFamily(
        "sessiond_feed_held_seconds",
        "Time for which an open transaction has held feeds back.",
        labels=["pid", "application", "state"],
    )
    if (holder := condition.feed_holder) is not None:
        held.add_metric([str(holder.pid), holder.application, holder.state], holder.seconds)
    yield held
    writes = CounterMetricFamily(
        "sessiond_store_writes", "Writes by the path that they took, and why.", labels=["path", "reason"]
    )
    for reason, count in condition.writes.items():
        writes.add_metric(["optimistic", ""] if reason == "optimistic" else ["locked", reason], count)
    yield writes
    yield from _pool(condition.pool)
    yield from _replication(condition.replication or Replication((), ()))
    yield from _growth(condition.growth)


def _pool(pool: Pool) -> Iterator[Metric]:
    connections = GaugeMetricFamily("sessiond_store_connections", "Connections to Postgres.", labels=["state"])
    connections.add_metric(["in_use"], pool.in_use)
    connections.add_metric(["idle"], pool.idle)
    yield connections
    yield _gauge("store_connections_awaited", "How many wait for a connection to Postgres.", pool.waiting)
    yield _histogram("store_connection_wait_seconds", "Waits for a connection to Postgres.", pool.waits)


def _replication(state: Replication) -> Iterator[Metric]:
    labels = ["state", "sync_state"]
    standbys = GaugeMetricFamily("sessiond_replication_standbys", "Readers of the log of Postgres.", labels=labels)
    behind = GaugeMetricFamily("sessiond_replication_lag_bytes", "Log that the slowest has to apply.", labels=labels)
    late = GaugeMetricFamily("sessiond_replication_lag_seconds", "How late the slowest is.", labels=labels)
    for found in state.standbys:
        named = [found.state, found.sync_state]
        standbys.add_metric(named, found.count)
        if found.bytes is not None:
            behind.add_metric(named, found.bytes)
            late.add_metric(named, found.seconds or 0.0)
    slots = GaugeMetricFamily("sessiond_replication_slots", "Replication slots of Postgres.", labels=["active"])
    kept = GaugeMetricFamily("sessiond_replication_slot_bytes", "Log that the slowest slot keeps.", labels=["active"])
    for slot in state.slots:
        slots.add_metric([str(slot.active).lower()], slot.count)
        kept.add_metric([str(slot.active).lower()], slot.bytes)
    yield from (standbys, behind, late, slots, kept)


def _growth(found: Growth | None) -> Iterator[Metric]:
    def family(name: str, text: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"sessiond_table_{name}", text, labels=["table"])

    size, indexes = family("bytes", "Size of a table."), family("index_bytes", "Size of a table's indexes.")
    rows, dead = family("rows", "Rows of a table."), family("dead_rows", "Row versions that vacuum has to remove.")
    vacuumed = family("vacuum_age_seconds", "Time since vacuum went through a table.")
    for table in found.tables if found else ():
        for metric, value in (
            (size, table.bytes),
            (indexes, table.index_bytes),
            (rows, table.rows),
            (dead, table.dead_rows),
        ):
            metric.add_metric([table.name], value)
        if table.vacuum_seconds is not None:
            vacuumed.add_metric([table.name], table.vacuum_seconds)
    age = GaugeMetricFamily("sessiond_transaction_age", "Transaction ids since the oldest that is not frozen.")
    if found:
        age.add_metric([], found.transaction_age)
    yield from (size, indexes, rows, dead, vacuumed, age)


def _cache(state: CachedState) -> Iterator[Metric]:
    yield _gauge("cache_usable", "1 while the cache, with all servers of a cluster, can be used.", state.cache.ready)
    yield _counter("cache_hits", "Reads answered from the cache.", state.hits)
    yield _counter("cache_misses", "Reads answered from the store after a cache miss.", state.misses)
    yield _counter("cache_unreadable", "Reads that found a damaged cache entry.", state.cache.unreadable)
    yield _counter("cache_epochs", "Times that all cache entries became invalid for this process.", state.cache.epochs)
    yield _counter("cache_openings", "Times that a usable cache became unusable.", state.cache.openings)
    yield _gauge("cache_dirty_sessions", "Sessions with changes that are not in the cache yet.", state.dirty)


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(f"sessiond_{name}", meaning, value=value)


def _histogram(name: str, meaning: str, times: Durations) -> Metric:
    return HistogramMetricFamily(f"sessiond_{name}", meaning, buckets=_buckets(times), sum_value=times.seconds)


def _buckets(times: Durations) -> Sequence[tuple[str, float]]:
    """Pairs of (bound, how many took at most that)."""
    return list(zip([*map(str, BOUNDS), "+Inf"], accumulate(times.counts), strict=True))


def _counter(name: str, meaning: str, value: float) -> Metric:
    """A counter with one value. The library adds `_total` to the name."""
    return CounterMetricFamily(f"sessiond_{name}", meaning, value=value)
