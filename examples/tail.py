"""Follows a session from its first event, and resumes at its position when it is started again.

    python examples/tail.py SESSION POSITION_FILE

Kill it at any moment, on any machine: with the same file it misses nothing. An event that was printed just before it
died may be printed again; `seq` tells which. The client handles cut connections, restarts and failovers of the service.
"""

import asyncio
import os
import sys
from contextlib import suppress

import sessiond

ADDRESS = os.environ.get("SESSIOND_ADDRESS", "127.0.0.1:50051")


async def main(session_id: str, file: str) -> None:
    async with (
        sessiond.Client(ADDRESS) as client,
        client.watch(session_id, store=sessiond.FilePositions(file), from_beginning=True) as watch,
    ):
        async for event in watch:
            what = sessiond.EventType.Name(event.type).removeprefix("EVENT_TYPE_").lower()
            print(event.seq, what, sessiond.text_of(event.message), flush=True)
            watch.ack()  # marks the event as processed; otherwise that happens when the next one is requested
    print("the session was deleted")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):  # Ctrl-C is how it is meant to end
        asyncio.run(main(*sys.argv[1:]))
