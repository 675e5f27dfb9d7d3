"""How the database is doing, for metrics."""

from collections.abc import Mapping
from dataclasses import dataclass


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
class StoreCondition:
    causes: Mapping[str, int]
    """Number of failures of the database by SQLSTATE or class of error."""
    given_up: int
    """Connections that were closed because they gave no answer."""
    feed_holder: FeedHolder | None
    """None while no transaction holds feeds back for longer than usual."""
