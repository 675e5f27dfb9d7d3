"""Attaches a file to a session, and shows how far it is.

    python examples/upload.py SESSION FILE

Cut connections are dealt with by the client. Should the program be killed, start it again: it goes on behind the bytes
that the service has, since the attachment's id is the same.
"""

import asyncio
import hashlib
import os
import sys
from pathlib import Path

import sessiond
from sessiond.v1.message_pb2 import FilePart

ADDRESS = os.environ.get("SESSIOND_ADDRESS", "127.0.0.1:50051")


def show(done: int, total: int) -> None:
    print(f"\r{100 * done // total:>3} % of {total:,} bytes", end="", file=sys.stderr, flush=True)


def id_of(file: Path) -> str:
    """The same each time, as long as the file is the same."""
    return hashlib.sha256(f"{file.resolve()} {file.stat().st_mtime_ns}".encode()).hexdigest()[:32]


async def main(session_id: str, file: Path) -> None:
    async with sessiond.Client(ADDRESS) as client:
        attachment = await client.upload(session_id, file, attachment_id=id_of(file), progress=show)
        print(file=sys.stderr)
        print(f"attachment {attachment.attachment_id}: {attachment.media_type}, {attachment.size_bytes} bytes")
        # A message can refer to it; then people see where it belongs.
        part = sessiond.Part(file=FilePart(uri=f"attachment:{attachment.attachment_id}", name=attachment.name))
        await client.append_messages(session_id, [sessiond.user(part)])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
