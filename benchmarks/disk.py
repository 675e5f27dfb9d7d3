"""Bytes on disk for a message of 500 bytes, indexes included, in a database of its own that has been vacuumed.

The index of searches has a row of its own, search_bytes."""

import asyncio
from pathlib import Path
from typing import Final
from uuid import uuid4

import asyncpg

from benchmarks.processes import Descendants
from benchmarks.site import Site, serving
from benchmarks.watching import Watched
from sessiond.v1.message_pb2 import Message, Part, Role
from sessiond.v1.message_service_pb2 import AppendMessagesRequest

NAME: Final = "bytes_per_message"
SESSIONS: Final = 64
APPENDS: Final = 32
"""To each session, the sessions in turn, as in a service that many use at once."""
MESSAGES: Final = 10
"""Of an append."""
MESSAGE_BYTES: Final = 500
TARGET: Final = 1300


def measure(dsn: str, folder: Path, postgres: Descendants) -> Watched:
    with serving(dsn, folder, postgres) as site:
        ids = site.fresh("bytes", SESSIONS)
        before = asyncio.run(_sizes(dsn))
        for _ in range(APPENDS):
            _append_to_each(site, ids)
        after = asyncio.run(_sizes(dsn))
    count = SESSIONS * APPENDS * MESSAGES
    grown = {name: (size - before.get(name, 0)) / count for name, size in after.items()}
    shown = {name: round(size) for name, size in sorted(grown.items(), key=lambda item: -item[1]) if size >= 1}
    return Watched(NAME, "a message of 500 bytes", sum(grown.values()), "bytes on disk", TARGET, False, figures=shown)


def message() -> Message:
    """A message that takes MESSAGE_BYTES as the caller sends it."""
    made = Message(role=Role.ROLE_USER, parts=[Part(text="x" * MESSAGE_BYTES)])
    made.parts[0].text = "x" * (2 * MESSAGE_BYTES - made.ByteSize())
    return made


def _append_to_each(site: Site, ids: list[str]) -> None:
    body = [message()] * MESSAGES
    calls = [
        site.messages.AppendMessages.future(
            AppendMessagesRequest(session_id=one, messages=body, request_id=str(uuid4())), timeout=60
        )
        for one in ids
    ]
    for call in calls:
        call.result()


async def _sizes(dsn: str) -> dict[str, int]:
    """Bytes of each table and index, once what updates have left behind is gone."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("vacuum")
        rows = await connection.fetch(
            "select relname, pg_relation_size(oid) from pg_class"
            " where relkind in ('r', 'i') and relnamespace = 'public'::regnamespace"
            " and not starts_with(relname, 'search_')"
        )
        return {row[0]: row[1] for row in rows}
    finally:
        await connection.close()
