"""The server killed with SIGKILL, again and again, while files are uploaded: every attachment is whole or not there,
what was acknowledged is there, and nothing is left of the rest."""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import sessiond
from sessiond.v1.attachment_pb2 import Attachment
from tests.support.replica import Replica
from tests.support.stored_files import Stored, reaped
from tests.support.waiting import PATIENCE

SESSIONS = 4
LARGEST = 3 * 1024 * 1024
_UNSURE = b""
"""In place of a checksum, while the attachment is being deleted."""
SHARED = 4
"""Contents that are uploaded again and again."""


@dataclass(slots=True)
class Report:
    faults: int
    acked: int = 0
    deleted: int = 0
    given_up: int = 0
    lost: int = 0
    """Acknowledged and not there, or not what was sent."""
    half: int = 0
    """There, and not whole."""
    risen: int = 0
    """Deleted, and there again."""
    miscounted: int = 0
    """Sessions whose counters are not what they hold."""
    leaked_rows: int = 0
    leaked_bytes: int = 0
    strays: int = 0
    seconds: float = 0.0

    @property
    def sound(self) -> bool:
        wrong = self.lost + self.half + self.risen + self.miscounted + abs(self.leaked_rows) + abs(self.leaked_bytes)
        return self.acked > 0 and wrong == 0

    def line(self) -> str:
        return (
            f"faults={self.faults} acked={self.acked} deleted={self.deleted} given_up={self.given_up} lost={self.lost} "
            f"half={self.half} risen={self.risen} miscounted={self.miscounted} leaked_rows={self.leaked_rows} "
            f"leaked_bytes={self.leaked_bytes} strays={self.strays} seconds={self.seconds:.1f}"
        )


@dataclass(slots=True)
class _Ledger:
    """What was acknowledged, by (session, attachment): the SHA-256; None once its deletion was."""

    files: dict[tuple[str, str], bytes | None] = field(default_factory=dict)
    given_up: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, key: tuple[str, str], digest: bytes | None) -> None:
        self.files[key] = digest
        self.changed.set()

    async def grown(self, by: int) -> None:
        """Returns when `by` more have been acknowledged."""
        wanted = len(self.files) + by
        while len(self.files) < wanted:
            self.changed.clear()
            await self.changed.wait()


async def campaign(
    postgres_dsn: str,
    log: Path,
    *,
    faults: int,
    seed: int,
    progress: Callable[[str], None],
    folder: Path | None = None,
    writers: int = 8,
    rate: float = 0.0,
) -> Report:
    """Kills the server `faults` times, at moments that `seed` chooses; `folder`: where the bytes lie, else in Postgres.
    `rate` is not looked at: files come as fast as they can."""
    chance, began = random.Random(seed), time.monotonic()
    environment = {} if folder is None else {"SESSIOND_BLOB_STORE": folder.as_uri()}
    replica, ledger, report = Replica(postgres_dsn, log, environment), _Ledger(), Report(faults)
    shared = [chance.randbytes(chance.randrange(1, LARGEST)) for _ in range(SHARED)]
    await replica.start()
    try:
        async with sessiond.Client(replica.address, timeout=20.0, wait_for_ready=True) as client:
            sessions = [(await client.create_session(timeout=60.0)).session_id for _ in range(SESSIONS)]
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(_write(client, sessions, shared, ledger, random.Random(f"{seed} {number}")))
                    for number in range(writers)
                ]
                for fault in range(1, faults + 1):
                    await ledger.grown(chance.randrange(1, 2 * writers))
                    await asyncio.sleep(chance.random() * 0.05)
                    await replica.kill()
                    await replica.start()
                    progress(f"{fault} of {faults} faults, {len(ledger.files)} attachments acknowledged")
                await ledger.grown(writers)
                for task in running:
                    task.cancel()
        # What the writers were at when they stopped must come to pass now, or never.
        await replica.kill()
        await replica.start()
        # What is judged is what is read, not how soon.
        async with sessiond.Client(replica.address, timeout=PATIENCE, wait_for_ready=True) as client:
            progress("reading every attachment")
            there = {
                (session_id, attachment.attachment_id): attachment
                for session_id in sessions
                async for attachment in client.list_attachments(session_id, page_size=100)
            }
            await _judge(client, ledger, there, report)
            for session_id in sessions:
                held = [attachment for (holder, _), attachment in there.items() if holder == session_id]
                session = await client.get_session(session_id, consistency="strong")
                counted = (session.attachment_count, session.attachment_bytes)
                report.miscounted += counted != (len(held), sum(attachment.size_bytes for attachment in held))
    finally:
        await replica.stop()
    _weigh(await reaped(postgres_dsn, folder), there, report)
    report.given_up = ledger.given_up
    report.seconds = time.monotonic() - began
    return report


async def _write(
    client: sessiond.Client, sessions: list[str], shared: list[bytes], ledger: _Ledger, chance: random.Random
) -> None:
    """Uploads one file after the other; gives some up on the way, and deletes some."""
    while True:
        session_id = chance.choice(sessions)
        content = chance.choice(shared) if chance.random() < 0.4 else chance.randbytes(chance.randrange(1, LARGEST))
        attachment_id = f"{chance.getrandbits(64):x}"
        uploading = client.upload(session_id, content, attachment_id=attachment_id, give_up_after=120.0)
        if chance.random() < 0.15:
            with suppress(TimeoutError):
                async with asyncio.timeout(chance.random() * 0.1):
                    await uploading
            ledger.given_up += 1
            continue
        await uploading
        key = (session_id, attachment_id)
        ledger.note(key, sha256(content).digest())
        if chance.random() < 0.2:
            ledger.note(key, _UNSURE)
            while ledger.files[key] is not None:
                with suppress(sessiond.Unavailable, sessiond.DeadlinePassed):
                    await client.delete_attachment(session_id, attachment_id, request_id=f"d-{attachment_id}")
                    ledger.note(key, None)


async def _judge(
    client: sessiond.Client, ledger: _Ledger, there: dict[tuple[str, str], Attachment], report: Report
) -> None:
    for key, digest in ledger.files.items():
        if digest is None:
            report.deleted += 1
            report.risen += key in there
        elif digest != _UNSURE:
            report.acked += 1
            report.lost += key not in there or there[key].sha256 != digest
    for (session_id, attachment_id), attachment in there.items():
        # The client compares the checksum itself, and so do we.
        data = await client.download(session_id, attachment_id).read()
        report.half += len(data) != attachment.size_bytes or sha256(data).digest() != attachment.sha256


def _weigh(stored: Stored, there: dict[tuple[str, str], Attachment], report: Report) -> None:
    """What is stored, against what must be."""
    contents = {attachment.sha256: attachment.size_bytes for attachment in there.values()}
    report.leaked_rows = stored.rows["blobs"] - len(contents) + stored.rows["uploads"] + stored.rows["releases"]
    report.leaked_bytes = stored.size_bytes - sum(contents.values())
    report.strays = stored.strays
