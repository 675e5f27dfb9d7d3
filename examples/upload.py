"""Attaches a file to a session and shows the progress.

    python examples/upload.py SESSION FILE

The client handles cut connections. If the program is killed, start it again: the upload resumes after the bytes that
the service has, because the attachment's id is the same.
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
    """Returns the same id for the same file."""
    return hashlib.sha256(f"{file.resolve()} {file.stat().st_mtime_ns}".encode()).hexdigest()[:32]


async def main(session_id: str, file: Path) -> None:
    async with sessiond.Client(ADDRESS) as client:
        attachment = await client.upload(session_id, file, attachment_id=id_of(file), progress=show)
        print(file=sys.stderr)
        print(f"attachment {attachment.attachment_id}: {attachment.media_type}, {attachment.size_bytes} bytes")
        # A message that refers to the attachment shows where it belongs.
        part = sessiond.Part(file=FilePart(uri=f"attachment:{attachment.attachment_id}", name=attachment.name))
        await client.append_messages(session_id, [sessiond.user(part)])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
