"""Reads what a context is chosen from: the session, its newest summary, and messages from the end backwards."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from types import MappingProxyType
from typing import Final

from sessiond.v1.context_service_pb2 import Context
from sessiond.v1.message_pb2 import Message, Part, Role
from sessiond.v1.message_service_pb2 import MessageFilter
from sessiond.v1.session_pb2 import Session
from sessiond.v1.summary_pb2 import Summary
from sessiond.v1.tool_call_pb2 import ToolCall
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.context import ended_calls, plan, tokens
from sessiond_server.domain.context.conversation import CallKey, Said, Shape, Unit, opening, said, units
from sessiond_server.domain.context.plan import Budget, TooSmall
from sessiond_server.domain.messages.selection import Selection
from sessiond_server.domain.rewinds import ranges
from sessiond_server.domain.rewinds.ranges import Ranges
from sessiond_server.errors import ContextBudgetTooSmall, SessionNotFound
from sessiond_server.rpc import answers
from sessiond_server.slots import Slots
from sessiond_server.store.history import HistoryReads
from sessiond_server.store.session_reads import (
    CACHED,
    PAGE_BYTES,
    Freshness,
    MessagesPage,
    SessionQueries,
    SessionReads,
)
from sessiond_server.store.work import WorkStore

FIRST_PAGE: Final = 100
"""Messages of the first page: as many as the cache keeps of a session, by default."""
PAGE: Final = 500
"""Messages of each page behind it."""
MOST_READ: Final = 4000
MOST_READ_BYTES: Final = 16 * 1024 * 1024
"""Most messages, and bytes of them, that a context is chosen from. The first one may exceed the bytes."""
LEADING: Final = 8
"""Most messages of the system at the beginning of the log that stand for a system prompt."""
NEAR: Final = 20
"""Messages among which the user's message in front of the others is looked for first, since the cache may have them."""
FAR_PAGES: Final = 16
"""Pages of at least 1 000 messages or 3 MiB in which it is looked for then."""
USERS: Final = 100
"""Most messages of users of such a page: all but the first one are needed only where it is redacted or empty."""
DEEP_READS: Final = 8
"""Most contexts at a time for which more than the first page is read; others wait, tenants by turns. Each holds up to
MOST_READ_BYTES and a page."""
CALLS_BEHIND: Final = 256
"""Most tool calls, from a message with calls that have no result to the next one, that are looked at. As many can be
open at a time."""
SLICE_BYTES: Final = 128 * 1024
"""Bytes of messages that are parsed and measured in one piece; then other calls have a turn."""

_OF_USERS: Final = Selection(MessageFilter(roles=[Role.ROLE_USER]))


@dataclass(frozen=True, slots=True)
class Wanted:
    """A checked request."""

    max_tokens: int
    """0: no bound."""
    max_messages: int
    system_prompt: bool
    shape: Shape
    as_of_seq: int = 0
    """The version that the context describes; 0: the present one."""


@dataclass(slots=True)
class _Tail:
    """The newest messages of a session, as far as they were read."""

    after: int
    """`seq` up to which the newest summary, or what stands for the system prompt, covers the log; 0 without them."""
    before: int
    """`seq` before which all is yet to be read."""
    shape: Shape
    newest_first: list[Said] = field(default_factory=list)
    size: int = 0
    complete: bool = False
    """Whether there are no others behind `after`."""
    stopped: bool = False
    """Whether as much as may be was read."""

    async def take(self, page: MessagesPage, budget: Budget | None) -> None:
        """Adds messages of a page that was read from `before` downwards: all, or up to a user's message by which they
        exceed the budget, since those before it are then not needed."""
        sliced = tokens = 0
        for body in page.messages:
            message = Message.FromString(body)
            if message.seq >= self.before:
                continue  # appended since the session was read
            if message.seq <= self.after:
                self.complete = True
                return
            self.size += len(body)
            if self.newest_first and (len(self.newest_first) == MOST_READ or self.size > MOST_READ_BYTES):
                self.stopped = True
                return
            one = said(message, self.shape)
            self.newest_first.append(one)
            self.before = message.seq
            tokens += one.tokens
            exceeds = budget and (tokens > budget.tokens or len(self.newest_first) > budget.messages)
            if exceeds and message.role == Role.ROLE_USER:
                return
            sliced += len(body)
            if sliced > SLICE_BYTES:
                sliced = 0
                await asyncio.sleep(0)
        self.complete = not page.more

    def units(self, known: Mapping[CallKey, Part] = MappingProxyType({})) -> list[Unit]:
        return units(reversed(self.newest_first), known)


@dataclass(slots=True)
class _View:
    """What a context is made of."""

    scope: Scope
    session: Session
    """As of now, or what is needed of it as of another place."""
    present: int
    """The version of the session at which nothing else is hidden than in the view, as far as that reaches; 0: none is
    known."""
    rewound: Ranges
    """What is hidden."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A context to make."""

    view: _View
    wanted: Wanted
    budget: Budget
    """Without `fixed`."""
    fixed: Unit


