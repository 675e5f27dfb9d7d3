"""The part of the write path for runs and tool calls: look-ups and writes of a batch."""

import asyncpg

from sessiond_server.domain.rows import Known, Needs, OpenWork, StoredToolCall, Writes
from sessiond_server.postgres.columns import columns, flat
from sessiond_server.postgres.statements import WORK

FIND_RUNS = WORK["find_runs"].text
FIND_TOOL_CALLS = WORK["find_tool_calls"].text
FIND_WORK = WORK["find_work"].text
WRITE_WORK = WORK["write_work"].text
WRITE_LEASES = WORK["write_leases"].text

_RUN, _CALL = 1, 2
"""Kinds of rows of FIND_WORK; all other rows are run counters."""


async def look_up(connection: asyncpg.Connection, needs: Needs, known: Known) -> None:
    """Adds what the rules need to `known`. Executes no statement if they need nothing."""
    if needs.runs:
        for place, body in await connection.fetch(FIND_RUNS, *columns(flat(needs.runs), 3)):
            known.runs[needs.runs[place - 1]] = body
    if needs.tool_calls:
        for place, body, arguments, result in await connection.fetch(
            FIND_TOOL_CALLS, *columns(flat(needs.tool_calls), 3)
        ):
            call = StoredToolCall(body, arguments or b"", result or b"")
            known.tool_calls[needs.tool_calls[place - 1]] = call
    if needs.work:
        known.work = {key: OpenWork() for key in needs.work}
        for kind, place, data in await connection.fetch(FIND_WORK, *columns(needs.work, 2)):
            work = known.work[needs.work[place - 1]]
            if kind == _RUN:
                work.runs.append(data)
            elif kind == _CALL:
                work.tool_calls.append(data)
            else:
                work.run_counters = data


async def write(connection: asyncpg.Connection, writes: Writes) -> None:
    """Writes runs, tool calls, run counters and leases. Executes no statement if there are none."""
    if writes.runs or writes.tool_calls or writes.run_counters:
        runs = ((*run.key, run.run_id, run.place, run.status, run.body) for run in writes.runs)
        calls = (
            (
                *call.key,
                call.tool_call_id,
                call.seq,
                call.status,
                call.awaits_approval,
                call.create_time_us,
                call.expire_time_us,
                call.result_seq,
                call.run_id,
                call.user_id,
                call.body,
                call.inherited,
            )
            for call in writes.tool_calls
        )
        await connection.fetch(
            WRITE_WORK, *columns(runs, 6), *columns(calls, 13), *columns(flat(writes.run_counters), 3)
        )
    if writes.leases:
        await connection.fetch(WRITE_LEASES, *columns(flat(writes.leases), 3))
