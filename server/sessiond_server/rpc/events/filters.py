"""Filters of streams. An event that is not selected is skipped, but the position still moves past it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from sessiond.v1.event_pb2 import EventType
from sessiond_server.domain.log import FeedEntry, LogEntry
from sessiond_server.rpc.seals import binding

DELETED: Final = EventType.EVENT_TYPE_SESSION_DELETED


@dataclass(frozen=True)
class SessionSelection:
    """A filter of one session's events by type. The session's deletion is always selected, because it ends the log."""

    types: frozenset[int] = frozenset()
    """Selected types; empty: all."""

    @cached_property
    def digest(self) -> bytes:
        """A digest, equal for filters that select the same events."""
        return binding(*sorted(self.types))

    def of(self, entries: Sequence[LogEntry]) -> Sequence[LogEntry]:
        """The selected ones, in their order."""
        if not self.types:
            return entries
        return [entry for entry in entries if entry.type in self.types or entry.type == DELETED]


@dataclass(frozen=True)
class FeedSelection:
    """A filter of one tenant's events: selects events that match all criteria that are set."""

    owner: str = ""
    """Scope.user_id: if not empty, only sessions of this user exist for the caller (G11)."""
    session_ids: frozenset[str] = frozenset()
    agent_id: str = ""
    user_id: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    """Sorted."""
    types: frozenset[int] = frozenset()

    @classmethod
    def made(
        cls, owner: str, session_ids: Iterable[str], agent_id: str, user_id: str, labels: Mapping[str, str],
        types: Collection[int],
    ) -> "FeedSelection":  # fmt: skip
        return cls(owner, frozenset(session_ids), agent_id, user_id, tuple(sorted(labels.items())), frozenset(types))

    @cached_property
    def digest(self) -> bytes:
        """As in SessionSelection."""
        lists: tuple[Sequence[str | int], ...] = (
            sorted(self.session_ids),
            [part for label in self.labels for part in label],
            sorted(self.types),
        )
        return binding(self.agent_id, self.user_id, *(binding(*items) for items in lists))

    @cached_property
    def _selects_all(self) -> bool:
        return self == FeedSelection()

    def of(self, entries: Sequence[FeedEntry]) -> Sequence[FeedEntry]:
        """The selected ones, in their order."""
        return entries if self._selects_all else [entry for entry in entries if self.selects(entry)]

    def selects(self, event: FeedEntry) -> bool:
        """Whether the event is selected. A deleted session has no agent or labels left, so those criteria do not apply
        to its deletion."""
        return (
            (not self.types or event.entry.type in self.types)
            and (not self.session_ids or event.place.session_id in self.session_ids)
            and self.owner in ("", event.user_id)
            and self.user_id in ("", event.user_id)
            and (event.entry.type == DELETED or self._describes(event))
        )

    def _describes(self, event: FeedEntry) -> bool:
        return self.agent_id in ("", event.agent_id) and all(
            event.labels.get(key) == value for key, value in self.labels
        )
