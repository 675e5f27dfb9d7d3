"""Writes every event of every session into a database of its own, each exactly once.

    python examples/audit.py audit.sqlite

The events and the position after them are stored in one transaction. So the program can be stopped or killed at any
moment: after a restart it continues with the event after the last stored one.
"""

import asyncio
import os
import sqlite3
import sys
from contextlib import suppress

import sessiond

ADDRESS = os.environ.get("SESSIOND_ADDRESS", "127.0.0.1:50051")
SCHEMA = """
create table if not exists audit (event_id text primary key, at text, session_id text, seq integer, what text);
create table if not exists place (id integer primary key check (id = 1), position text);
"""


def row(event: sessiond.Event) -> tuple[str, str, str, int, str]:
    what = sessiond.EventType.Name(event.type).removeprefix("EVENT_TYPE_").lower()
    return event.event_id, event.create_time.ToJsonString(), event.session_id, event.seq, what


async def main(path: str) -> None:
    database = sqlite3.connect(path)
    database.executescript(SCHEMA)
    (position,) = database.execute("select position from place").fetchone() or (None,)
    async with (
        sessiond.Client(ADDRESS) as client,
        client.watch_events(position=position, from_beginning=position is None) as feed,
    ):
        async for frame in feed.frames():
            with database:  # one transaction
                if isinstance(frame, sessiond.EventBatch):
                    database.executemany("insert into audit values (?, ?, ?, ?, ?)", map(row, frame.events))
                    print(f"{len(frame.events)} events", flush=True)
                database.execute("insert or replace into place values (1, ?)", (frame.position,))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):  # Ctrl-C is how it is meant to end
        asyncio.run(main(*sys.argv[1:]))
