"""How the database is doing, for metrics."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FeedHolder:
    """A transaction that holds feeds back: they show nothing that was written since it began to write."""

    pid: int
    """Of the server's process; 0: a prepared transaction, or one that may not be looked up."""
    application: str
    state: str
    """As in pg_stat_activity; empty where the role may not see it."""
    seconds: float
    """For which it has held them back, as far as this process has seen."""


@dataclass(frozen=True, slots=True)
class StoreCondition:
    causes: Mapping[str, int]
    """Times that the database could not do its work, by SQLSTATE or class of error."""
    given_up: int
    """Connections that were closed because they gave no answer."""
    feed_holder: FeedHolder | None
    """None while nothing holds feeds back for longer than is usual."""
