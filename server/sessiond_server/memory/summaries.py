"""The memory store's queue of sessions that are due for a summary."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sessiond_server.domain.log import FeedPlace
from sessiond_server.domain.rows import Key
from sessiond_server.domain.times import SECOND
from sessiond_server.memory.log import Logs
from sessiond_server.summaries.following import counted
from sessiond_server.summaries.queue import Behind, Claim, Note, Uncovered, When


@dataclass(slots=True)
class _Work:
    counted_to: int = 0
    messages: int = 0
    tokens: int = 0
    ended_seq: int = 0
    asked: bool = False
    due_us: int | None = None
    attempts: int = 0
    number: int = 0
    requests: int = 0
    keep: int | None = None


class MemorySummaryQueue:
    """Implements `summaries.queue.SummaryQueue`."""

    def __init__(self, logs: Logs, clock: Callable[[], int]) -> None:
        """`clock`: microseconds since 1970-01-01 UTC."""
        self._logs = logs
        self._clock = clock
        self._start: FeedPlace | None = None
        self._places: dict[str, FeedPlace] = {}
        self._work: dict[Key, _Work] = {}

    async def behind(self) -> Sequence[Behind]:
        if self._start is None:
            self._start = FeedPlace(self._logs.commits + 1, "", 0)
        start = self._start
        places = ((tenant, self._places.get(tenant, start), end) for tenant, end in sorted(self._logs.ends().items()))
        return [Behind(tenant, place) for tenant, place, end in places if end > place]

    async def note(
        self, behind: Behind, through: FeedPlace, notes: Sequence[Note], gone: Sequence[str], when: When
    ) -> bool:
        tenant_id = behind.tenant_id
        if self._places.get(tenant_id, behind.place) != behind.place:
            return False
        self._places[tenant_id] = through
        for session_id in gone:
            self._work.pop((tenant_id, session_id), None)
        for session_id in {note.session_id: None for note in notes}:
            work = self._work.setdefault((tenant_id, session_id), _Work())
            own = [note for note in notes if note.session_id == session_id]
            messages, tokens = counted(own, work.counted_to)
            work.messages += messages
            work.tokens += tokens
            work.counted_to = max(work.counted_to, own[-1].seq)
            work.ended_seq = max(work.ended_seq, *(note.seq for note in own if note.ends), 0)
            if work.due_us is None and (work.ended_seq or when.reached(work.messages, work.tokens)):
                work.due_us = self._clock()
        return True

    async def request(self, tenant_id: str, session_id: str, keep: int | None, limit: int) -> bool:
        key = (tenant_id, session_id)
        others = sum(work.asked for each, work in self._work.items() if each[0] == tenant_id and each != key)
        if others >= limit:
            return False
        work = self._work.setdefault(key, _Work())
        work.asked, work.keep = True, keep
        work.requests += 1
        if work.due_us is None:
            work.due_us, work.attempts = self._clock(), 0
        return True

    async def claim(self, seconds: float, limit: int) -> Sequence[Claim]:
        now = self._clock()
        due = [(work.due_us, key) for key, work in self._work.items() if work.due_us is not None and work.due_us <= now]
        return [self._claimed(key, now + round(seconds * SECOND)) for _, key in sorted(due)[:limit]]

    def _claimed(self, key: Key, until_us: int) -> Claim:
        work = self._work[key]
        work.due_us = until_us
        work.attempts += 1
        work.number += 1
        return Claim(
            *key, work.number, work.attempts, work.messages, work.tokens, work.ended_seq > 0, work.asked, work.keep,
            work.requests,
        )  # fmt: skip

    async def settle(self, claim: Claim, uncovered: Uncovered) -> None:
        if (work := self._own(claim)) is None:
            return
        work.messages += uncovered.messages - claim.messages
        work.tokens += uncovered.tokens - claim.tokens
        work.counted_to = max(work.counted_to, uncovered.version)
        work.asked = uncovered.more or work.requests != claim.requests
        work.keep = work.keep if work.asked else None
        if not uncovered.more and work.ended_seq <= uncovered.version:
            work.ended_seq = 0
        work.attempts = 0
        work.due_us = self._clock() if work.asked or work.ended_seq else None

    async def postpone(self, claim: Claim, seconds: float | None) -> None:
        if (work := self._own(claim)) is not None:
            work.due_us = None if seconds is None else self._clock() + round(seconds * SECOND)

    async def forget(self, claim: Claim) -> None:
        if self._own(claim) is not None:
            del self._work[claim.tenant_id, claim.session_id]

    def _own(self, claim: Claim) -> _Work | None:
        work = self._work.get((claim.tenant_id, claim.session_id))
        return work if work is not None and work.number == claim.number else None
