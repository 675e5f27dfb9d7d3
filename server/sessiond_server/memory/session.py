"""One session of the memory store: its head, its log, and what is derived from the log."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sessiond.v1.session_pb2 import Session
from sessiond_server.domain import encoding, session_rows
from sessiond_server.domain.commands import SessionSnapshot
from sessiond_server.domain.forks.place import core_after
from sessiond_server.domain.rewinds.ranges import NOTHING, Ranges, hides, seen
from sessiond_server.domain.rows import (
    AppendedMessage,
    Deletion,
    EventRow,
    FoundMessages,
    Head,
    IndexRow,
    OpenWork,
    RequestRecord,
    RunRow,
    StoredEvent,
    StoredToolCall,
    ToolCallRow,
)
from sessiond_server.domain.runs.work import OPEN_CALLS, OPEN_RUNS
from sessiond_server.domain.sessions.content import is_patch, whole


@dataclass(slots=True)
class MemorySession:
    """One session: its head, its events by seq, and their projections."""

    head: Head
    update_time_us: int = 0
    check_time_us: int | None = None
    """When to check whether the session or the lease of its live run has expired; may be too early."""
    delete_time_us: int | None = None
    index: IndexRow | None = None
    events: dict[int, EventRow] = field(default_factory=dict)
    message_seqs: list[int] = field(default_factory=list)
    """Ascending, as messages are appended."""
    summary_seqs: list[int] = field(default_factory=list)
    """Ascending."""
    seq_of_message: dict[str, int] = field(default_factory=dict)
    content_seqs: list[int] = field(default_factory=list)
    """Of the events that wrote the session's content or a patch of it, ascending."""
    requests: dict[str, tuple[RequestRecord, int]] = field(default_factory=dict)
    """Request id -> (record, time at which it was recorded)."""
    runs: dict[str, RunRow] = field(default_factory=dict)
    tool_calls: dict[str, ToolCallRow] = field(default_factory=dict)
    run_counters: bytes = b""
    rewound: Ranges = NOTHING
    """What rewinds have hidden."""

    def found(self, seqs: Sequence[int], most_bytes: int) -> FoundMessages:
        """The messages at these places, as many as fit."""
        messages: list[AppendedMessage] = []
        together = 0
        for seq in seqs:
            event = self.events[seq]
            together += len(event.body)
            if messages and together > most_bytes:
                break
            messages.append(AppendedMessage(seq, event.head, event.body))
        return FoundMessages(messages, complete=len(messages) == len(seqs))

    def message_seqs_between(
        self, after_seq: int, before_seq: int, rewound: Ranges | None, *, descending: bool
    ) -> Sequence[int]:
        """The places of messages between the two, which are not included; `before_seq` 0: to the end. `rewound`: as of
        SessionReads.list_messages."""
        start = bisect_right(self.message_seqs, after_seq)
        end = bisect_left(self.message_seqs, before_seq) if before_seq else len(self.message_seqs)
        within = seen(self.message_seqs[start:end], self.rewound if rewound is None else rewound)
        return within[::-1] if descending else within

    def message(self, seq: int) -> bytes:
        """The message at the place, which says whether it is hidden."""
        body = self.events[seq].body
        return body + encoding.MESSAGE_REWOUND if hides(self.rewound, seq) else body

    def remove(self, message: AppendedMessage) -> None:
        """Deletes a message; `message` is what remains of it."""
        event = self.events[message.seq]
        assert event.message_id is not None
        del self.seq_of_message[event.message_id]
        del self.message_seqs[bisect_left(self.message_seqs, message.seq)]
        self.events[message.seq] = replace(event, message_id=None, head=message.head, body=message.body)

    def data(self, seq: int) -> bytes:
        """Data of a tool call that the event at that seq has; b"" for 0."""
        return self.events[seq].content or b"" if seq else b""

    def content(self, version: int) -> bytes:
        """The session's whole content at that version; b"" for 0."""
        chain: list[bytes] = []
        for seq in reversed(self.content_seqs[: bisect_right(self.content_seqs, version)]):
            chain.append(self.events[seq].content or b"")
            if not is_patch(chain[-1]):
                break
        return whole(chain[::-1])

    def core_at(self, seq: int) -> Session:
        """The core after the event at `seq`, one of the session's places; of a place that a fork shares, with the id of
        the session that wrote the event."""
        place = seq
        while self.events[place].core is None and self.events[place].type >= encoding.FIRST_MESSAGE_EVENT:
            place -= 1
        base = self.events[place]
        events = (self.events[at] for at in range(place + 1, seq + 1))
        stored = (StoredEvent(e.seq, e.type, e.create_time_us, e.message_id, e.body, e.head) for e in events)
        return core_after(Session.FromString(base.core or base.body), stored)

    def stored(self, call: ToolCallRow) -> StoredToolCall:
        return StoredToolCall(call.body, self.data(call.seq), self.data(call.result_seq))

    def open_work(self) -> OpenWork:
        return OpenWork(
            [run.body for run in self.runs.values() if run.status in OPEN_RUNS],
            [call.body for call in self.tool_calls.values() if call.status in OPEN_CALLS],
            self.run_counters,
        )

    def is_due(self, now_us: int) -> bool:
        """Whether the session, the lease of its live run or an approval has expired."""
        if any(call.expire_time_us is not None and call.expire_time_us <= now_us for call in self.tool_calls.values()):
            return True
        if self.check_time_us is None or self.check_time_us > now_us:
            return False
        self.check_time_us = session_rows.next_check(Session.FromString(self.head.core), self.head.lease_expire_us)
        return self.check_time_us is not None and self.check_time_us <= now_us

    def empty(self, gone: Deletion) -> None:
        """Removes what a deletion removes; the final event is yet to be written."""
        self.index, self.events, self.runs, self.tool_calls, self.run_counters = None, {}, {}, {}, b""
        self.message_seqs, self.seq_of_message, self.content_seqs, self.summary_seqs = [], {}, [], []
        self.requests = {
            request_id: (record, time_us)
            for request_id, (record, time_us) in self.requests.items()
            if record.first_seq <= gone.base_version + 1 or record.last_seq >= gone.version
        }

    def snapshot(self, *, content: bool) -> SessionSnapshot:
        head = self.head
        return SessionSnapshot(head.version, head.core, self.content(head.content_version) if content else b"")
