"""Forks of the memory store: a ForkStore (see store/forks.py), and their part of look-ups and writes.

A fork has the rows of its parent's events in its own table of events, which costs a pointer for each: rows are never
changed, but replaced. So what replaces one does it in every session that has it.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from sessiond.v1.session_pb2 import Session
from sessiond_server.domain import encoding
from sessiond_server.domain.commands import Scope, SessionSnapshot
from sessiond_server.domain.forks.rows import (
    FORKS,
    ITEMS,
    ForkAsk,
    ForkRow,
    ForkSource,
    RewindSource,
    Segment,
    Shared,
    Spread,
)
from sessiond_server.domain.rewinds import ranges
from sessiond_server.domain.rows import AppendedMessage, EventRow, Key, Known, Needs, Writes
from sessiond_server.memory import history
from sessiond_server.memory.attachments import MemoryAttachments
from sessiond_server.memory.session import MemorySession
from sessiond_server.store.forks import ForksPage, Untold


class MemoryForks:
    """The forks of a MemoryStore. As there, nothing awaits between reading and writing."""

    def __init__(
        self,
        logs: Callable[[], Mapping[Key, MemorySession]],
        attachments: MemoryAttachments,
        visible: Callable[[Scope, str], MemorySession],
    ) -> None:
        """`visible` raises SessionNotFound."""
        self._all_logs = logs
        self._attachments = attachments
        self._visible = visible
        self._forks: dict[Key, ForkRow] = {}
        self._spreads: list[tuple[Spread, EventRow]] = []
        """Each with the event of the message, as it was."""

    @property
    def _logs(self) -> Mapping[Key, MemorySession]:
        return self._all_logs()

    async def list_forks(
        self, scope: Scope, session_id: str, *, after: tuple[int, str] | None, limit: int
    ) -> ForksPage:
        self._visible(scope, session_id)
        found = sorted((fork.create_time_us, fork.key[1]) for fork in self._children((scope.tenant_id, session_id)))
        found = [place for place in found if after is None or place > after]
        shown = found[:limit]
        logs = [self._logs[(scope.tenant_id, name)] for _, name in shown]
        return ForksPage(
            [SessionSnapshot(log.head.version, log.head.core, b"") for log in logs],
            shown[-1] if len(found) > limit else None,
        )

    async def hide(self, tenant_id: str) -> bool:
        for key, log in self._logs.items():
            if log.head.deleted and log.head.forked and tenant_id in ("", key[0]):
                log.head = replace(log.head, forked=False)
        return True

    async def untold(self, tenant_id: str, limit: int) -> Sequence[Untold]:
        return [told for waiting in self._of(tenant_id) for told in self._untold(*waiting)][:limit]

    async def end_spreads(self, tenant_id: str) -> bool:
        done = [waiting for waiting in self._of(tenant_id) if not self._untold(*waiting)]
        self._spreads = [waiting for waiting in self._spreads if waiting not in done]
        return not self._of(tenant_id)

    def _of(self, tenant_id: str) -> list[tuple[Spread, EventRow]]:
        return [waiting for waiting in self._spreads if tenant_id in ("", waiting[0].tenant_id)]

    def _untold(self, spread: Spread, event: EventRow) -> list[Untold]:
        return [
            Untold(*key, spread.request_id, spread.message_id, spread.reason, spread.title, spread.actor)
            for key in self._showing(event)
            if key[1] != spread.session_id and spread.request_id not in self._logs[key].requests
        ]

    def _showing(self, event: EventRow) -> list[Key]:
        """The sessions that show the event. Imported ones may have events of the same ids."""
        return [
            key
            for key, log in self._logs.items()
            if (here := log.events.get(event.seq)) is not None
            and (here.key, here.event_id) == (event.key, event.event_id)
        ]

    def _children(self, key: Key) -> list[ForkRow]:
        return [fork for fork in self._forks.values() if (fork.key[0], fork.parent_id) == key]

    def look_up(self, needs: Needs, known: Known) -> None:
        for key, message_id in needs.inherited:
            log = self._logs[key]
            if (seq := log.seq_of_message.get(message_id)) is not None:
                event = log.events[seq]
                known.messages[(key, message_id)] = AppendedMessage(seq, event.head, event.body)
        for key in needs.shared:
            through = 0
            for fork in self._forks.values():
                through = max(through, *(s.last_seq for s in fork.segments if (fork.key[0], s.log_id) == key), 0)
            known.shared[key] = Shared(through)
        for ask in needs.forks:
            known.forks[ask.key] = self._source(ask)
        for ask in needs.rewinds:
            known.rewinds[ask.key] = self._rewind_source(ask)

    def _rewind_source(self, ask: ForkAsk) -> RewindSource:
        log = self._logs[ask.key]
        if not (seq := _place(ask, log)):
            return RewindSource(0)
        core = log.core_at(seq)
        core.message_count = _visible(log, core)
        content = log.content(core.content_version) if ask.with_content else b""
        return RewindSource(seq, core.SerializeToString(), content)

    def _source(self, ask: ForkAsk) -> ForkSource:
        log = self._logs[ask.key]
        if not (seq := _place(ask, log)):
            return ForkSource(0)
        runs = [run for run in log.runs.values() if run.place <= seq]
        calls = [call for call in log.tool_calls.values() if call.seq <= seq]
        attachments = [row for row in self._attachments.rows(ask.key) if row.seq <= seq]
        if len(runs) + len(calls) + len(attachments) > ITEMS:
            return ForkSource(seq, exceeded="items")
        core = log.core_at(seq)
        core.message_count = _visible(log, core)
        own = self._forks.get(ask.key)
        first = ask.base_version + 1 if own is None else own.seq + 1
        parts = [*(() if own is None else own.segments), Segment(ask.key[1], first, ask.version)]
        source = ForkSource(
            seq,
            core.SerializeToString(),
            log.content(core.content_version),
            [replace(part, last_seq=min(part.last_seq, seq)) for part in parts if part.first_seq <= seq],
            attachments=attachments,
            children=min(len(self._children(ask.key)), FORKS),
        )
        source.runs = [history.run_then(log, run, seq) for run in runs]
        source.tool_calls = [history.call_then(log, call, seq) for call in calls]
        return source

    def redact(self, key: Key, message: AppendedMessage) -> None:
        """Replaces the event of a redacted message in every session that shows it."""
        for shown in self._showing(self._logs[key].events[message.seq]):
            events = self._logs[shown].events
            head, body = message.head, message.body
            if shown != key:
                head += encoding.event_of_session(shown[1])
                body += encoding.message_of_session(shown[1])
            events[message.seq] = replace(events[message.seq], head=head, body=body)

    def begin(self, writes: Writes) -> None:
        """Before the rows of a batch are written: forgets deleted forks."""
        for gone in writes.deletions:
            self._forks.pop(gone.key, None)
            for fork in self._children(gone.key):
                # Its own id may be that of another session one day.
                self._forks[fork.key] = replace(fork, parent_id="")
            for key, fork in self._forks.items():
                parts = [replace(s, log_id="") if (key[0], s.log_id) == gone.key else s for s in fork.segments]
                self._forks[key] = replace(fork, segments=parts)

    def write(self, writes: Writes) -> None:
        """Gives each new fork the events that it shares. Its own are there already."""
        for spread in writes.spreads:
            event = self._logs[(spread.tenant_id, spread.session_id)].events[spread.seq]
            self._spreads.append((spread, event))
        for fork in writes.forks:
            self._forks[fork.key] = fork
            parent, log = self._logs[(fork.key[0], fork.parent_id)], self._logs[fork.key]
            parent.head = replace(parent.head, forked=True)
            shared = {
                seq: self._inherited(event, fork.key[1]) for seq, event in parent.events.items() if seq <= fork.seq
            }
            shared = {seq: event for seq, event in shared.items() if event.type != 9}
            log.events = {**shared, **log.events}
            log.message_seqs = [seq for seq in parent.message_seqs if seq <= fork.seq] + log.message_seqs
            log.summary_seqs = [seq for seq in parent.summary_seqs if seq <= fork.seq] + log.summary_seqs
            log.content_seqs = [seq for seq in parent.content_seqs if seq <= fork.seq] + log.content_seqs
            messages = {name: seq for name, seq in parent.seq_of_message.items() if seq <= fork.seq}
            log.seq_of_message = {**messages, **log.seq_of_message}

    def _inherited(self, event: EventRow, session_id: str) -> EventRow:
        """The row as the fork shows it."""
        kind = encoding.session_id_of(event.type)
        body = event.body if kind is None else event.body + encoding.field(kind, session_id.encode())
        head = event.head + encoding.event_of_session(session_id)
        if event.type == encoding.SESSION_CREATED:
            head = encoding.preset_runs_of_session(head, session_id)
        return replace(event, head=head, body=body)


def _place(ask: ForkAsk, log: MemorySession) -> int:
    """The seq of the place; 0: the session has no such place."""
    place = ask.place
    seq = log.seq_of_message.get(place.message_id, 0) if place.message_id else place.seq or ask.version
    seq -= place.before and seq > 0
    return seq if ask.base_version < seq <= ask.version else 0


def _visible(log: MemorySession, core: Session) -> int:
    """How many messages of those that the session still has were visible at the end of `core`."""
    before = log.message_seqs[: bisect_right(log.message_seqs, core.version)]
    return len(ranges.seen(before, ranges.of_session(core)))
