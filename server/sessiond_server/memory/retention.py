"""The memory store's legal holds and retention; see store/retention.py."""

from collections.abc import Callable, Mapping, Sequence

from sessiond.v1.retention_pb2 import LegalHold, RetentionPolicy
from sessiond.v1.session_pb2 import SessionStatus
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.documents.rows import SESSION, USER, DocumentKey
from sessiond_server.domain.rows import Key, Known, Needs
from sessiond_server.domain.times import microseconds, set_duration, set_timestamp
from sessiond_server.errors import HoldNotFound, RequestIdReused, SessionNotFound
from sessiond_server.memory.documents import MemoryDocuments
from sessiond_server.memory.session import MemorySession
from sessiond_server.store.retention import EndedPage, HoldsPage, NewHold, Retained


class MemoryRetention:
    """The holds of a MemoryStore. As there, nothing awaits between reading and writing."""

    def __init__(
        self,
        logs: Mapping[Key, MemorySession],
        documents: MemoryDocuments,
        clock: Callable[[], int],
        new_id: Callable[[], str],
    ) -> None:
        self._logs = logs
        self._clock = clock
        self._new_id = new_id
        documents.is_held = self.holds_document
        self._holds: dict[tuple[str, str], LegalHold] = {}
        """(tenant, id) -> hold, in the order in which they were placed."""
        self._requests: dict[tuple[str, str], LegalHold] = {}
        self._policies: dict[str, RetentionPolicy] = {}

    async def place_hold(self, scope: Scope, hold: NewHold) -> LegalHold:
        wanted = (hold.session_id, hold.user_id, hold.reason)
        request = (scope.tenant_id, hold.request_id)
        if hold.request_id and (first := self._requests.get(request)) is not None:
            if (first.session_id, first.user_id, first.reason) != wanted:
                raise RequestIdReused(hold.request_id)
            return _copy(first)
        if hold.session_id:
            log = self._logs.get((scope.tenant_id, hold.session_id))
            if log is None or log.head.deleted:
                raise SessionNotFound(hold.session_id)
        placed = LegalHold(
            hold_id=self._new_id(),
            session_id=hold.session_id,
            user_id=hold.user_id,
            reason=hold.reason,
            place_actor=hold.actor,
        )
        set_timestamp(placed.create_time, self._clock())
        self._holds[(scope.tenant_id, placed.hold_id)] = placed
        if hold.request_id:
            self._requests[request] = placed
        return _copy(placed)

    async def lift_hold(self, scope: Scope, hold_id: str, actor: str, reason: str) -> LegalHold:
        if (hold := self._holds.get((scope.tenant_id, hold_id))) is None:
            raise HoldNotFound(hold_id)
        if not hold.HasField("lift_time"):
            hold.lift_actor, hold.lift_reason = actor, reason
            set_timestamp(hold.lift_time, self._clock())
        return _copy(hold)

    async def list_holds(
        self, scope: Scope, *, session_id: str, user_id: str, lifted: bool, after: tuple[int, str] | None, limit: int
    ) -> HoldsPage:
        found = [
            hold
            for (tenant_id, _), hold in self._holds.items()
            if tenant_id == scope.tenant_id
            and (lifted or not hold.HasField("lift_time"))
            and session_id in ("", hold.session_id)
            and user_id in ("", hold.user_id)
            and (after is None or _key(hold) < after)
        ]
        found.sort(key=_key, reverse=True)
        page = [_copy(hold) for hold in found[:limit]]
        return HoldsPage(page, _key(page[-1]) if len(found) > limit else None)

    async def set_policy(self, scope: Scope, ended_retention_us: int | None, actor: str) -> None:
        policy = self._policies[scope.tenant_id] = RetentionPolicy(actor=actor)
        if ended_retention_us is not None:
            set_duration(policy.ended_retention, ended_retention_us)
        set_timestamp(policy.update_time, self._clock())

    async def get_policy(self, scope: Scope) -> RetentionPolicy:
        policy = RetentionPolicy()
        if (found := self._policies.get(scope.tenant_id)) is not None:
            policy.CopyFrom(found)
        return policy

    async def retained_tenants(self, default_us: int, *, after: str, limit: int) -> Sequence[Retained]:
        ended = {tenant_id for (tenant_id, _), log in self._logs.items() if _has_ended(log)}
        tenants = sorted({*self._policies, *(ended if default_us else ())})
        kept = ((each, self._kept_us(each, default_us)) for each in tenants if each > after)
        return [Retained(tenant_id, kept_us) for tenant_id, kept_us in kept if kept_us][:limit]

    def _kept_us(self, tenant_id: str, default_us: int) -> int:
        policy = self._policies.get(tenant_id)
        own = policy is not None and policy.HasField("ended_retention")
        return microseconds(policy.ended_retention) if policy is not None and own else default_us

    async def ended_sessions(self, kept: Retained, *, after: tuple[int, str] | None, limit: int) -> EndedPage:
        oldest = self._clock() - kept.kept_us
        ended = sorted(
            (log.index.create_time_us, session_id, log)
            for (tenant_id, session_id), log in self._logs.items()
            if tenant_id == kept.tenant_id and log.index is not None and _has_ended(log)
        )
        found = [each for each in ended if each[0] <= oldest and (after is None or each[:2] > after)]
        page = found[:limit]
        due = [
            (session_id, log.head.version)
            for _, session_id, log in page
            if log.update_time_us <= oldest and not self.is_held(kept.tenant_id, session_id, log.head.user_id)
        ]
        return EndedPage(due, page[-1][:2] if len(page) == limit else None)

    def is_held(self, tenant_id: str, session_id: str, user_id: str) -> bool:
        """Whether a hold keeps the session, or what the user has beside sessions where `session_id` is empty."""
        return any(
            tenant == tenant_id
            and not hold.HasField("lift_time")
            and ((session_id and hold.session_id == session_id) or (user_id and hold.user_id == user_id))
            for (tenant, _), hold in self._holds.items()
        )

    def holds_document(self, key: DocumentKey) -> bool:
        """Whether a hold keeps the document."""
        tenant_id, scope, scope_id, _ = key
        if scope == USER:
            return self.is_held(tenant_id, "", scope_id)
        log = self._logs.get((tenant_id, scope_id)) if scope == SESSION else None
        return log is not None and self.is_held(tenant_id, scope_id, log.head.user_id)

    def look_up(self, needs: Needs, known: Known) -> None:
        """Adds what is held to `known`, in which the messages are that were asked for."""
        known.held = {each for each in needs.holds if self.is_held(*each)}
        known.held_messages = {
            (key, message_id) for (key, message_id), found in known.messages.items() if self._shows_held(key, found.seq)
        }

    def _shows_held(self, key: Key, seq: int) -> bool:
        """Whether a session that is held shows the event at `seq` of this session."""
        event = self._logs[key].events[seq]
        return any(
            tenant_id == key[0] and not log.head.deleted and self.is_held(tenant_id, session_id, log.head.user_id)
            for (tenant_id, session_id), log in self._logs.items()
            if (own := log.events.get(seq)) is not None and own.event_id == event.event_id
        )


def _has_ended(log: MemorySession) -> bool:
    return log.index is not None and log.index.status == SessionStatus.SESSION_STATUS_ENDED


def _key(hold: LegalHold) -> tuple[int, str]:
    return microseconds(hold.create_time), hold.hold_id


def _copy(hold: LegalHold) -> LegalHold:
    copy = LegalHold()
    copy.CopyFrom(hold)
    return copy
