"""The memory store's erasures of users; see store/erasures.py."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sessiond.v1.erasure_pb2 import Erasure, ErasureState
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.erasures import ErasedSession, Removed, ids_digest, report
from sessiond_server.domain.rows import Key
from sessiond_server.domain.times import microseconds, set_timestamp
from sessiond_server.errors import ErasureNotFound, UnderLegalHold
from sessiond_server.memory.documents import MemoryDocuments
from sessiond_server.memory.retention import MemoryRetention
from sessiond_server.memory.session import MemorySession
from sessiond_server.memory.usage import MemoryUsage
from sessiond_server.store.erasures import ErasureClaim, ErasuresPage


@dataclass(slots=True)
class _Row:
    erasure: Erasure
    request_id: str
    lease_expire_us: int
    number: int = 0
    noted: dict[str, ErasedSession] = field(default_factory=dict)
    """The sessions that it has deleted, or is about to."""


class MemoryErasures:
    """The erasures of a MemoryStore. As there, nothing awaits between reading and writing."""

    def __init__(
        self,
        logs: Mapping[Key, MemorySession],
        documents: MemoryDocuments,
        usage: MemoryUsage,
        retention: MemoryRetention,
        clock: Callable[[], int],
        new_id: Callable[[], str],
    ) -> None:
        self._logs = logs
        self._documents = documents
        self._usage = usage
        self._retention = retention
        self._clock = clock
        self._new_id = new_id
        self._rows: dict[tuple[str, str], _Row] = {}
        """(tenant, user) -> the last erasure."""

    async def begin_erasure(self, scope: Scope, user_id: str, request_id: str) -> Erasure:
        key = (scope.tenant_id, user_id)
        row = self._rows.get(key)
        if row is None or (_ended(row) and (not request_id or row.request_id != request_id)):
            if self._retention.is_held(scope.tenant_id, "", user_id):
                raise UnderLegalHold(user_id=user_id)
            now = self._clock()
            erasure = Erasure(erasure_id=self._new_id(), user_id=user_id, state=ErasureState.ERASURE_STATE_RUNNING)
            set_timestamp(erasure.create_time, now)
            row = self._rows[key] = _Row(erasure, request_id, now, row.number if row is not None else 0)
        return self._copy(scope.tenant_id, row)

    async def get_erasure(self, scope: Scope, user_id: str) -> Erasure:
        if (row := self._rows.get((scope.tenant_id, user_id))) is None:
            raise ErasureNotFound(user_id)
        return self._copy(scope.tenant_id, row)

    async def list_erasures(self, scope: Scope, *, after: str, limit: int) -> ErasuresPage:
        users = sorted(
            user_id
            for tenant_id, user_id in self._rows
            if tenant_id == scope.tenant_id and scope.user_id in ("", user_id) and user_id > after
        )
        page = [self._copy(scope.tenant_id, self._rows[(scope.tenant_id, each)]) for each in users[:limit]]
        for erasure in page:
            erasure.ClearField("report")
        return ErasuresPage(page, users[limit - 1] if len(users) > limit else "")

    async def claim_erasure(self, seconds: float) -> ErasureClaim | None:
        now = self._clock()
        for key, row in self._rows.items():
            if not _ended(row) and row.lease_expire_us <= now:
                row.number += 1
                row.lease_expire_us = now + round(seconds * 1_000_000)
                return ErasureClaim(*key, row.number)
        return None

    async def sessions_to_erase(self, claim: ErasureClaim, limit: int) -> Sequence[str]:
        if (row := self._held(claim)) is None:
            return ()
        live = self._sessions(claim, deleted=False)
        found = [each for each in live if not self._retention.is_held(claim.tenant_id, each, claim.user_id)][:limit]
        for session_id in found:
            head = self._logs[(claim.tenant_id, session_id)].head
            row.noted[session_id] = ErasedSession.of(session_id, head.version, head.core)
        return found

    async def noted_deletions(self, claim: ErasureClaim, after: str, limit: int) -> Sequence[tuple[str, int]]:
        if (row := self._held(claim)) is None:
            return ()
        heads = [(each, log.head) for each in sorted(row.noted) if (log := self._logs.get((claim.tenant_id, each)))]
        return [(each, head.version) for each, head in heads if each > after and head.deleted][:limit]

    async def erase_documents(self, claim: ErasureClaim, limit: int) -> int:
        if (row := self._held(claim)) is None or self._keeps_user(claim):
            return 0
        count = self._documents.erase(claim.tenant_id, claim.user_id, limit)
        row.erasure.document_count += count
        return count

    async def erase_names(self, claim: ErasureClaim, after: str, limit: int) -> str | None:
        if (row := self._held(claim)) is None or self._keeps_user(claim):
            return None
        deleted = [each for each in sorted(self._sessions(claim, deleted=True)) if each > after]
        row.erasure.document_count += self._documents.erase_names(claim.tenant_id, deleted[:limit])
        return deleted[limit - 1] if len(deleted) > limit else None

    async def erase_usage(self, claim: ErasureClaim) -> None:
        if self._held(claim) is not None:
            self._usage.erase(claim.tenant_id, claim.user_id)

    async def advance_erasure(self, claim: ErasureClaim, seconds: float, *, sessions: int, done: bool) -> bool:
        if (row := self._held(claim)) is None:
            return False
        now = self._clock()
        row.erasure.session_count += sessions
        row.lease_expire_us = now + round(seconds * 1_000_000)
        if done and not self._waits(claim.tenant_id, claim.user_id):
            row.erasure.state = ErasureState.ERASURE_STATE_DONE
            set_timestamp(row.erasure.end_time, now)
            self._report(claim, row, now)
        return True

    def _report(self, claim: ErasureClaim, row: _Row, now_us: int) -> None:
        erasure, noted = row.erasure, row.noted.values()
        removed = Removed(
            len(noted),
            sum(each.events for each in noted),
            sum(each.messages for each in noted),
            sum(each.attachments for each in noted),
            sum(each.attachment_bytes for each in noted),
            erasure.document_count,
        )
        named = (claim.tenant_id, claim.user_id, erasure.erasure_id)
        began = microseconds(erasure.create_time)
        erasure.report.json = report(*named, began, now_us, removed, ids_digest(row.noted))
        erasure.session_count = removed.sessions

    def _copy(self, tenant_id: str, row: _Row) -> Erasure:
        copy = Erasure()
        copy.CopyFrom(row.erasure)
        copy.held = not _ended(row) and self._waits(tenant_id, copy.user_id)
        return copy

    def _keeps_user(self, claim: ErasureClaim) -> bool:
        return self._retention.is_held(claim.tenant_id, "", claim.user_id)

    def _waits(self, tenant_id: str, user_id: str) -> bool:
        """Whether holds on the user or on sessions of the user keep the erasure from its end."""
        return self._retention.is_held(tenant_id, "", user_id) or any(
            self._retention.is_held(tenant_id, session_id, user_id)
            for session_id in self._sessions_of(tenant_id, user_id, deleted=False)
        )

    def _held(self, claim: ErasureClaim) -> _Row | None:
        row = self._rows.get((claim.tenant_id, claim.user_id))
        return row if row is not None and row.number == claim.number and not _ended(row) else None

    def _sessions(self, claim: ErasureClaim, *, deleted: bool) -> Sequence[str]:
        return self._sessions_of(claim.tenant_id, claim.user_id, deleted=deleted)

    def _sessions_of(self, tenant_id: str, user_id: str, *, deleted: bool) -> Sequence[str]:
        return [
            session_id
            for (tenant, session_id), log in self._logs.items()
            if tenant == tenant_id and log.head.user_id == user_id and log.head.deleted == deleted
        ]


def _ended(row: _Row) -> bool:
    return row.erasure.state == ErasureState.ERASURE_STATE_DONE
