"""The write path: applies commands and writes their rows in one transaction. domain/rows.py describes the steps."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from itertools import groupby
from typing import Any

import asyncpg

from sessiond_server.domain import batch, replay
from sessiond_server.domain.commands import Command, CreateSession, ForkSession, Result
from sessiond_server.domain.messages import titles
from sessiond_server.domain.messages.rules import APPENDED
from sessiond_server.domain.rows import (
    AppendedMessage,
    EventRow,
    FoundMessages,
    Head,
    HeadRow,
    IndexRow,
    Key,
    Known,
    Needs,
    Policy,
    Replay,
    RequestRecord,
    StoredEvent,
    Title,
    Writes,
)
from sessiond_server.domain.sessions.content import whole
from sessiond_server.encryption import rows as sealed_rows
from sessiond_server.errors import StoreUnavailable
from sessiond_server.postgres import documents, file_rows, forks, placement, retention, search_index, usage, work
from sessiond_server.postgres.columns import columns, flat
from sessiond_server.postgres.database_clock import DatabaseClock
from sessiond_server.postgres.statements import FORKS, WRITE
from sessiond_server.postgres.transactions import Raced
from sessiond_server.store.commits import Applied
from sessiond_server.store.homes import Homes

LOCK_HEADS = WRITE["lock_heads"].text
LOCK_FREE_HEADS = WRITE["lock_free_heads"].text
PRESENT_HEADS = WRITE["present_heads"].text
LOCK_TENANTS = WRITE["lock_tenants"].text
COUNT_LIVE = WRITE["count_live"].text
LOOK_UP = WRITE["look_up"].text
FIND_MESSAGES = WRITE["find_messages"].text
FIND_TO_DELETE = WRITE["find_to_delete"].text
FIND_REPEATING = WRITE["find_repeating"].text
WRITE_REPEATING = WRITE["write_repeating"].text
FIND_ANSWERS = WRITE["find_answers"].text
FIND_CONTENTS = WRITE["find_contents"].text
FIND_SESSION_CONTENTS = WRITE["find_session_contents"].text
FIND_REPLAYED = WRITE["find_replayed"].text
WRITE_SESSIONS = WRITE["write_sessions"].text
WRITE_LOG = WRITE["write_log"].text
WRITE_REMOVALS = WRITE["write_removals"].text
WRITE_MARKS = WRITE["write_marks"].text
REMOVE_MARKS = WRITE["remove_marks"].text
WRITE_REDACTIONS = WRITE["write_redactions"].text
WRITE_DELETIONS = WRITE["write_deletions"].text
FIND_INHERITED_CONTENTS = FORKS["find_inherited_contents"].text


REPEATING_AT_ONCE = 1000

HeadKey = tuple[str, str, str]
"""(tenant_id, session_id, user_id) of a head that a command needs; the empty user id matches any user."""


def head_key(command: Command) -> HeadKey:
    """The head that the command needs. For a creation any user matches: an id is taken whoever owns it."""
    user_id = "" if isinstance(command.action, CreateSession | ForkSession) else command.scope.user_id
    return (*command.key, user_id)


async def lock_heads(connection: asyncpg.Connection, commands: Iterable[Command]) -> dict[Key, Head]:
    """Locks and reads the heads of the commands' sessions, in the order that all writers use."""
    head_keys = _head_keys(commands)
    if not head_keys:
        return {}
    rows = await connection.fetch(LOCK_HEADS, *columns(head_keys, 3))
    return {head_keys[row[0] - 1][:2]: head(row, 1) for row in rows}


async def lock_free_heads(
    connection: asyncpg.Connection, commands: Iterable[Command]
) -> tuple[dict[Key, Head], set[HeadKey]]:
    """As `lock_heads`, but skips heads that another transaction has locked. Returns (locked heads, skipped ones)."""
    head_keys = _head_keys(commands)
    rows = await connection.fetch(LOCK_FREE_HEADS, *columns(head_keys, 3))
    present = await connection.fetch(PRESENT_HEADS, *columns(head_keys, 3))
    free = {head_keys[row[0] - 1] for row in rows}
    return {head_keys[row[0] - 1][:2]: head(row, 1) for row in rows}, {head_keys[row[0] - 1] for row in present} - free


