"""The memory store's erasures of users; see store/erasures.py."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sessiond.v1.erasure_pb2 import Erasure, ErasureState
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.rows import Key
from sessiond_server.domain.times import set_timestamp
from sessiond_server.errors import ErasureNotFound
from sessiond_server.memory.documents import MemoryDocuments
from sessiond_server.memory.session import MemorySession
from sessiond_server.memory.usage import MemoryUsage
from sessiond_server.store.erasures import ErasureClaim


@dataclass(slots=True)
class _Row:
    erasure: Erasure
    request_id: str
    lease_expire_us: int
    number: int = 0


class MemoryErasures:
    """The erasures of a MemoryStore. As there, nothing awaits between reading and writing."""

    def __init__(
        self,
        logs: Mapping[Key, MemorySession],
        documents: MemoryDocuments,
        usage: MemoryUsage,
        clock: Callable[[], int],
        new_id: Callable[[], str],
    ) -> None:
        self._logs = logs
        self._documents = documents
        self._usage = usage
        self._clock = clock
        self._new_id = new_id
        self._rows: dict[tuple[str, str], _Row] = {}
        """(tenant, user) -> the last erasure."""

    async def begin_erasure(self, scope: Scope, user_id: str, request_id: str) -> Erasure:
        key = (scope.tenant_id, user_id)
        row = self._rows.get(key)
        if row is None or (_ended(row) and (not request_id or row.request_id != request_id)):
            now = self._clock()
            erasure = Erasure(erasure_id=self._new_id(), user_id=user_id, state=ErasureState.ERASURE_STATE_RUNNING)
            set_timestamp(erasure.create_time, now)
            row = self._rows[key] = _Row(erasure, request_id, now, row.number if row is not None else 0)
        return _copy(row.erasure)

    async def get_erasure(self, scope: Scope, user_id: str) -> Erasure:
        if (row := self._rows.get((scope.tenant_id, user_id))) is None:
            raise ErasureNotFound(user_id)
        return _copy(row.erasure)

    async def claim_erasure(self, seconds: float) -> ErasureClaim | None:
        now = self._clock()
        for key, row in self._rows.items():
            if not _ended(row) and row.lease_expire_us <= now:
                row.number += 1
                row.lease_expire_us = now + round(seconds * 1_000_000)
                return ErasureClaim(*key, row.number)
        return None

    async def sessions_to_erase(self, claim: ErasureClaim, limit: int) -> Sequence[str]:
        return self._sessions(claim, deleted=False)[:limit]

    async def erase_documents(self, claim: ErasureClaim, limit: int) -> int:
        if (row := self._held(claim)) is None:
            return 0
        count = self._documents.erase(claim.tenant_id, claim.user_id, limit)
        row.erasure.document_count += count
        return count

    async def erase_names(self, claim: ErasureClaim, after: str, limit: int) -> str | None:
        if (row := self._held(claim)) is None:
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
        if done:
            row.erasure.state = ErasureState.ERASURE_STATE_DONE
            set_timestamp(row.erasure.end_time, now)
        return True

    def _held(self, claim: ErasureClaim) -> _Row | None:
        row = self._rows.get((claim.tenant_id, claim.user_id))
        return row if row is not None and row.number == claim.number and not _ended(row) else None

    def _sessions(self, claim: ErasureClaim, *, deleted: bool) -> Sequence[str]:
        return [
            session_id
            for (tenant_id, session_id), log in self._logs.items()
            if tenant_id == claim.tenant_id and log.head.user_id == claim.user_id and log.head.deleted == deleted
        ]


def _ended(row: _Row) -> bool:
    return row.erasure.state == ErasureState.ERASURE_STATE_DONE


def _copy(erasure: Erasure) -> Erasure:
    copy = Erasure()
    copy.CopyFrom(erasure)
    return copy
