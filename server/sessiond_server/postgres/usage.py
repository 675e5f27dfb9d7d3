"""Counters of usage in Postgres, with the statements of usage.sql.

Feeds are read outside of the transaction that counts: `usage_feeds` has the place up to which a tenant is counted, and
only one transaction can move it from there. Events that a deletion removes before they are counted leave what counts in
`usage_remains`, at the same place of the feed, in the transaction of the deletion. A page that was read before that
deletion has the event as well: then the remains hold.
"""

import asyncio
from collections.abc import Sequence
from datetime import date
from functools import cache
from itertools import groupby
from typing import Any, Final

import asyncpg

from sessiond.v1.run_pb2 import Run
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.rows import Deletion, EventRow, Writes
from sessiond_server.domain.usage.figures import (
    COUNTED,
    MOST,
    NOTHING,
    Figures,
    Group,
    Share,
    added,
    day_of,
    of_models,
    shares,
)
from sessiond_server.postgres.columns import columns
from sessiond_server.postgres.statements import SEARCH, USAGE
from sessiond_server.postgres.transactions import Transactions
from sessiond_server.store.usage import Key, UsagePage, UsageQuery

LOCK_HOMES = SEARCH["lock_homes"].text
TAKE_LEASE = USAGE["take_counting_lease"].text
FEEDS_UNCOUNTED = USAGE["feeds_uncounted"].text
EVENTS_TO_COUNT = USAGE["events_to_count"].text
MOVE_PLACE = USAGE["move_counted_place"].text
TAKE_REMAINS = USAGE["take_remains"].text
RUNS_OF = USAGE["runs_of"].text
ADD_USAGE = USAGE["add_usage"].text
FIND_UNCOUNTED = USAGE["find_uncounted"].text
WRITE_REMAINS = USAGE["write_remains"].text
LOCK_PLACE = USAGE["lock_counted_place"].text
FORGET_USER = USAGE["forget_user_of_remains"].text
ERASE_USAGE = USAGE["erase_usage"].text
COUNTED_UNTIL = USAGE["counted_until"].text

PAGE: Final = 500
PAGE_BYTES: Final = 4 * 1024 * 1024
"""Most events, and bytes of them, that one transaction counts."""
PAGES: Final = 8
"""Most pages of a round."""
_TURN: Final = 100
"""Events that are parsed before the loop has a turn."""
_FIGURES: Final = len(Figures._fields)

_Place = tuple[int, str, int]
_Found = dict[_Place, list[tuple[str | None, Group, Figures]]]
"""(user or None for an erased one, group, figures) of each event, by its place."""