def _head_keys(commands: Iterable[Command]) -> list[HeadKey]:
    return sorted({key for command in commands if command.session_id for key in head_keys(command)})


def head_keys(command: Command) -> tuple[HeadKey, ...]:
    """The heads that the command needs: its own, and that of the session which it forks."""
    own = head_key(command)
    if not isinstance(command.action, ForkSession):
        return (own,)
    return own, (command.scope.tenant_id, command.action.parent_id, command.scope.user_id)


def head(row: Sequence[Any], start: int) -> Head:
    """A Head from version, user_id, core, limits, content_version, deleted, lease_expire_time, content_sizes, fork_seq,
    forked."""
    return Head(*row[start : start + 10])


async def apply(
    connection: asyncpg.Connection,
    commands: Sequence[Command],
    heads: Mapping[Key, Head],
    policy: Policy,
    new_id: Callable[[], str],
    homes: Homes | None = None,
    clock: DatabaseClock | None = None,
) -> Applied:
    """Decides the commands and writes their effects, within the transaction that holds the locks of `heads`.

    With `homes`, refuses the commands of tenants that live in another database. `clock` notes the database's time.
    Raises Raced if another transaction has created a session since the heads were locked.
    """
    known = await look_up(connection, batch.needs(commands, heads, policy), clock)
    if homes is not None:
        if homes.version != known.homes_version:
            await placement.load(connection.fetch, homes)
        if homes.any and (strangers := homes.elsewhere(command.scope.tenant_id for command in commands)):
            return await _without(strangers, connection, commands, heads, policy, new_id)
    decision = batch.decide(commands, heads, known, policy, new_id)
    replays = {place: r for place, r in enumerate(decision.results) if isinstance(r, Replay)}
    outcomes: dict[int, Result] = {}
    if replays:
        # Outcomes are rebuilt before anything is written: a deletion later in the batch may remove their events.
        outcomes = await _replayed(connection, commands, replays)
    if decision.writes.deletions:
        await usage.keep_uncounted(connection, decision.writes)
    for gone in decision.writes.deletions:
        if gone.branched:
            await forks.end(connection, gone, forks.HIDDEN + new_id())
    await _write(connection, decision.writes, heads, known.now_us)
    results = [r if not isinstance(r, Replay) else outcomes[place] for place, r in enumerate(decision.results)]
    return Applied(results, decision.writes)


async def _without(
    strangers: Set[str],
    connection: asyncpg.Connection,
    commands: Sequence[Command],
    heads: Mapping[Key, Head],
    policy: Policy,
    new_id: Callable[[], str],
) -> Applied:
    """Applies the commands of all other tenants, and refuses those of the strangers."""
    mine = [command for command in commands if command.scope.tenant_id not in strangers]
    applied = await apply(connection, mine, heads, policy, new_id) if mine else Applied((), Writes())
    answers = iter(applied.results)
    results: list[Result] = [
        StoreUnavailable(elsewhere=True) if command.scope.tenant_id in strangers else next(answers)
        for command in commands
    ]
    return Applied(results, applied.writes)


