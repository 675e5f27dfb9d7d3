"""Keeps the pieces of open drafts in memory, for watchers that join late. It does no I/O.

Every process keeps the drafts of all sessions, watched or not, from the deltas that the bus brings, its own included: a
watcher gets the draft from whichever process it joins, and no write waits for another server. A process that has just
started has only what was published since.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.message import DecodeError

from sessiond.v1.event_pb2 import DeletedMessages, Event, EventType
from sessiond.v1.event_service_pb2 import Delta
from sessiond_server.domain.log import FeedEntry, LogEntry
from sessiond_server.domain.rows import Key, Writes

SUPERSEDED: Final = b"\xff"
"""Before a message id, among the deltas on the bus: the message is appended. It is no protobuf message, so servers that
do not know it ignore it, as they ignore all that cannot be decoded."""
PIECE_BYTES: Final = 32 * 1024
"""Most bytes of one delta of a kept draft."""
DRAFT_OVERHEAD: Final = 2560
"""Bytes that a draft counts beside its parts: what it takes of memory with the longest ids and name, alone in its
session."""
OVERHEAD: Final = 256
"""Bytes that each of its parts counts beside its content."""

_TEXTS: Final = ("text", "thinking", "arguments")
_OVER: Final = (EventType.EVENT_TYPE_SESSION_ENDED, EventType.EVENT_TYPE_SESSION_DELETED)
"""Events that end all drafts of their session."""
_APPENDED: Final = EventType.EVENT_TYPE_MESSAGE_APPENDED
_DELETED: Final = EventType.EVENT_TYPE_MESSAGES_DELETED


@dataclass(frozen=True, slots=True)
class DraftLimits:
    """Bounds of the drafts that one process keeps. Times are in seconds."""

    draft_bytes: int = 256 * 1024
    """Of one draft. What follows is not kept: a late reader sees a gap."""
    session_drafts: int = 8
    session_bytes: int = 512 * 1024
    """Of one session. Beyond them, its draft that has been silent for longest goes."""
    tenant_bytes: int = 16 * 1024 * 1024
    total_bytes: int = 32 * 1024 * 1024
    """Of one tenant, whose own draft that has been silent for longest goes; of all, when that of the tenant with the
    most bytes goes."""
    lifetime: float = 600.0
    """Since a draft's last piece."""
    silence: float = 15.0
    """Since a draft's last piece, after which it counts as interrupted. A client's Draft is not silent for as long."""


@dataclass(slots=True)
class _Draft:
    name: str
    run_id: str
    began: float
    """When its first piece arrived."""
    last: float
    """When its last piece arrived."""
    texts: dict[tuple[int, str], tuple[int, bytearray]] = field(default_factory=dict)
    """By part and kind: the offset of the first byte, and the text."""
    data: dict[int, bytes] = field(default_factory=dict)
    """By part: the newest data piece, a serialised Delta."""
    size: int = DRAFT_OVERHEAD
    interrupted: bool = False
    full: bool = False