class History:
    """Makes contexts from a store. Its reads are bounded whatever the length of the log."""

    def __init__(self, sessions: SessionReads, queries: SessionQueries, past: HistoryReads, work: WorkStore) -> None:
        self._sessions = sessions
        self._queries = queries
        self._past = past
        self._work = work
        self._places = Slots(DEEP_READS)

    async def context(self, scope: Scope, session_id: str, wanted: Wanted, freshness: Freshness) -> Context:
        """Raises SessionNotFound, VersionNotReached, ContextBudgetTooSmall, and InvalidFields for an `as_of_seq` that
        is none of the session's places. Writes nothing, so it can be cancelled."""
        view = await self._view(scope, session_id, wanted.as_of_seq, freshness)
        session = view.session
        context = Context(session_id=session_id, version=session.version)
        page = await self._messages(
            view,
            after_seq=0,
            before_seq=wanted.as_of_seq + 1 if wanted.as_of_seq else 0,
            descending=True,
            limit=FIRST_PAGE,
            freshness=Freshness(session.version, freshness.strong),
        )
        if session.summary_seq:
            context.summary.CopyFrom(await self._summary(view))
        tail = _Tail(context.summary.through_seq, session.version + 1, wanted.shape)
        fixed = await self._fixed(view, context, wanted, page, tail)
        budget = Budget((wanted.max_tokens or 2**63), wanted.max_messages, PAGE_BYTES - context.ByteSize()).less(fixed)
        asked = _Asked(view, wanted, budget, fixed)
        await tail.take(page, budget)
        if tail.complete or tail.stopped or any(unit.begins for unit in _exceeding(tail.units(), budget)):
            return await self._filled(context, asked, tail)
        await self._places.take(scope.tenant_id)
        try:
            await self._read_on(asked, tail)
            return await self._filled(context, asked, tail)
        finally:
            self._places.give(scope.tenant_id)

    async def _view(self, scope: Scope, session_id: str, as_of_seq: int, freshness: Freshness) -> _View:
        """The session as it is, or as it was at `as_of_seq`."""
        if not as_of_seq:
            snapshot = await self._sessions.get_session(scope, session_id, content=True, freshness=freshness)
            answers.not_before(freshness.min_version, session_id, snapshot.version)
            session = Session.FromString(snapshot.core + snapshot.content)
            return _View(scope, session, snapshot.version, ranges.of_session(session))
        version, snapshot = await self._past.get_session_at(scope, session_id, as_of_seq, content=True)
        answers.not_before(freshness.min_version, session_id, version)
        then = Session.FromString(snapshot.core + snapshot.content)
        now = await self._sessions.get_session(scope, session_id, content=False, freshness=Freshness(version))
        # Up to a place that is visible the same is hidden now as was then.
        differs = ranges.hides(ranges.of_session(Session.FromString(now.core)), as_of_seq)
        return _View(scope, then, 0 if differs else now.version, ranges.of_session(then))

    async def _messages(
        self,
        view: _View,
        *,
        after_seq: int,
        before_seq: int,
        descending: bool,
        limit: int,
        freshness: Freshness = CACHED,
    ) -> MessagesPage:
        """As SessionReads.list_messages, without what is hidden in the view."""
        scope, session_id = view.scope, view.session.session_id
        if view.present:
            page = await self._sessions.list_messages(
                scope, session_id,
                after_seq=after_seq, before_seq=before_seq, descending=descending, limit=limit, freshness=freshness,
            )  # fmt: skip
            if page.version == view.present:
                return page
            view.present = 0  # the session may have been rewound since it was read
        return await self._sessions.list_messages(
            scope, session_id,
            after_seq=after_seq, before_seq=before_seq, descending=descending, limit=limit, rewound=view.rewound,
        )  # fmt: skip

    async def _filled(self, context: Context, asked: _Asked, tail: _Tail) -> Context:
        made, turn = await self._with_ended_calls(asked, tail), None
        if (tail.after or not tail.complete) and plan.needs_turn(made, asked.budget, complete=tail.complete):
            turn = await self._turn_before(asked.view, tail)
        chosen = plan.choose(made, asked.budget, turn, complete=tail.complete)
        if isinstance(chosen, TooSmall):
            raise _too_small(asked, chosen)
        _fill(context, asked, [*([chosen.first] if chosen.first is not None else ()), *chosen.units])
        return context

    async def _with_ended_calls(self, asked: _Asked, tail: _Tail) -> list[Unit]:
        """The units of the tail. Of calls for which no message has a result, the session's tool calls are asked."""
        view = asked.view
        made, version = tail.units(), view.session.version
        places = [
            (first - 1, last)
            for after, until in ended_calls.ranges(made, version)
            for first, last in ranges.visible(after + 1, until, view.rewound)
        ]
        if not places:
            return made
        bodies = await self._work.list_requested(view.scope, view.session.session_id, ranges=places, limit=CALLS_BEHIND)
        conversation = reversed(tail.newest_first)
        calls = map(ToolCall.FromString, bodies)
        known = ended_calls.results(conversation, made, calls, version, tail.shape)
        return tail.units(known) if known else made

    async def _fixed(self, view: _View, context: Context, wanted: Wanted, newest: MessagesPage, tail: _Tail) -> Unit:
        """What always goes to the model: system prompt and summary, which have no messages, or the messages of the
        system that stand for the prompt, which the tail then need not have."""
        fixed, session = Unit(0, Role.ROLE_SYSTEM), view.session
        if not session.config.system_prompt:
            found = await self._leading(view, newest)
            if found:
                tail.after = max(tail.after, found[-1].seq)
            for unit in units(said(message, wanted.shape) for message in found) if wanted.system_prompt else ():
                fixed = unit
        elif wanted.system_prompt:
            context.system_prompt = session.config.system_prompt
            fixed.tokens += tokens.of_fixed(context.system_prompt)
        exact = context.summary.token_count
        fixed.tokens += exact or tokens.of_fixed(context.summary.text)
        fixed.exact_tokens += exact
        return fixed

    async def _leading(self, view: _View, newest: MessagesPage) -> list[Message]:
        """The messages of the system with which the log begins, at most LEADING. `newest`: the newest page of it."""
        bodies, end = list(newest.messages)[::-1], view.session.version
        if newest.more:
            page = await self._messages(view, after_seq=0, before_seq=end + 1, descending=False, limit=LEADING)
            bodies = list(page.messages)
        first = map(Message.FromString, bodies[:LEADING])
        return list(takewhile(lambda one: one.role == Role.ROLE_SYSTEM and one.seq <= end, first))

    async def _summary(self, view: _View) -> Summary:
        scope, session = view.scope, view.session
        page = await self._queries.list_summaries(
            scope, session.session_id, before_seq=session.summary_seq + 1, limit=1, rewound=view.rewound
        )
        if not page.summaries:
            # Deleted since it was read, and the id is another session's now.
            raise SessionNotFound(session.session_id)
        return Summary.FromString(page.summaries[0])

    async def _read_on(self, asked: _Asked, tail: _Tail) -> None:
        """Reads further back until the units exceed the budget. One page more than needed at most: it is likely to have
        a user's message among those that do not fit."""
        while not (tail.complete or tail.stopped):
            page = await self._messages(
                asked.view, after_seq=tail.after, before_seq=tail.before, descending=True, limit=PAGE
            )
            await tail.take(page, None)
            if _exceeding(tail.units(), asked.budget):
                return

    async def _turn_before(self, view: _View, tail: _Tail) -> Unit | None:
        """The last user's message before the tail: behind it nothing of another turn lies. None if there is none."""
        session_id = view.session.session_id
        page = await self._messages(view, after_seq=0, before_seq=tail.before, descending=True, limit=NEAR)
        for _ in range(FAR_PAGES):
            for body in page.messages:
                message = Message.FromString(body)
                found = units([said(message, tail.shape)]) if message.role == Role.ROLE_USER else ()
                if found:
                    return found[0]
            if not page.more:
                return None
            page = await self._queries.find_messages(
                view.scope, session_id, _OF_USERS,
                after_seq=0, before_seq=page.last_seq, descending=True, limit=USERS, rewound=view.rewound,
            )  # fmt: skip
        return opening(session_id)