async def look_up(connection: asyncpg.Connection, needs: Needs, clock: DatabaseClock | None = None) -> Known:
    """What the rules need, and the database's time, both read after the locks were taken; `clock` notes it."""
    live: dict[str, int] = {}
    if needs.tenants:
        # The count is a second statement, so that it sees what earlier holders of these locks have committed.
        await connection.fetch(LOCK_TENANTS, needs.tenants)
        live = {needs.tenants[row[0] - 1]: row[1] for row in await connection.fetch(COUNT_LIVE, needs.tenants)}
    await forks.lock(connection, needs)
    known = Known(now_us=0, live_sessions=live)
    if needs.holds:
        await retention.look_up(connection, needs, known)
    asked = (*columns(flat(needs.requests), 3), *columns(flat(needs.message_ids), 3))
    keys = documents.keys(needs)
    asked_at = 0.0 if clock is None else clock.clock()
    if keys or needs.contents:
        rows = await connection.fetch(
            documents.LOOK_UP_ALL, *columns(keys, 4), *asked, *columns(flat(needs.contents), 3)
        )
    else:
        rows = await connection.fetch(LOOK_UP, *asked)
    for row in rows:
        kind, place, now_us, fingerprint, first_seq, last_seq = row[:6]
        if kind == 0:
            known.now_us, known.homes_version = now_us, first_seq
            if clock is not None:
                clock.note(asked_at, now_us)
        elif kind == 1:
            known.requests[needs.requests[place - 1]] = RequestRecord(fingerprint, first_seq, last_seq)
        elif kind == documents.DOCUMENT:
            known.documents[keys[place - 1]] = documents.record(row)
        elif kind == documents.CONTENT:
            known.contents[needs.contents[place - 1][0]] = whole(row[10])
        else:
            known.message_ids.add(needs.message_ids[place - 1])
    if needs.messages:
        for place, seq, event_head, body in await connection.fetch(FIND_MESSAGES, *columns(flat(needs.messages), 3)):
            known.messages[needs.messages[place - 1]] = AppendedMessage(seq, event_head, body)
    await _find_to_delete(connection, needs, known)
    await forks.look_up(connection, needs, known)
    if needs.holds and needs.messages:
        await retention.look_up_messages(connection, needs, known)
    await work.look_up(connection, needs, known)
    await file_rows.look_up(connection, needs, known)
    if needs.document_requests:
        await documents.look_up_requests(connection, needs.document_requests, known)
    return known


async def _find_to_delete(connection: asyncpg.Connection, needs: Needs, known: Known) -> None:
    """Adds the messages that deletions select."""
    newest, ranges, named = list(needs.newest), list(needs.ranges), list(needs.named)
    if not newest and not ranges and not named:
        return
    found: dict[tuple[int, int], list[AppendedMessage]] = {}
    totals: dict[tuple[int, int], int] = {}
    rows = await connection.fetch(
        FIND_TO_DELETE,
        *columns(((*key, *needs.newest[key]) for key in newest), 4),
        *columns(((*place[0], *place[1:], *needs.ranges[place]) for place in ranges), 6),
        *columns(
            (
                (*name[0], message_id, number, needs.named[name])
                for number, name in enumerate(named, 1)
                for message_id in name[1]
            ),
            5,
        ),
    )
    for kind, number, seq, event_head, body, total in rows:
        found.setdefault((kind, number), []).append(AppendedMessage(seq, event_head, body))
        totals[(kind, number)] = total

    def of(kind: int, number: int) -> FoundMessages:
        messages = found.get((kind, number), [])
        return FoundMessages(messages, complete=len(messages) == totals.get((kind, number), 0))

    known.newest.update((key, of(1, number)) for number, key in enumerate(newest, 1))
    known.ranges.update((place, of(2, number)) for number, place in enumerate(ranges, 1))
    known.named.update((name, of(3, number)) for number, name in enumerate(named, 1))


