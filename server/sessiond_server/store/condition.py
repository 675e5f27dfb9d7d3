"""How the database is doing, for metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sessiond_server.measures import Durations


@dataclass(frozen=True, slots=True)
class FeedHolder:
    """A transaction that holds feeds back: they show no event that was written since it began to write."""

    pid: int
    """Process id of its session; 0: a prepared transaction, or one that the role may not look up."""
    application: str
    state: str
    """As in pg_stat_activity; empty if the role may not see it."""
    seconds: float
    """How long it has held feeds back, as far as this process has seen."""


@dataclass(frozen=True, slots=True)
class Pool:
    """The connections that calls share."""

    in_use: int
    idle: int
    waiting: int
    """How many wait for a connection because all are in use."""
    waits: Durations
    """How long each waited, opening a new connection included."""


@dataclass(frozen=True, slots=True)
class Standbys:
    """Readers of the primary's log in one state: standbys, base backups, logical subscribers."""

    state: str
    """As in pg_stat_replication; empty if the role may not see it."""
    sync_state: str
    """Likewise."""
    count: int
    bytes: float | None
    """Bytes of the log that the one farthest behind has yet to apply; None: unknown."""
    seconds: float | None
    """How far behind it is in time; None: unknown, or all is applied and nothing is written."""


@dataclass(frozen=True, slots=True)
class Slots:
    """Replication slots that are in use, or that are not."""

    active: bool
    count: int
    bytes: float
    """Bytes of the log that the slot farthest behind keeps from being removed."""


@dataclass(frozen=True, slots=True)
class Replication:
    standbys: Sequence[Standbys]
    slots: Sequence[Slots]


@dataclass(frozen=True, slots=True)
class Table:
    """A table, as the statistics of the server have it."""

    name: str
    bytes: float
    """Without its indexes."""
    index_bytes: float
    rows: int
    dead_rows: int
    """Old versions of rows, which vacuum has yet to remove."""
    vacuum_seconds: float | None
    """Seconds since vacuum last went through it; None: not since the statistics began."""


@dataclass(frozen=True, slots=True)
class Growth:
    tables: Sequence[Table]
    transaction_age: int
    """Transaction ids since the oldest that is not frozen, in the database of the cluster that has most."""
    freeze_age: int
    """Age from which autovacuum freezes a table in any case."""


@dataclass(frozen=True, slots=True)
class StoreCondition:
    causes: Mapping[str, int]
    """Number of failures of the database by SQLSTATE or class of error."""
    given_up: int
    """Connections that were closed because they gave no answer."""
    feed_holder: FeedHolder | None
    """None while no transaction holds feeds back for longer than usual."""
    pool: Pool
    replication: Replication | None
    """None while it is unknown."""
    growth: Growth | None
    """None while it is unknown."""
    writes: Mapping[str, int]
    """Number of commands by how they were applied: "optimistic", or why they went through the locked path
    (postgres/optimistic.py)."""
