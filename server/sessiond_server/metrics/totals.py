"""One page of metrics for several workers: counts are added up, and of measurements the worst is shown."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from sessiond_server.metrics.port import of_the_process

Key = tuple[str, tuple[tuple[str, str], ...]]
"""Name of a sample, and its labels."""
Merge = Callable[[float, float], float]


@dataclass(frozen=True, slots=True)
class Family:
    """A metric with its samples, in a form that processes can send each other."""

    name: str
    text: str
    kind: str
    samples: Mapping[Key, float]


Page = Sequence[Family]


def _sum(one: float, other: float) -> float:
    return one + other


GAUGES: Final[Mapping[str, Merge]] = {
    **dict.fromkeys(
        (
            "process_max_fds", "process_open_fds", "process_resident_memory_bytes", "process_virtual_memory_bytes",
            "sessiond_cache_dirty_sessions", "sessiond_calls_in_progress", "sessiond_hub_reads_waiting",
            "sessiond_pipes", "sessiond_queue_bytes", "sessiond_queue_commands", "sessiond_search_indexing",
            "sessiond_store_connections", "sessiond_store_connections_awaited", "sessiond_summaries_in_progress",
            "sessiond_transfers", "sessiond_watchers", "sessiond_writes_under_way",
        ),
        _sum,
    ),
    **dict.fromkeys(
        (
            "python_info", "sessiond_build_info", "sessiond_feed_held_seconds", "sessiond_feed_lag_seconds",
            "sessiond_hub_lag_seconds", "sessiond_loop_lag_seconds", "sessiond_queue_oldest_seconds",
            "sessiond_replication_lag_bytes", "sessiond_replication_lag_seconds", "sessiond_replication_slot_bytes",
            "sessiond_replication_slots", "sessiond_replication_standbys", "sessiond_search_lag_seconds",
            "sessiond_sweep_age_seconds", "sessiond_table_bytes", "sessiond_table_dead_rows",
            "sessiond_table_index_bytes", "sessiond_table_rows", "sessiond_table_vacuum_age_seconds",
            "sessiond_transaction_age", "sessiond_writes_stalled_seconds",
        ),
        max,
    ),
    **dict.fromkeys(
        (
            "process_start_time_seconds", "sessiond_cache_usable", "sessiond_database_reachable",
            "sessiond_store_reachable",
        ),
        min,
    ),
}  # fmt: skip
"""How gauges of workers become one. What each of them sees of the same database or log is not added up. Counters and
histograms always are."""


def page(registry: CollectorRegistry) -> Page:
    """All metrics of a registry, now."""
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in metric.samples},
        )
        for metric in registry.collect()
    ]


def total(pages: Iterable[Page]) -> Page:
    """The metrics of all pages as one page, in the order in which they first occur."""
    found: dict[str, Family] = {}
    for family in (family for page in pages for family in page):
        before = found.get(family.name)
        found[family.name] = family if before is None else _merged(before, family)
    return list(found.values())


def counted(page: Page) -> Page:
    """What stays of the page of a worker that has ended: a total must never become less, which Prometheus would take
    for a new start from 0."""
    return [family for family in page if family.kind != "gauge"]


def _merged(one: Family, other: Family) -> Family:
    merge = GAUGES.get(one.name, _sum) if one.kind == "gauge" else _sum
    samples = dict(one.samples)
    for key, value in other.samples.items():
        samples[key] = merge(samples[key], value) if key in samples else value
    return Family(one.name, one.text, one.kind, samples)


def of_this_process() -> Page:
    """What the library knows of every process."""
    found = CollectorRegistry()
    of_the_process(found)
    return page(found)


def registry(read: Callable[[], Page]) -> CollectorRegistry:
    """Metrics whose page `read` returns, at each scrape and in its thread."""
    found = CollectorRegistry()
    found.register(_Totals(read))
    return found


class _Totals(Collector):
    def __init__(self, read: Callable[[], Page]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        for family in self._read():
            metric = Metric(family.name, family.text, family.kind)
            for (name, labels), value in family.samples.items():
                metric.add_sample(name, dict(labels), value)
            yield metric

    def describe(self) -> Iterator[Metric]:
        """Describes nothing, so that registering the collector does not ask the workers."""
        return iter(())