async def _replayed(
    connection: asyncpg.Connection, commands: Sequence[Command], replays: Mapping[int, Replay]
) -> dict[int, Result]:
    """The first outcomes of commands that are retries, by their place in the batch."""
    places = list(replays)
    asked = [(*replays[place].key, replays[place].first_seq, replays[place].last_seq) for place in places]
    found: dict[int, list[StoredEvent]] = {}
    rows = await connection.fetch(FIND_REPLAYED, *columns(asked, 4))
    for index, group in groupby(rows, key=lambda row: row[0]):
        found[places[index - 1]] = [StoredEvent(*row[1:]) for row in group]
    contents: dict[int, dict[int, bytes]] = {place: {} for place in places}
    versions = {place: replay.session_content(commands[place].action, events) for place, events in found.items()}
    asked_sessions = [(place, version) for place, version in versions.items() if version]
    if asked_sessions:
        keys = ((*replays[place].key, version) for place, version in asked_sessions)
        for index, chain in await connection.fetch(FIND_SESSION_CONTENTS, *columns(keys, 3)):
            place, version = asked_sessions[index - 1]
            contents[place][version] = whole(chain)
    wanted = [(place, seq) for place, events in found.items() for seq in replay.tool_call_contents(events)]
    if wanted:
        keys = ((*replays[place].key, seq) for place, seq in wanted)
        own = await connection.fetch(FIND_CONTENTS, *columns(keys, 3))
        if len(own) < len(wanted):
            # A fork shares some of the events.
            keys = ((*replays[place].key, seq) for place, seq in wanted)
            own = await connection.fetch(FIND_INHERITED_CONTENTS, *columns(keys, 3))
        for index, content in own:
            place, seq = wanted[index - 1]
            contents[place][seq] = content or b""
    answers: dict[int, bytes] = {}
    keeping = [place for place in places if replay.keeps_answer(commands[place].action)]
    if keeping:
        requests = ((*replays[place].key, commands[place].request_id) for place in keeping)
        for index, answer in await connection.fetch(FIND_ANSWERS, *columns(requests, 3)):
            answers[keeping[index - 1]] = answer
    return {
        place: replay.outcome(commands[place].action, found[place], contents[place], answers.get(place, b""))
        for place in places
    }


async def _write(connection: asyncpg.Connection, writes: Writes, heads: Mapping[Key, Head], now_us: int) -> None:
    keyring = connection.keyring
    if keyring is not None and keyring.seals:
        await keyring.refusals({row.key[0] for row in writes.heads})  # has done its work, but for the sweeper
        writes = sealed_rows.sealed(writes, heads, keyring)
    if writes.deletions:
        await connection.fetch(
            WRITE_DELETIONS,
            *columns(((*gone.key, gone.version, gone.base_version, gone.kept_seq) for gone in writes.deletions), 5),
        )
    created = sorted((row for row in writes.heads if row.created), key=lambda row: row.key)
    changed = [row for row in writes.heads if not row.created]
    if created or writes.index:
        index = sorted(writes.index, key=lambda row: row.key)
        inserted = await connection.fetchval(
            WRITE_SESSIONS,
            *columns((_head_columns(row, None) for row in created), 12),
            *columns(map(_index_columns, index), 13),
        )
        if inserted != len(created):
            raise Raced
    if writes.removals:
        await connection.fetch(
            WRITE_REMOVALS, *columns(((*key, m.seq, m.head, m.body) for key, m in writes.removals), 5)
        )
    # A deletion makes documents tombstones that a later command of the batch may have written anew.
    documents_last = not writes.events or bool(writes.deletions)
    has_documents = bool(writes.documents or writes.document_requests)
    if writes.events:
        log = (
            *columns((_head_columns(row, heads[row.key]) for row in changed), 12),
            *columns(
                (
                    (*e.key, e.seq, stored_type(e), e.create_time_us, e.message_id, e.head, e.body, e.content, e.core)
                    for e in writes.events
                ),
                10,
            ),
        )
        requests = columns(
            (
                (
                    *r.key,
                    r.request_id,
                    r.record.fingerprint,
                    r.record.first_seq,
                    r.record.last_seq,
                    r.record.answer or None,
                )
                for r in writes.requests
            ),
            7,
        )
        if documents_last or not has_documents:
            await connection.fetch(WRITE_LOG, *log, now_us, *requests)
        else:
            parameters = documents.row_columns(writes, now_us)
            written = await connection.fetchval(documents.WRITE_LOG_AND_DOCUMENTS, *parameters, *log, *requests)
            documents.check(writes, written)
    if writes.marks:
        await connection.fetch(WRITE_MARKS, *columns(((*key, mark, seq) for key, mark, seq in writes.marks), 4))
    if writes.unmarks:
        await connection.fetch(REMOVE_MARKS, *columns(((*key, mark, seq) for key, mark, seq in writes.unmarks), 4))
    if writes.redactions:
        await connection.fetch(
            WRITE_REDACTIONS, *columns(((*key, m.seq, m.head, m.body) for key, m in writes.stored_redactions()), 5)
        )
    if writes.deletions or writes.removals or writes.redactions or writes.titles:
        await search_index.unsearch(connection, writes)
    for title in writes.titles:
        await _remove_title(connection, title)
    await work.write(connection, writes)
    await file_rows.write(connection, writes)
    await forks.write(connection, writes)
    if has_documents and documents_last:
        await documents.write(connection, writes, now_us)


