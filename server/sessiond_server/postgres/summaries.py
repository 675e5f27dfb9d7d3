"""The queue of sessions that are due for a summary, in Postgres."""

from collections.abc import Sequence
from typing import Any

import asyncpg

from sessiond_server.domain.log import FeedPlace
from sessiond_server.postgres.columns import columns
from sessiond_server.postgres.statements import SEARCH, SUMMARIES
from sessiond_server.postgres.transactions import Transactions
from sessiond_server.summaries.queue import Behind, Claim, Note, Uncovered, When

LOCK_HOMES = SEARCH["lock_homes"].text
BEGIN_FEEDS = SUMMARIES["begin_feeds"].text
FEEDS_UNSEEN = SUMMARIES["feeds_unseen"].text
MOVE_PLACE = SUMMARIES["move_place"].text
FORGET_GONE = SUMMARIES["forget_gone"].text
COUNT_EVENTS = SUMMARIES["count_events"].text
REQUEST = SUMMARIES["request"].text
CLAIM_DUE = SUMMARIES["claim_due"].text
SETTLE = SUMMARIES["settle"].text
POSTPONE = SUMMARIES["postpone"].text
FORGET = SUMMARIES["forget"].text


class PostgresSummaryQueue:
    """Implements `summaries.queue.SummaryQueue`. Belongs to a PostgresStore and shares its connections."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._begun = False

    async def behind(self) -> Sequence[Behind]:
        if not self._begun:
            await self._execute(BEGIN_FEEDS)
            self._begun = True
        rows = await self._transactions.fetch(FEEDS_UNSEEN)
        return [Behind(tenant_id, FeedPlace(*place)) for tenant_id, *place in rows]

    async def note(
        self, behind: Behind, through: FeedPlace, notes: Sequence[Note], gone: Sequence[str], when: When
    ) -> bool:
        tenant_id, before = behind.tenant_id, behind.place
        rows = columns(((note.session_id, note.seq, note.tokens, note.ends) for note in notes), 4)

        async def work(connection: asyncpg.Connection) -> bool:
            # A tenant that moves away leaves no row behind.
            await connection.execute(LOCK_HOMES)
            moved = await connection.fetchval(MOVE_PLACE, tenant_id, *_place(before), *_place(through))
            if not moved:
                return False
            if gone:
                await connection.execute(FORGET_GONE, tenant_id, gone)
            if notes:
                await connection.execute(COUNT_EVENTS, tenant_id, *rows, when.messages, when.tokens)
            return True

        return await self._transactions.run(work)

    async def request(self, tenant_id: str, session_id: str, keep: int | None, limit: int) -> bool:
        async def work(connection: asyncpg.Connection) -> bool:
            await connection.execute(LOCK_HOMES)
            return await connection.fetchval(REQUEST, tenant_id, session_id, keep, limit) is not None

        return await self._transactions.run(work)

    async def claim(self, seconds: float, limit: int) -> Sequence[Claim]:
        async def work(connection: asyncpg.Connection) -> Sequence[Claim]:
            return [Claim(*row) for row in await connection.fetch(CLAIM_DUE, seconds, limit)]

        return await self._transactions.run(work)

    async def settle(self, claim: Claim, uncovered: Uncovered) -> None:
        messages, tokens = uncovered.messages - claim.messages, uncovered.tokens - claim.tokens
        done = (uncovered.version, messages, tokens, uncovered.more, claim.requests)
        await self._execute(SETTLE, *_own(claim), *done)

    async def postpone(self, claim: Claim, seconds: float | None) -> None:
        await self._execute(POSTPONE, *_own(claim), seconds)

    async def forget(self, claim: Claim) -> None:
        await self._execute(FORGET, *_own(claim))

    async def _execute(self, statement: str, *parameters: Any) -> None:
        async def work(connection: asyncpg.Connection) -> None:
            await connection.execute(statement, *parameters)

        await self._transactions.run(work)


def _place(place: FeedPlace) -> tuple[int, str, int]:
    return place.commit_xid, place.session_id, place.seq


def _own(claim: Claim) -> tuple[str, str, int]:
    return claim.tenant_id, claim.session_id, claim.number
