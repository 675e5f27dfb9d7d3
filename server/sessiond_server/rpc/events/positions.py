"""Positions of streams: opaque, sealed, without a time limit; valid for one tenant, user, filter, and session or feed.

A position of a session is a seq and an event id, so that a log with another event at that seq is detected. A position
of a feed is the place of the last event that was delivered or skipped, with the anchors and late_commits that find_lost
looks up in the database. Lists and streams of events use the same positions.
"""

from collections.abc import Sequence
from typing import Any, Final

from sessiond_server.domain.commands import Scope
from sessiond_server.domain.log import FeedPlace
from sessiond_server.errors import InvalidPosition
from sessiond_server.events.contract import Cursor, FeedCursor
from sessiond_server.rpc.events.filters import FeedSelection, SessionSelection
from sessiond_server.rpc.seals import Seal, binding
from sessiond_server.store.homes import Homes

LONGEST_POSITION: Final = 4096
"""Longest position, in characters; error metadata carry one. That of a feed with 8 anchors and 4 late_commits in
sessions with ids of 128 bytes has about 3 700."""


class Positions:
    """Seals and opens positions. Replicas with the same key accept each other's positions."""

    def __init__(self, key: bytes = b"", homes: Homes | None = None) -> None:
        """`key` is secret; see Store.token_key. It may be set later, but before the first position. `homes`: as
        of PageTokens."""
        self.key = key
        self._keys = homes or Homes()

    def of_session(self, scope: Scope, session_id: str, selection: SessionSelection) -> "SessionPositions":
        bound = binding(scope.tenant_id, scope.user_id, "session", session_id, selection.digest)
        return SessionPositions(Seal(self._keys.keys.get(scope.tenant_id, self.key), bound))

    def of_feed(self, scope: Scope, selection: FeedSelection) -> "FeedPositions":
        return FeedPositions(
            Seal(
                self._keys.keys.get(scope.tenant_id, self.key),
                binding(scope.tenant_id, scope.user_id, "feed", selection.digest),
            )
        )


class SessionPositions:
    """The positions of one session, for one caller and filter."""

    __slots__ = ("_seal",)

    def __init__(self, seal: Seal) -> None:
        self._seal = seal

    @property
    def binding(self) -> bytes:
        """The digest to which positions are bound. With equal bindings, equal cursors give equal positions."""
        return self._seal.binding

    def seal(self, cursor: Cursor) -> str:
        return self._seal.seal([cursor.seq, cursor.event_id])

    def open(self, position: str) -> Cursor | None:
        """The cursor; None for the empty position. Raises InvalidPosition for a string that was not sealed here."""
        if not position:
            return None
        seq, event_id = _opened(self._seal, position)
        return Cursor(seq, event_id)


class FeedPositions:
    """The positions of one tenant's feed, for one caller and filter."""

    __slots__ = ("_seal",)

    def __init__(self, seal: Seal) -> None:
        self._seal = seal

    @property
    def binding(self) -> bytes:
        """As of SessionPositions."""
        return self._seal.binding

    def seal(self, cursor: FeedCursor) -> str:
        """The position. Where long session ids would make it too long it names fewer events: the anchors of the oldest
        transactions are left out, at last the late_commits that were seen least recently."""
        place, anchors, late_commits = cursor.place, list(cursor.anchors), list(cursor.late_commits)
        while True:
            value: list[Any] = [place.commit_xid, place.session_id, place.seq, _listed(anchors)]
            if late_commits:
                value.append(_listed(late_commits))
            sealed = self._seal.seal(value)
            if len(sealed) <= LONGEST_POSITION:
                return sealed
            del (anchors if len(anchors) > 1 else late_commits)[0]

    def open(self, position: str) -> FeedCursor | None:
        """As SessionPositions.open."""
        if not position:
            return None
        # Positions of older servers have no late_commits.
        commit_xid, session_id, seq, *named = _opened(self._seal, position)
        return FeedCursor(
            FeedPlace(commit_xid, session_id, seq),
            *(tuple((FeedPlace(*place), event_id) for *place, event_id in events) for events in named),
        )


def _listed(events: Sequence[tuple[FeedPlace, str]]) -> list[list[Any]]:
    return [[at.commit_xid, at.session_id, at.seq, event_id] for at, event_id in events]


def _opened(seal: Seal, position: str) -> Any:
    # A string with a valid seal was sealed here, so its value has the expected form.
    try:
        return seal.open(position, LONGEST_POSITION)
    except ValueError:
        raise InvalidPosition from None