async def _remove_title(connection: asyncpg.Connection, title: Title) -> None:
    """Removes the name from the events that repeat it, so many at a time."""
    if title.inherited:
        for part in await forks.segments(connection, title.key):
            if part.last_seq > title.seq:
                first = max(title.seq, part.first_seq - 1)
                await _remove_name(connection, (title.key[0], part.log_id), title, first, part.last_seq)
    await _remove_name(connection, title.key, title, title.seq, title.last_seq)


async def _remove_name(connection: asyncpg.Connection, log: Key, title: Title, after_seq: int, last_seq: int) -> None:
    more = True
    while more:
        # Of what is encrypted, Postgres cannot tell whether it has the name.
        name = b"" if connection.keyring is not None else title.name.encode()
        found = await connection.fetch(FIND_REPEATING, *log, after_seq, last_seq, name, REPEATING_AT_ONCE)
        rows = [
            (*log, seq, *(None if core is None else titles.without(title, core) for core in (body, core)))
            for seq, body, core in found
        ]
        if found:
            await connection.fetch(WRITE_REPEATING, *columns(sealed_rows.repeating(connection.keyring, rows), 5))
            after_seq = found[-1][0]
        more = len(found) == REPEATING_AT_ONCE


async def create_session(connection: asyncpg.Connection, head: HeadRow, index: IndexRow) -> bool:
    """Inserts the head and the index row of a session; False, inserting nothing, if the id is taken."""
    keyring = connection.keyring
    if keyring is not None and keyring.seals:
        key, tokens = keyring.key(head.key[0]), keyring.tokens(head.key[0])
        head, index = sealed_rows.head_row(key, head), sealed_rows.index_row(tokens, index)
    created: int = await connection.fetchval(
        WRITE_SESSIONS, *columns([_head_columns(head, None)], 12), *columns([_index_columns(index)], 13)
    )
    return created == 1


def stored_type(event: EventRow) -> int:
    """The column `type`: negative for an event whose message was deleted, so that no index of messages has it."""
    return -APPENDED if event.type == APPENDED and event.message_id is None else event.type


def _head_columns(row: HeadRow, before: Head | None) -> tuple[Any, ...]:
    after = row.head
    return (
        *row.key,
        after.version,
        after.content_version,
        row.update_time_us,
        row.expire_time_us,
        row.delete_time_us,
        after.user_id,
        after.core,
        # None keeps the stored limits and saves rewriting them, out of line if they are large.
        None if before is not None and before.limits == after.limits else after.limits,
        after.lease_expire_us,
        after.content_sizes,
    )


def _index_columns(row: IndexRow) -> tuple[Any, ...]:
    return (
        *row.key,
        row.type,
        row.status,
        row.create_time_us,
        row.agent_id,
        row.team_id,
        row.workflow_id,
        row.user_id,
        row.name,
        row.name.casefold(),
        json.dumps(row.labels, ensure_ascii=False),
        row.metadata_json,
    )
