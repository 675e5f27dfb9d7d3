"""A store in the memory of this process, for tests and `--store memory`.

It holds bytes and immutable rows, so callers cannot change its state. Only one event loop may use it. It needs no
locks, because `apply` never awaits between reading and writing.
"""

import secrets
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import timedelta

from sessiond.v1.session_pb2 import SessionStatus
from sessiond.v1.session_service_pb2 import SessionFilter, SessionOrder
from sessiond_server.domain import batch, ids, replay
from sessiond_server.domain.commands import (
    ACTOR,
    INTERNAL_REQUEST_PREFIX,
    Command,
    ExpireSession,
    ForkSession,
    Outcome,
    Result,
    Scope,
    SessionSnapshot,
)
from sessiond_server.domain.encoding import FIRST_MESSAGE_EVENT, SUMMARY_CREATED
from sessiond_server.domain.log import FeedPlace
from sessiond_server.domain.messages import titles
from sessiond_server.domain.messages.selection import Selection
from sessiond_server.domain.rewinds.ranges import NOTHING, Ranges
from sessiond_server.domain.rows import (
    AppendedMessage,
    EventRow,
    IndexRow,
    Key,
    Known,
    Needs,
    Policy,
    Replay,
    StoredEvent,
    Writes,
)
from sessiond_server.errors import SessionNotFound
from sessiond_server.memory import messages as memory_messages
from sessiond_server.memory import session_list
from sessiond_server.memory import work as memory_work
from sessiond_server.memory.attachments import MemoryAttachments
from sessiond_server.memory.documents import MemoryDocuments
from sessiond_server.memory.erasures import MemoryErasures
from sessiond_server.memory.filters import selects
from sessiond_server.memory.forks import MemoryForks
from sessiond_server.memory.history import MemoryHistory
from sessiond_server.memory.imports import MemoryImports
from sessiond_server.memory.log import Logs
from sessiond_server.memory.retention import MemoryRetention
from sessiond_server.memory.search import MemorySearch
from sessiond_server.memory.session import MemorySession
from sessiond_server.memory.summaries import MemorySummaryQueue
from sessiond_server.memory.templates import MemoryTemplates
from sessiond_server.memory.usage import MemoryUsage
from sessiond_server.store.commits import Applied
from sessiond_server.store.homes import Homes
from sessiond_server.store.log_reads import FeedPage, LogHeads, LogPage
from sessiond_server.store.session_reads import (
    CACHED,
    Freshness,
    MessagesPage,
    SessionsPage,
    SummariesPage,
)
from sessiond_server.store.work import PendingKey, PendingPage, RunsPage, ToolCallsPage