class Drafts:
    """The open drafts of all sessions. `time` is the loop's clock wherever it is a parameter."""

    def __init__(self, limits: DraftLimits | None = None) -> None:
        self._limits = limits or DraftLimits()
        self._sessions: dict[Key, dict[str, _Draft]] = {}
        self._tenants: dict[str, OrderedDict[tuple[Key, str], None]] = {}
        """Each tenant's drafts, the one that has been silent for longest first."""
        self._sizes: dict[str, int] = {}
        self._speaking: OrderedDict[tuple[Key, str], None] = OrderedDict()
        """Drafts that are not interrupted, in the same order."""
        self.size = 0
        """Bytes of all drafts."""

    def add(self, key: Key, data: Sequence[bytes], time: float) -> None:
        """Takes what was published to a session. Ignores what cannot be decoded."""
        for piece in data:
            if piece.startswith(SUPERSEDED):
                self.drop(key, [piece[1:].decode(errors="replace")])
                continue
            try:
                delta = Delta.FromString(piece)
            except DecodeError:
                continue
            self._add(key, delta, piece, time)

    def drop(self, key: Key, message_ids: Iterable[str]) -> list[str]:
        """Removes these drafts of a session. Returns the ids of those that were kept."""
        kept = self._sessions.get(key)
        if kept is None:
            return []
        gone = [each for each in message_ids if each in kept]
        for message_id in gone:
            self._remove(key, message_id)
        return gone

    def drop_session(self, key: Key) -> None:
        """Removes all drafts of a session."""
        self.drop(key, list(self._sessions.get(key, ())))

    def superseded(self, writes: Writes, time: float) -> list[tuple[Key, list[str]]]:
        """Drops the drafts that a commit has ended. Returns their sessions and ids."""
        if not self.size:
            return []
        ended: dict[Key, list[str]] = {}
        for event in writes.events:
            if event.message_id is not None:
                ended.setdefault(event.key, []).append(event.message_id)
            elif event.type in _OVER:
                ended.setdefault(event.key, []).extend(self.of(event.key, time))
            elif event.type == _DELETED and event.key in self._sessions:
                ended.setdefault(event.key, []).extend(DeletedMessages.FromString(event.body).message_ids)
        return [(key, gone) for key, ids in ended.items() if (gone := self.drop(key, ids))]

    def note_events(self, key: Key, entries: Iterable[LogEntry]) -> None:
        """Drops the drafts that events of the session's log have ended, whichever process committed them."""
        if key not in self._sessions:
            return
        for entry in entries:
            if entry.type == _APPENDED:
                self.drop(key, [Event.FromString(entry.data).message.message_id])
            elif entry.type == _DELETED:
                self.drop(key, Event.FromString(entry.data).deleted_messages.message_ids)
            elif entry.type in _OVER:
                self.drop_session(key)

    def note_feed(self, tenant_id: str, entries: Iterable[FeedEntry]) -> None:
        """As note_events, for events of a tenant's sessions."""
        if tenant_id in self._tenants:
            for entry in entries:
                self.note_events((tenant_id, entry.place.session_id), [entry.entry])

    def began(self, key: Key) -> float | None:
        """When the oldest of a session's drafts began; None if there is none."""
        return min((draft.began for draft in self._sessions.get(key, {}).values()), default=None)

    def drop_begun_until(self, key: Key, time: float) -> None:
        """Removes the session's drafts that began at that time or before."""
        kept = self._sessions.get(key, {})
        self.drop(key, [each for each, draft in kept.items() if draft.began <= time])

    def of(self, key: Key, time: float) -> list[str]:
        """The ids of a session's drafts."""
        self._expire(key[0], time)
        return list(self._sessions.get(key, ()))

    def pieces(self, key: Key, message_ids: Iterable[str], time: float) -> list[bytes]:
        """The pieces of these drafts, from their beginning on, as serialised Deltas; an interrupted draft's last one
        says so."""
        kept = self._sessions.get(key, {})
        found: list[bytes] = []
        for message_id in message_ids:
            if (draft := kept.get(message_id)) is not None:
                found += (piece.SerializeToString() for piece in _told(message_id, draft))
                found += draft.data.values()
                if draft.interrupted or time - draft.last >= self._limits.silence:
                    found.append(_interrupted(message_id, draft).SerializeToString())
        return found

    def still_open(self, key: Key, pieces: Sequence[bytes]) -> list[bytes]:
        """Those of the pieces, which `pieces` returned earlier, whose drafts have not ended since."""
        kept = self._sessions.get(key, {})
        return [piece for piece in pieces if Delta.FromString(piece).message_id in kept]

    def fell_silent(self, time: float) -> list[tuple[Key, bytes]]:
        """Marks drafts as interrupted that have been silent for too long. Returns each once, with the Delta that says
        so."""
        for tenant in list(self._tenants):
            self._expire(tenant, time)
        found: list[tuple[Key, bytes]] = []
        while self._speaking:
            key, message_id = next(iter(self._speaking))
            draft = self._sessions[key][message_id]
            if time - draft.last < self._limits.silence:
                break
            self._speaking.popitem(last=False)
            draft.interrupted = True
            found.append((key, _interrupted(message_id, draft).SerializeToString()))
        return found

    def _add(self, key: Key, delta: Delta, serialised: bytes, time: float) -> None:
        kind = delta.WhichOneof("piece")
        draft = self._sessions.get(key, {}).get(delta.message_id)
        content = getattr(delta, kind).encode() if kind in _TEXTS else b""
        if draft is not None and content and not (delta.part_index or delta.offset) and (0, kind) in draft.texts:
            self._remove(key, delta.message_id)  # it is written anew from its beginning
            draft = None
        if draft is None:
            # A sign that somebody is typing is no draft.
            if kind is None or kind in ("typing", "interrupted"):
                return
            draft = self._begin(key, delta, time)
        self._heard(key, delta.message_id, draft, time, interrupted=kind == "interrupted")
        if content:
            self._add_text(key, draft, (delta.part_index, str(kind)), delta.offset, content)
        elif kind == "data":
            before = draft.data.pop(delta.part_index, None)
            grown = len(serialised) - (len(before) if before is not None else 0)
            if self._grow(key, draft, grown + (OVERHEAD if before is None else 0)):
                draft.data[delta.part_index] = serialised
            elif before is not None:  # the old one must not be shown as the newest
                self._count(key, draft, -len(before) - OVERHEAD)
        self._make_room(key, delta.message_id)

    def _add_text(self, key: Key, draft: _Draft, part: tuple[int, str], offset: int, content: bytes) -> None:
        begun = draft.texts.get(part)
        if begun is None:
            if self._grow(key, draft, OVERHEAD + len(content)):
                draft.texts[part] = offset, bytearray(content)
            return
        first, text = begun
        # What leaves a gap, or comes a second time, is not kept.
        if offset == first + len(text) and self._grow(key, draft, len(content)):
            text += content

    def _begin(self, key: Key, delta: Delta, time: float) -> _Draft:
        draft = _Draft(delta.name, delta.run_id, time, time)
        self._sessions.setdefault(key, {})[delta.message_id] = draft
        self._tenants.setdefault(key[0], OrderedDict())
        self._sizes[key[0]] = self._sizes.get(key[0], 0) + draft.size
        self.size += draft.size
        return draft

    def _heard(self, key: Key, message_id: str, draft: _Draft, time: float, *, interrupted: bool) -> None:
        place = key, message_id
        draft.last, draft.interrupted = time, interrupted
        order = self._tenants.setdefault(key[0], OrderedDict())
        order[place] = None
        order.move_to_end(place)
        self._speaking.pop(place, None)
        if not interrupted:
            self._speaking[place] = None

    def _grow(self, key: Key, draft: _Draft, size: int) -> bool:
        """Counts bytes to a draft. False: they would be more than one draft may have, now and from now on."""
        if draft.full or draft.size + size > self._limits.draft_bytes:
            draft.full = True
            return False
        self._count(key, draft, size)
        return True

    def _count(self, key: Key, draft: _Draft, size: int) -> None:
        draft.size += size
        self._sizes[key[0]] = self._sizes.get(key[0], 0) + size
        self.size += size

    def _make_room(self, key: Key, message_id: str) -> None:
        """Removes drafts until all bounds hold. The newest one stays in its session."""
        limits = self._limits
        kept = self._sessions.get(key, {})
        while len(kept) > limits.session_drafts or sum(draft.size for draft in kept.values()) > limits.session_bytes:
            self._remove(key, min((each for each in kept if each != message_id), key=lambda each: kept[each].last))
        while self._sizes.get(key[0], 0) > limits.tenant_bytes:
            self._remove(*next(iter(self._tenants[key[0]])))
        while self.size > limits.total_bytes:
            largest = max(self._sizes, key=lambda tenant: self._sizes[tenant])
            self._remove(*next(iter(self._tenants[largest])))

    def _remove(self, key: Key, message_id: str) -> None:
        kept, tenant = self._sessions[key], key[0]
        draft = kept.pop(message_id)
        if not kept:
            del self._sessions[key]
        self._speaking.pop((key, message_id), None)
        order = self._tenants[tenant]
        order.pop((key, message_id), None)
        self._sizes[tenant] -= draft.size
        self.size -= draft.size
        if not order:
            del self._tenants[tenant], self._sizes[tenant]

    def _expire(self, tenant: str, time: float) -> None:
        order = self._tenants.get(tenant, OrderedDict())
        while order:
            key, message_id = next(iter(order))
            if time - self._sessions[key][message_id].last < self._limits.lifetime:
                break
            self._remove(key, message_id)


def _told(message_id: str, draft: _Draft) -> Iterator[Delta]:
    for (part, kind), (first, text) in sorted(draft.texts.items()):
        place = 0
        while place < len(text):
            end = min(place + PIECE_BYTES, len(text))
            while end < len(text) and text[end] & 0xC0 == 0x80:  # within a character
                end -= 1
            piece = Delta(message_id=message_id, part_index=part, offset=first + place)
            piece.name, piece.run_id = draft.name, draft.run_id
            setattr(piece, kind, text[place:end].decode())
            yield piece
            place = end


def _interrupted(message_id: str, draft: _Draft) -> Delta:
    return Delta(message_id=message_id, name=draft.name, run_id=draft.run_id, interrupted=True)
