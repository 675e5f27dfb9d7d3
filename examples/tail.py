"""Follows a session from its first event, and goes on where it was when it is started again.

    python examples/tail.py SESSION POSITION_FILE

Kill it at any moment, on any machine: with the same file it misses nothing. An event that was printed just before it
died may be printed again; `seq` tells which. Cuts, restarts and failovers of the service are dealt with by the client.
"""

import asyncio
import os
import sys

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
            watch.ack()  # it is dealt with; without this, that counts only when the next one is asked for
    print("the session was deleted")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