class MemoryStore(MemoryHistory):
    """A Store (see store/contract.py). `clock` returns microseconds since 1970 UTC."""

    def __init__(
        self,
        *,
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
        policy: Policy | None = None,
        request_retention: timedelta = timedelta(hours=24),
        tombstone_retention: timedelta = timedelta(days=30),
        upload_retention: timedelta = timedelta(hours=24),
        new_id: Callable[[], str] = ids.uuid7,
    ) -> None:
        self._clock = clock
        self._policy = policy or Policy()
        self._request_retention_us = request_retention // timedelta(microseconds=1)
        self._tombstone_retention_us = tombstone_retention // timedelta(microseconds=1)
        self._new_id = new_id
        self._logs: dict[Key, MemorySession] = {}
        self._streams = Logs(self._logs)
        self._token_key = secrets.token_bytes(32)
        self.homes = Homes()
        """Empty: in memory there is one database."""
        self.attachments = MemoryAttachments(
            lambda scope, session_id: self._log(scope, session_id).head, clock, self._policy, new_id, upload_retention
        )
        self.documents = MemoryDocuments(
            lambda scope, session_id: self._visible(scope, session_id) is not None,
            clock,
            self._request_retention_us,
            self._tombstone_retention_us,
        )
        self.templates = MemoryTemplates(clock, self._tombstone_retention_us)
        self.usage = MemoryUsage(self._logs, clock)
        self.retention = MemoryRetention(self._logs, self.documents, clock, new_id)
        self.erasures = MemoryErasures(self._logs, self.documents, self.usage, self.retention, clock, new_id)
        self.forks = MemoryForks(lambda: self._logs, self.attachments, self._log)
        self.imports = MemoryImports(
            lambda key: key in self._logs,
            self._count_live,
            self._commit_import,
            self.attachments,
            clock,
            self._policy,
            new_id,
            upload_retention,
        )
        self.search = MemorySearch(self._logs, self._streams.places)
        self.summary_queue = MemorySummaryQueue(self._streams, clock)

    async def apply(self, commands: Sequence[Command]) -> Applied:
        return self._apply(commands)

    def _apply(self, commands: Sequence[Command]) -> Applied:
        keys = [c.key for c in commands]
        keys += [(c.key[0], c.action.parent_id) for c in commands if isinstance(c.action, ForkSession)]
        heads = {key: log.head for key in keys if (log := self._logs.get(key)) is not None}
        known = self._look_up(batch.needs(commands, heads, self._policy))
        decision = batch.decide(commands, heads, known, self._policy, self._new_id)
        # Before the writes: a deletion later in the batch removes the events that first outcomes are rebuilt from.
        results: list[Result] = [
            self._replayed(command, result) if isinstance(result, Replay) else result
            for command, result in zip(commands, decision.results, strict=True)
        ]
        self._write(decision.writes, known.now_us)
        self._streams.commit(decision.writes)
        return Applied(results, decision.writes)

    def _look_up(self, needs: Needs) -> Known:
        known = Known(now_us=self._clock())
        self.attachments.look_up(needs, known)
        self.documents.look_up(needs, known)
        for key, request_id in needs.requests:
            if (request := self._logs[key].requests.get(request_id)) is not None:
                known.requests[(key, request_id)] = request[0]
        for key, message_id in needs.message_ids:
            if message_id in self._logs[key].seq_of_message:
                known.message_ids.add((key, message_id))
        self.forks.look_up(needs, known)
        for key, message_id in needs.messages:
            log = self._logs[key]
            if (seq := log.seq_of_message.get(message_id)) is not None:
                event = log.events[seq]
                known.messages[(key, message_id)] = AppendedMessage(seq, event.head, event.body)
        self.retention.look_up(needs, known)
        for key, (count, most_bytes) in needs.newest.items():
            log = self._logs[key]
            visible = log.message_seqs_between(0, 0, None, descending=True)
            known.newest[key] = log.found(visible[:count], most_bytes)
        for (key, first, last), (count, most_bytes) in needs.ranges.items():
            log = self._logs[key]
            start, end = bisect_left(log.message_seqs, first), bisect_right(log.message_seqs, last)
            known.ranges[(key, first, last)] = log.found(log.message_seqs[start:end][:count], most_bytes)
        for (key, named), most_bytes in needs.named.items():
            log = self._logs[key]
            seqs = [seq for message_id in named if (seq := log.seq_of_message.get(message_id)) is not None]
            known.named[(key, named)] = log.found(seqs, most_bytes)
        for key, version in needs.contents:
            known.contents[key] = self._logs[key].content(version)
        for key, run_id in needs.runs:
            if (run := self._logs[key].runs.get(run_id)) is not None:
                known.runs[(key, run_id)] = run.body
        for key, tool_call_id in needs.tool_calls:
            log = self._logs[key]
            if (call := log.tool_calls.get(tool_call_id)) is not None:
                known.tool_calls[(key, tool_call_id)] = log.stored(call)
        known.work = {key: self._logs[key].open_work() for key in needs.work}
        for tenant in needs.tenants:
            known.live_sessions[tenant] = self._count_live(tenant)
        return known

    def _count_live(self, tenant_id: str) -> int:
        return sum(
            log.index.status != SessionStatus.SESSION_STATUS_ENDED
            for key, log in self._logs.items()
            if key[0] == tenant_id and log.index is not None
        )

    def _commit_import(self, writes: Writes) -> None:
        self._write(writes, self._clock())
        self._streams.commit(writes)

    def _replayed(self, command: Command, what: Replay) -> Outcome:
        log = self._logs[what.key]
        events = [_stored(log.events[seq]) for seq in range(what.first_seq, what.last_seq + 1)]
        contents = {seq: log.data(seq) for seq in replay.tool_call_contents(events)}
        if version := replay.session_content(command.action, events):
            contents[version] = log.content(version)
        return replay.outcome(command.action, events, contents, log.requests[command.request_id][0].answer)

    def _write(self, writes: Writes, now_us: int) -> None:
        for gone in writes.deletions:
            if (log := self._logs.get(gone.key)) is not None:
                log.empty(gone)
        for key, message in writes.removals:
            self._logs[key].remove(message)
        self.forks.begin(writes)
        rewound = {row.key: row.ranges for row in writes.rewound}
        for row in writes.heads:
            log = self._logs.setdefault(row.key, MemorySession(row.head))
            log.head, log.update_time_us = row.head, row.update_time_us
            log.check_time_us, log.delete_time_us = row.expire_time_us, row.delete_time_us
            log.rewound = rewound.get(row.key, log.rewound)
        for event in writes.events:
            log = self._logs[event.key]
            log.events[event.seq] = event
            if event.message_id is not None:
                log.message_seqs.append(event.seq)
                log.seq_of_message[event.message_id] = event.seq
            if event.type == SUMMARY_CREATED:
                log.summary_seqs.append(event.seq)
            if event.content is not None and event.type < FIRST_MESSAGE_EVENT:
                log.content_seqs.append(event.seq)
        for request in writes.requests:
            self._logs[request.key].requests[request.request_id] = (request.record, now_us)
        for index in writes.index:
            log = self._logs[index.key]
            if index.metadata_json is None and log.index is not None:
                index = replace(index, metadata_json=log.index.metadata_json)
            log.index = index
        for key, message in writes.redactions:
            self.forks.redact(key, message)
        for title in writes.titles:
            events = self._logs[title.key].events
            for seq in range(title.seq + 1, title.last_seq + 1):
                event = events[seq]
                if event.type < FIRST_MESSAGE_EVENT:
                    events[seq] = replace(event, body=titles.without(title, event.body))
                elif event.core is not None:
                    events[seq] = replace(event, core=titles.without(title, event.core))
        for run in writes.runs:
            self._logs[run.key].runs[run.run_id] = run
        for call in writes.tool_calls:
            self._logs[call.key].tool_calls[call.tool_call_id] = call
        for key, counters in writes.run_counters:
            self._logs[key].run_counters = counters
        for key, lease_expire_us in writes.leases:
            log = self._logs[key]
            log.head = replace(log.head, lease_expire_us=lease_expire_us)
            log.check_time_us = min(log.check_time_us or lease_expire_us, lease_expire_us)
        self.attachments.write(writes)
        self.documents.write(writes, now_us)
        self.usage.write(writes)
        self.forks.write(writes)

    async def get_session(
        self, scope: Scope, session_id: str, *, content: bool, freshness: Freshness = CACHED
    ) -> SessionSnapshot:
        return self._log(scope, session_id).snapshot(content=content)

    async def get_sessions(
        self, scope: Scope, session_ids: Sequence[str], *, content: bool, freshness: Freshness = CACHED
    ) -> Sequence[SessionSnapshot | None]:
        logs = (self._visible(scope, session_id) for session_id in session_ids)
        return [None if log is None else log.snapshot(content=content) for log in logs]

    async def list_sessions(
        self,
        scope: Scope,
        where: SessionFilter,
        order_by: SessionOrder.ValueType,
        *,
        after: tuple[int | str, str] | None,
        limit: int,
        content: bool,
    ) -> SessionsPage:
        return session_list.page(self._selected(scope, where), order_by, after, limit, content=content)

    async def count_sessions(self, scope: Scope, where: SessionFilter) -> int:
        return sum(1 for _ in self._selected(scope, where))

    async def get_message(self, scope: Scope, session_id: str, message_id: str) -> tuple[int, bytes]:
        return memory_messages.message(self._log(scope, session_id), session_id, message_id)

    async def list_summaries(
        self, scope: Scope, session_id: str, *, before_seq: int, limit: int, rewound: Ranges | None = None
    ) -> SummariesPage:
        return memory_messages.summaries(self._log(scope, session_id), before_seq, limit, rewound)

    async def find_messages(
        self,
        scope: Scope,
        session_id: str,
        where: Selection,
        *,
        after_seq: int,
        before_seq: int,
        descending: bool,
        limit: int,
        rewound: Ranges | None = None,
        include_rewound: bool = False,
    ) -> MessagesPage:
        bounds = memory_messages.Bounds(after_seq, before_seq, descending, rewound, include_rewound)
        return memory_messages.found(self._log(scope, session_id), where, bounds, limit)

    async def list_messages(
        self,
        scope: Scope,
        session_id: str,
        *,
        after_seq: int,
        before_seq: int,
        descending: bool,
        limit: int,
        rewound: Ranges | None = None,
        include_rewound: bool = False,
        freshness: Freshness = CACHED,
    ) -> MessagesPage:
        bounds = memory_messages.Bounds(after_seq, before_seq, descending, rewound, include_rewound)
        return memory_messages.page(self._log(scope, session_id), bounds, limit)

    async def log_heads(self, keys: Sequence[Key]) -> LogHeads:
        return self._streams.heads(keys, self._clock())

    async def read_log(self, key: Key, *, after_seq: int, limit: int) -> LogPage:
        return self._streams.page(key, after_seq, limit)

    async def read_feed(self, tenant_id: str, *, after: FeedPlace, limit: int) -> FeedPage:
        return self._streams.feed(tenant_id, after, limit, self._clock())

    async def feed_end(self, tenant_id: str) -> Sequence[tuple[FeedPlace, str]]:
        return self._streams.feed_end(tenant_id)

    async def find_lost(self, tenant_id: str, anchors: Sequence[tuple[FeedPlace, str]]) -> FeedPlace | None:
        return self._streams.find_lost(tenant_id, anchors, self._clock(), self._tombstone_retention_us)

    async def expire_due(self, limit: int) -> Writes:
        now = self._clock()
        due = [key for key, log in self._logs.items() if log.is_due(now)]
        applied = self._apply(
            [
                Command(
                    Scope(tenant),
                    session_id,
                    ExpireSession(),
                    ACTOR,
                    INTERNAL_REQUEST_PREFIX + self._new_id(),
                )
                for tenant, session_id in due[:limit]
            ]
        )
        return applied.writes

    async def get_run(self, scope: Scope, session_id: str, run_id: str) -> tuple[int, bytes]:
        return memory_work.run(self._log(scope, session_id), session_id, run_id)

    async def list_runs(
        self,
        scope: Scope,
        session_id: str,
        *,
        statuses: Sequence[int],
        before: int | None,
        limit: int,
        include_rewound: bool = False,
    ) -> RunsPage:
        log = self._log(scope, session_id)
        return memory_work.runs(log, statuses, before, limit, NOTHING if include_rewound else log.rewound)

    async def get_metrics(self, scope: Scope, session_id: str) -> tuple[SessionSnapshot, bytes]:
        log = self._log(scope, session_id)
        return log.snapshot(content=False), log.run_counters

    async def get_tool_call(self, scope: Scope, session_id: str, tool_call_id: str) -> tuple[int, bytes]:
        return memory_work.tool_call(self._log(scope, session_id), session_id, tool_call_id)

    async def list_tool_calls(
        self,
        scope: Scope,
        session_id: str,
        *,
        statuses: Sequence[int],
        run_id: str,
        before: int | None,
        limit: int,
        include_rewound: bool = False,
    ) -> ToolCallsPage:
        log = self._log(scope, session_id)
        rewound = NOTHING if include_rewound else log.rewound
        return memory_work.tool_calls(log, statuses, run_id, before, limit, rewound)

    async def list_requested(
        self, scope: Scope, session_id: str, *, ranges: Sequence[tuple[int, int]], limit: int
    ) -> Sequence[bytes]:
        return memory_work.requested(self._log(scope, session_id), ranges, limit)

    async def list_pending(self, scope: Scope, *, user_id: str, after: PendingKey | None, limit: int) -> PendingPage:
        return memory_work.pending(self._logs, scope, user_id, after, limit, self._clock())

    async def purge(self, limit: int) -> int:
        now = self._clock()
        oldest_request, oldest_tombstone = now - self._request_retention_us, now - self._tombstone_retention_us
        requests = [
            (log, request_id)
            for log in self._logs.values()
            for request_id, (_, recorded) in log.requests.items()
            if recorded < oldest_request
        ][:limit]
        for log, request_id in requests:
            del log.requests[request_id]
        tombstones = [key for key, log in self._logs.items() if (log.delete_time_us or now) < oldest_tombstone][:limit]
        for key in tombstones:
            self._streams.forget(key)
            del self._logs[key]
        purged = len(requests) + len(tombstones) + self.documents.purge(limit)
        return purged + await self.imports.purge_imports(limit) + await self.templates.purge_templates(limit)

    async def token_key(self) -> bytes:
        return self._token_key

    async def ping(self) -> None:
        """Returns at once: this store is always available."""

    def _visible(self, scope: Scope, session_id: str) -> MemorySession | None:
        log = self._logs.get((scope.tenant_id, session_id))
        if log is None or log.head.deleted or scope.user_id not in ("", log.head.user_id):
            return None
        return log

    def _log(self, scope: Scope, session_id: str) -> MemorySession:
        log = self._visible(scope, session_id)
        if log is None:
            raise SessionNotFound(session_id)
        return log

    def _selected(self, scope: Scope, where: SessionFilter) -> Iterable[tuple[MemorySession, IndexRow]]:
        for log in self._logs.values():
            if log.index is not None and selects(scope, where, log.index, log.update_time_us):
                yield log, log.index


def _stored(event: EventRow) -> StoredEvent:
    return StoredEvent(event.seq, event.type, event.create_time_us, event.message_id, event.body, event.head)
