"""Summarises the sessions that are due, on every replica, a bounded number at a time.

A session is claimed by one replica at a time. The summary is written at the version up to which the log was looked at:
if a message was redacted or deleted meanwhile, or a summary was written, it is thrown away and the session looked at
anew. So no session has two summaries of the same messages, and none tells of a message that was redacted before it.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from time import monotonic
from typing import Final, Protocol

from sessiond.v1.event_pb2 import EventType
from sessiond.v1.message_pb2 import Message
from sessiond.v1.session_pb2 import Session, SessionStatus
from sessiond.v1.summary_pb2 import Summary
from sessiond_server.domain.commands import ACTOR, INTERNAL_REQUEST_PREFIX, Command, CreateSummary, Scope
from sessiond_server.domain.context.conversation import Said, Shape, said
from sessiond_server.domain.sessions.incarnation import incarnation_of
from sessiond_server.domain.summaries import validation
from sessiond_server.domain.validation import FieldViolations
from sessiond_server.errors import SessionNotFound, Unavailable, VersionMismatch
from sessiond_server.measures import Rounds
from sessiond_server.store.commits import Writer
from sessiond_server.store.log_reads import LogReads
from sessiond_server.store.session_reads import Freshness, SessionQueries, SessionReads
from sessiond_server.summaries.contract import Conversation, Summariser, SummariserUnavailable, Written
from sessiond_server.summaries.coverage import LOOKED_AT, Bounds, Covered, covered
from sessiond_server.summaries.following import Following
from sessiond_server.summaries.queue import Claim, SummaryQueue, Uncovered, When
from sessiond_server.summaries.transcript import NOTHING

_log = logging.getLogger("sessiond.summaries")

PAUSE: Final = 1.0
"""Seconds between two looks for events, and for sessions that are due."""
LONGEST_PAUSE: Final = 10.0
"""Looking takes a tenth of the time at most."""
CLAIM_SPARE: Final = 30.0
"""Seconds of a claim besides those that the summariser has: for reading and writing."""
FIRST_RETRY: Final = 10.0
LONGEST_RETRY: Final = 3600.0
"""Seconds before another attempt after a failure; they double."""
ATTEMPTS: Final = 20
"""After so many failures in a row, some twelve hours, the session rests until its next message."""
LONGEST_REST: Final = 300.0
"""Most seconds for which a Retry-After keeps all sessions waiting."""
WRITES: Final = 20
"""Attempts to write a summary between the writes of others."""
LOG_PAGE: Final = 1000
LOG_SECONDS: Final = 60.0
"""Failures are logged once in so many seconds, with their number."""

_REMAKE: Final = frozenset(
    (
        EventType.EVENT_TYPE_MESSAGE_REDACTED,
        EventType.EVENT_TYPE_MESSAGES_DELETED,
        EventType.EVENT_TYPE_SUMMARY_CREATED,
        EventType.EVENT_TYPE_SESSION_REWOUND,
    )
)
"""Events after which a summary that was made before is not written."""
_STRONG: Final = Freshness(strong=True)


class Overtaken(Exception):
    """The session changed so that the summary must be made anew."""


class Truth(SessionReads, SessionQueries, LogReads, Protocol):
    """What is read, from the store itself."""


@dataclass(slots=True)
class SummaryState:
    """What metrics show. Only the loop writes it."""

    in_progress: int = 0
    outcomes: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("written", "unavailable", "failed", "given_up"), 0)
    )


class Summarising:
    """The counts of one database."""

    def __init__(self) -> None:
        self.rounds = Rounds("summaries", "events_for_summaries")
        self.state = SummaryState()


@dataclass(frozen=True, slots=True)
class Limits:
    when: When
    bounds: Bounds
    timeout: float
    """Seconds that the summariser has for one summary."""
    at_once: int
    """Summaries in progress at a time."""


@dataclass(frozen=True, slots=True)
class _Looked:
    """A session as it was looked at."""

    core: Session
    previous: Summary
    """Empty: there is none."""
    said: Sequence[Said]
    """The messages behind it, LOOKED_AT at most."""
    more: bool
    """Whether there are others behind these."""

    def uncovered(self, count: int, *, more: bool) -> Uncovered:
        """What remains once the first `count` messages are covered."""
        left = self.said[count:]
        return Uncovered(self.core.version, len(left), sum(one.tokens for one in left), more)


class Worker:
    """Follows the feeds and summarises, until cancelled."""

    def __init__(
        self,
        queue: SummaryQueue,
        truth: Truth,
        writer: Writer,
        summariser: Summariser,
        limits: Limits,
        summarising: Summarising,
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`clock`: seconds."""
        self._queue = queue
        self._truth = truth
        self._writer = writer
        self._summariser = summariser
        self._limits = limits
        self._following = Following(queue, truth, limits.when)
        self._rounds = summarising.rounds
        self._state = summarising.state
        self._clock = clock
        self._rests_until = 0.0
        self._freed = asyncio.Event()
        self._unlogged = 0
        self._logs_from = 0.0

    async def run(self) -> None:
        """Errors are logged and do not end it. Cancelling leaves claims, which end by themselves."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(), name="summary-feeds")
            group.create_task(self._work(group), name="summary-claims")

    async def _follow(self) -> None:
        while True:
            began = self._rounds.begin()
            pause = PAUSE
            try:
                events, complete = await self._following.round()
                self._rounds.end(began, events)
                took = self._clock() - began
                pause = min(max(PAUSE, 10 * took), LONGEST_PAUSE) if complete else took
            except Unavailable as error:
                self._rounds.fail()
                _log.warning("cannot look for sessions to summarise: %s", error)
            except Exception as error:
                self._rounds.fail()
                _log.error("looking for sessions to summarise failed; trying again in %g s", pause, exc_info=error)
            await asyncio.sleep(pause)

    async def _work(self, group: asyncio.TaskGroup) -> None:
        while True:
            self._freed.clear()
            free = self._limits.at_once - self._state.in_progress
            found = 0
            if free and self._clock() >= self._rests_until:
                try:
                    claims = await self._queue.claim(self._limits.timeout + CLAIM_SPARE, free)
                except Unavailable as error:
                    claims = ()
                    _log.warning("cannot look for sessions that are due for a summary: %s", error)
                except Exception as error:
                    claims = ()
                    _log.error("looking for sessions that are due for a summary failed", exc_info=error)
                found = len(claims)
                for claim in claims:
                    self._state.in_progress += 1
                    group.create_task(self._one(claim), name="summary")
            if found < free or not free:
                try:
                    async with asyncio.timeout(PAUSE):
                        await self._freed.wait()
                except TimeoutError:
                    pass

    async def _one(self, claim: Claim) -> None:
        try:
            await self.summarise(claim)
        except Unavailable as error:
            self._say("the store: %s", error)  # the claim ends by itself
        except Exception as error:
            # Not the error itself, whose text or frames may have contents of the session.
            self._count("failed", type(error).__name__)
        finally:
            self._state.in_progress -= 1
            self._freed.set()

    async def summarise(self, claim: Claim) -> None:
        """Summarises a session that was claimed, and gives the claim back. Raises StoreUnavailable."""
        try:
            done = await self._attempt(claim)
        except SessionNotFound:
            await self._queue.forget(claim)
            return
        except Overtaken:
            await self._queue.postpone(claim, PAUSE)
            return
        except SummariserUnavailable as error:
            if error.retry_after:
                self._rests_until = max(self._rests_until, self._clock() + min(error.retry_after, LONGEST_REST))
            await self._failed(claim, "unavailable", type(error.__cause__ or error).__name__)
            return
        except Unavailable:
            raise
        except Exception as error:
            await self._failed(claim, "failed", type(error).__name__)
            return
        await self._queue.settle(claim, done)

    async def _attempt(self, claim: Claim) -> Uncovered:
        looked = await self._look(claim)
        when, bounds = self._limits.when, self._limits.bounds
        if claim.asked and claim.keep is not None:
            bounds = replace(bounds, keep=claim.keep)
        ended = claim.ended and looked.core.status == SessionStatus.SESSION_STATUS_ENDED
        chosen = covered(looked.said, when, bounds, more=looked.more, asked=claim.asked, ended=ended)
        if not chosen.count:
            return looked.uncovered(0, more=False)
        messages = [one.message for one in looked.said[: chosen.count] if not one.message.HasField("redact_time")]
        if messages:
            written = await self._written(claim, looked, messages)
        else:
            # Another summary, so that what is behind these messages has its turn.
            written = Written(looked.previous.text or NOTHING, looked.previous.model)
        await self._write(claim, looked, chosen, written)
        self._state.outcomes["written"] += 1
        return looked.uncovered(chosen.count, more=chosen.more)

    async def _look(self, claim: Claim) -> _Looked:
        scope, session_id = Scope(claim.tenant_id), claim.session_id
        snapshot = await self._truth.get_session(scope, session_id, content=False, freshness=_STRONG)
        core, previous = Session.FromString(snapshot.core), Summary()
        page = await self._truth.list_summaries(scope, session_id, before_seq=core.version + 1, limit=1)
        if page.summaries:
            previous = Summary.FromString(page.summaries[0])
        found = await self._truth.list_messages(
            scope, session_id,
            after_seq=previous.through_seq, before_seq=core.version + 1, descending=False, limit=LOOKED_AT,
            freshness=_STRONG,
        )  # fmt: skip
        measured = []
        for body in found.messages:
            measured.append(said(Message.FromString(body), Shape()))
            await asyncio.sleep(0)
        return _Looked(core, previous, measured, found.more)

    async def _written(self, claim: Claim, looked: _Looked, messages: Sequence[Message]) -> Written:
        """What the summariser answers, checked. Raises SummariserUnavailable, InvalidFields and what it raises."""
        conversation = Conversation(claim.tenant_id, claim.session_id, looked.previous.text, messages)
        try:
            async with asyncio.timeout(self._limits.timeout):
                return await self._summariser.summarise(conversation)
        except TimeoutError as error:
            raise SummariserUnavailable from error

    async def _write(self, claim: Claim, looked: _Looked, chosen: Covered, written: Written) -> None:
        core = looked.core
        through = looked.said[chosen.count - 1].message.seq
        summary = Summary(
            through_seq=through,
            text=written.text,
            model=written.model,
            author=ACTOR,
            usage=written.usage,
            token_count=written.token_count,
        )
        found = FieldViolations()
        validation.new_summary(found, "summary", summary)
        found.check()
        # After a rewind to a place before a summary the same messages are summarised anew.
        rewound = core.rewound[-1].last_seq if core.rewound else 0
        request_id = f"{INTERNAL_REQUEST_PREFIX}summary:{looked.previous.seq}:{through}"
        request_id += f":{rewound}" if rewound else ""
        version = core.version
        for _ in range(WRITES):
            version = await self._unchanged(claim, version)
            command = Command(
                Scope(claim.tenant_id), claim.session_id, CreateSummary(summary, after_end=True), ACTOR, request_id,
                expected_version=version, size=summary.ByteSize(), incarnation=incarnation_of(core),
            )  # fmt: skip
            try:
                await self._writer.write(command)
                return
            except VersionMismatch:
                continue
        raise Overtaken

    async def _unchanged(self, claim: Claim, version: int) -> int:
        """The session's version now, if nothing of _REMAKE happened since `version`. Raises Overtaken."""
        while True:
            key = (claim.tenant_id, claim.session_id)
            page = await self._truth.read_log(key, after_seq=version, limit=LOG_PAGE)
            if page.head.deleted or page.head.version < version:
                raise SessionNotFound(claim.session_id)
            if any(entry.type in _REMAKE for entry in page.entries):
                raise Overtaken
            if not page.entries or page.entries[-1].seq == page.head.version:
                return page.head.version
            version = page.entries[-1].seq

    async def _failed(self, claim: Claim, outcome: str, why: str) -> None:
        self._count(outcome, why)
        if claim.attempt >= ATTEMPTS:
            self._state.outcomes["given_up"] += 1
            await self._queue.postpone(claim, None)
            return
        pause = min(FIRST_RETRY * 2 ** (claim.attempt - 1), LONGEST_RETRY)
        await self._queue.postpone(claim, pause * (0.75 + Random().random() / 2))

    def _count(self, outcome: str, why: str) -> None:
        self._state.outcomes[outcome] += 1
        self._say("the summariser: %s", why)

    def _say(self, form: str, why: object) -> None:
        """Logs a failure, unless another one was logged a short while ago."""
        self._unlogged += 1
        if self._clock() < self._logs_from:
            return
        self._logs_from = self._clock() + LOG_SECONDS
        _log.warning("%d summaries failed, and are tried again; the last one by " + form, self._unlogged, why)
        self._unlogged = 0