def _exceeding(made: Sequence[Unit], budget: Budget) -> Sequence[Unit]:
    """Those of the units, from the oldest on, that do not fit."""
    return made[: plan.fitting(made, budget)]


def _fill(context: Context, asked: _Asked, taken: Sequence[Unit]) -> None:
    for unit in (asked.fixed, *taken):
        context.messages.extend(unit.messages)
        context.completed_call_count += unit.completed
        context.token_count += unit.tokens
        context.estimated_token_count += unit.tokens - unit.exact_tokens
    shown = {message.seq for message in context.messages if message.seq}
    if not asked.wanted.as_of_seq:
        context.omitted_message_count = asked.view.session.message_count - len(shown)


def _too_small(asked: _Asked, needed: TooSmall) -> ContextBudgetTooSmall:
    wanted, fixed = asked.wanted, asked.fixed
    needed_tokens, needed_messages = fixed.tokens + needed.tokens, len(fixed.messages) + needed.messages
    field = "max_tool_result_tokens"  # only the bytes can be too many
    if wanted.max_tokens and needed_tokens > wanted.max_tokens:
        field = "max_tokens"
    elif needed_messages > wanted.max_messages:
        field = "max_messages"
    return ContextBudgetTooSmall(asked.view.session.session_id, field, needed_tokens, needed_messages)