class PostgresUsage:
    """Implements UsageReads and UsageCounting of `store.usage`. Belongs to a PostgresStore and shares its
    connections."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._last = ""
        """The tenant whose feed was read last: the next round begins with the one behind it."""

    async def take_lease(self, holder: str, seconds: float) -> bool:
        async def work(connection: asyncpg.Connection) -> bool:
            return bool(await connection.fetch(TAKE_LEASE, holder, seconds))

        return await self._transactions.run(work)

    async def count(self) -> tuple[int, bool]:
        rows = await self._transactions.fetch(FEEDS_UNCOUNTED)
        turns = sorted(rows, key=lambda row: (row[0] <= self._last, row[0]))
        events, complete = 0, len(turns) <= PAGES
        for tenant_id, *place in turns[:PAGES]:
            self._last = tenant_id
            before: _Place = (place[0], place[1], place[2])
            page = await self._transactions.fetch(EVENTS_TO_COUNT, tenant_id, *before, PAGE, PAGE_BYTES)
            if page:
                await self._count(tenant_id, before, page)
            events, complete = events + len(page), complete and (not page or page[0]["found"] == len(page))
        return events, complete

    async def _count(self, tenant_id: str, before: _Place, page: Sequence[Any]) -> None:
        through = _place(page[-1])
        events = await _counting(page)

        async def work(connection: asyncpg.Connection) -> None:
            # A tenant that moves away leaves no row behind.
            await connection.execute(LOCK_HOMES)
            if not await connection.fetchval(MOVE_PLACE, tenant_id, *before, *through):
                return  # another replica has counted these events
            found = await _figures(connection, tenant_id, events)
            remains = await connection.fetch(TAKE_REMAINS, tenant_id, *through)
            for place, rows in groupby(sorted(remains, key=_place), key=_place):
                if place > before:
                    found[place] = [_remainder(row) for row in rows]
            await _add(connection, tenant_id, found)

        await self._transactions.run(work)

    async def get_usage(self, scope: Scope, query: UsageQuery, *, after: Key | None, limit: int) -> UsagePage:
        # Read first: the counters have what was counted until then, and perhaps more.
        as_of_us: int = (await self._transactions.fetch(COUNTED_UNTIL, scope.tenant_id))[0][0]
        text, parameters = _sums(scope.tenant_id, query, after, limit)
        rows = await self._transactions.fetch(text, *parameters)
        found = [((row[0], row[1], row[2], row[3]), Figures(*row[4:])) for row in rows]
        return UsagePage(found[:limit], len(found) > limit, as_of_us)


async def keep_uncounted(connection: asyncpg.Connection, writes: Writes) -> None:
    """Keeps what counts of the events that a batch deletes, or does not write, before it does."""
    rows: list[tuple[Any, ...]] = []
    dropped: dict[tuple[str, str], list[EventRow]] = {}
    for event in writes.dropped:
        dropped.setdefault(event.key, []).append(event)
    for gone in writes.deletions:
        for commit_xid, seq, day, sums in await _uncounted(connection, gone):
            rows += _rows(gone, commit_xid, seq, day, sums)
        for event in dropped.pop(gone.key, ()):
            if event.type in COUNTED:
                sums = of_models(shares(event.type, event.head, event.body), {})
                rows += _rows(gone, None, event.seq, day_of(event.create_time_us), sums)
    if rows:
        await connection.execute(WRITE_REMAINS, *columns(rows, 8 + _FIGURES))


async def erase(connection: asyncpg.Connection, tenant_id: str, user_id: str) -> None:
    """Removes the counters of a user whose sessions are deleted. Those of the tenant as a whole stay."""
    await connection.execute(LOCK_PLACE, tenant_id)
    await connection.execute(FORGET_USER, tenant_id, user_id)
    await connection.execute(ERASE_USAGE, tenant_id, user_id)


async def _uncounted(connection: asyncpg.Connection, gone: Deletion) -> list[tuple[int, int, date, dict[str, Figures]]]:
    """(commit_xid, seq, day, figures by model) of the stored events of a session that are not counted yet."""
    found: list[tuple[int, int, date, dict[str, Figures]]] = []
    tenant_id, session_id = gone.key
    models: dict[str, str] = {}
    after_seq = 0
    while rows := await connection.fetch(FIND_UNCOUNTED, *gone.key, after_seq, PAGE, PAGE_BYTES):
        events = await _counting(rows)
        asked = {part.run_id for _, parts in events for part in parts if part.run_id} - models.keys()
        known = await _models(connection, tenant_id, [(session_id, run_id) for run_id in sorted(asked)])
        models |= {run_id: model for (_, run_id), model in known.items()}
        for row, parts in events:
            found.append((row["commit_xid"], row["seq"], day_of(row["create_time"]), of_models(parts, models)))
        after_seq = rows[-1]["seq"]
    return found


def _rows(
    gone: Deletion, commit_xid: int | None, seq: int, day: date, sums: dict[str, Figures]
) -> list[tuple[Any, ...]]:
    tenant_id, session_id = gone.key
    return [
        (tenant_id, commit_xid, session_id, seq, day, gone.user_id, gone.agent_id, model, *figures)
        for model, figures in sums.items()
    ]


def _remainder(row: Any) -> tuple[str | None, Group, Figures]:
    _, _, _, day, user_id, agent_id, model, *counters = row
    return user_id, Group(user_id or "", day, agent_id, model), Figures(*counters)


async def _counting(page: Sequence[Any]) -> list[tuple[Any, list[Share]]]:
    """The rows of a page that count, with what they count."""
    found = []
    for place, row in enumerate(page):
        if not place % _TURN:
            await asyncio.sleep(0)
        if row["type"] in COUNTED:
            found.append((row, list(shares(row["type"], row["head"] or b"", row["body"]))))
    return found


async def _figures(
    connection: asyncpg.Connection, tenant_id: str, events: Sequence[tuple[Any, Sequence[Share]]]
) -> _Found:
    """What events count, once the models of their runs are known."""
    asked = sorted({(row["session_id"], part.run_id) for row, parts in events for part in parts if part.run_id})
    models = await _models(connection, tenant_id, asked)
    found: _Found = {}
    for row, parts in events:
        session_id, user_id, agent_id = row["session_id"], row["user_id"] or "", row["agent_id"] or ""
        day = day_of(row["create_time"])
        found[_place(row)] = [
            (
                user_id,
                Group(user_id, day, agent_id, part.model or models.get((session_id, part.run_id), "")),
                part.figures,
            )
            for part in parts
        ]
    return found


async def _models(
    connection: asyncpg.Connection, tenant_id: str, asked: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], str]:
    """The models of runs, by session and run."""
    if not asked:
        return {}
    rows = await connection.fetch(RUNS_OF, tenant_id, *columns(asked, 2))
    return {asked[row["place"] - 1]: Run.FromString(row["body"]).model for row in rows}


async def _add(connection: asyncpg.Connection, tenant_id: str, found: _Found) -> None:
    of_users: dict[Group, Figures] = {}
    of_tenant: dict[Group, Figures] = {}
    for parts in found.values():
        for user_id, group, figures in parts:
            if user_id is None:
                _sum(of_tenant, group, figures)
            else:
                _sum(of_users, group, figures)
    for group, figures in of_users.items():
        _sum(of_tenant, group._replace(user_id=""), figures)
    if of_tenant:
        rows = [
            (by_user, *group, *sums[group])
            for by_user, sums in ((False, of_tenant), (True, of_users))
            for group in sorted(sums)
        ]
        await connection.execute(ADD_USAGE, tenant_id, *columns(rows, 5 + _FIGURES))


def _sum(sums: dict[Group, Figures], group: Group, figures: Figures) -> None:
    sums[group] = added(sums.get(group, NOTHING), figures)


def _place(row: Any) -> _Place:
    return row["commit_xid"], row["session_id"], row["seq"]


def _sums(tenant_id: str, query: UsageQuery, after: Key | None, limit: int) -> tuple[str, list[Any]]:
    """The statement for a page, and its parameters."""
    filters = tuple(name for name in ("user_id", "agent_id", "model") if getattr(query, name) is not None)
    parameters: list[Any] = [tenant_id, query.first_day, query.last_day, limit + 1]
    parameters += [getattr(query, name) for name in filters]
    if after is not None:
        parameters += [part for name, part in zip(Group._fields, after, strict=True) if name in query.by]
    return _text(query.by, filters, after is not None), parameters


@cache
def _text(by: frozenset[str], filters: tuple[str, ...], continued: bool) -> str:
    """Sums of counters. There are at most 2^8 such texts. Where users don't matter, the rows without users are read,
    which are few; else those of users, which the primary key has in the order of the answer."""
    names = [name for name in Group._fields if name in by]
    by_user = "user_id" in by or "user_id" in filters
    conditions = ["tenant_id = $1", "by_user" if by_user else "not by_user and user_id = ''", "day between $2 and $3"]
    conditions += [f"{name} = ${place}" for place, name in enumerate(filters, 5)]
    if continued:
        first = 5 + len(filters)
        values = ", ".join(f"${place}" for place in range(first, first + len(names)))
        conditions.append(f"({', '.join(names)}) > ({values})")
    empty = {"user_id": "''", "day": "null::date", "agent_id": "''", "model": "''"}
    keys = ", ".join(name if name in by else f"{empty[name]} as {name}" for name in Group._fields)
    sums = ", ".join(f"least(sum({name}), {MOST})::bigint as {name}" for name in Figures._fields)
    grouping = f"group by {', '.join(names)} order by {', '.join(names)}" if names else "having count(*) > 0"
    return f"select {keys}, {sums} from usage_counters where {' and '.join(conditions)} {grouping} limit $4"
