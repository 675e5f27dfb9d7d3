"""The rows of attachments: the throughput of one process beside that of plain streams of the same bytes and that of the
storage alone, and the memory of many transfers.

The client is the load generator, in Go: the server verifies uploads, and downloads are not verified. Every upload has
new content, so that none is deduplicated; the disk is used as it is.
"""

import base64
import hashlib
import os
import statistics
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks import storage
from benchmarks.load import Load
from benchmarks.processes import Descendants, first_line, resident_bytes, running
from benchmarks.site import Site, serving
from benchmarks.watching import Watched
from sessiond.v1.attachment_service_pb2 import DownloadAttachmentRequest, UploadAttachmentRequest, UploadHeader

MIB: Final = 1024 * 1024
CHUNK: Final = 256 * 1024
STREAMS: Final = 4
STREAM_BYTES: Final = 64 * MIB
"""Of each of the streams whose speed is measured."""
MANY: Final = 20
MANY_BYTES: Final = 200 * MIB
"""Of each of those whose memory is."""
LEAST: Final = {"postgres": 0.5, "local": 0.7}
"""Ratio to plain streams, by the issue."""
MOST_MEMORY: Final = 64.0
"""MiB, by the issue."""
PATIENCE: Final = 900.0

UPLOAD: Final = "/sessiond.v1.AttachmentService/UploadAttachment"
DOWNLOAD: Final = "/sessiond.v1.AttachmentService/DownloadAttachment"
NAMES: Final = ("upload_postgres", "download_postgres", "upload_local", "download_local", "transfer_memory")


@dataclass(frozen=True, slots=True)
class File:
    """A file that was, or is to be, uploaded."""

    session_id: str
    attachment_id: str
    size: int


def upload_plan(files: Sequence[File]) -> dict[str, Any]:
    """New contents: random at their beginning."""
    block = os.urandom(CHUNK)
    others = UploadAttachmentRequest(chunk=block).SerializeToString()
    moves = []
    for file in files:
        first, count = os.urandom(CHUNK), file.size // CHUNK - 1
        digest = hashlib.sha256(first)
        for _ in range(count):
            digest.update(block)
        header = UploadHeader(
            session_id=file.session_id,
            attachment_id=file.attachment_id,
            size_bytes=(count + 1) * CHUNK,
            sha256=digest.digest(),
        )
        moves.append(
            {
                "first": _text(UploadAttachmentRequest(header=header).SerializeToString()),
                "second": _text(UploadAttachmentRequest(chunk=first).SerializeToString()),
                "others": _text(others),
                "count": count,
            }
        )
    return {"method": UPLOAD, "upload": True, "files": moves, "patience": PATIENCE}


def download_plan(files: Sequence[File]) -> dict[str, Any]:
    requests = [DownloadAttachmentRequest(session_id=f.session_id, attachment_id=f.attachment_id) for f in files]
    moves = [{"first": _text(request.SerializeToString())} for request in requests]
    return {"method": DOWNLOAD, "upload": False, "files": moves, "patience": PATIENCE}


def _text(message: bytes) -> str:
    return base64.b64encode(message).decode()


def moved(load: Load, port: int, plan: dict[str, Any], watched: Sequence[Descendants]) -> tuple[float, Sequence[float]]:
    """(MiB per second, CPU seconds for each GiB of those watched and of the load). Raises RuntimeError on a failure."""
    report, used = load.run("transfer", {**plan, "target": f"127.0.0.1:{port}"}, watched)
    if not report or report["first_error"]:
        raise RuntimeError(f"a transfer failed: {report}")
    return report["bytes"] / MIB / report["seconds"], [one / report["bytes"] * 1024 * MIB for one in used]


def warmed(scratch: Path, size: int) -> None:
    """Makes the machine give as much memory to its cache of files as is about to be written. A virtual machine gets it
    from its host, page by page, when it is first touched, which takes longer than all that is measured here."""
    path, block = scratch / "warm", bytes(MIB)
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(block)
    path.unlink()


def throughput(
    names: Sequence[str],
    where: str,
    site: Site,
    load: Load,
    rounds: int,
    folder: Path,
    scratch: Path,
    place: str,
    size: int = STREAM_BYTES,
) -> Iterator[Watched]:
    """The rows `upload_...` and `download_...` of one storage, those of `names`: plain streams and ours by turns.

    `place`: of the storage, which is measured alone at the end, for Postgres tidies up behind what is removed.
    """
    (session_id,) = site.fresh("files", 1)
    measured: dict[str, _Turns] = {}
    with running([sys.executable, "-m", "benchmarks.discard", str(size)], log=folder / "discard.log") as process:
        port, plain_process = int(first_line(process)), [Descendants(process.pid)]
        for direction in ("upload", "download"):
            if f"{direction}_{where}" not in names:
                continue
            turns = measured[direction] = _Turns()
            for number in range(rounds):
                files = [File(session_id, f"{direction}-{number}-{stream}", size) for stream in range(STREAMS)]
                plan = upload_plan(files)
                if direction == "download":
                    moved(load, site.port, plan, [])
                    plan = download_plan(files)
                warmed(scratch, 3 * STREAMS * size)
                turns.plain.append(moved(load, port, plan, plain_process)[0])
                rate, cpu = moved(load, site.port, plan, [site.server, *([site.postgres] if site.postgres else [])])
                turns.ours.append(rate)
                turns.used.append(cpu)
    alone: dict[str, list[float]] = {"upload": [], "download": []}
    for _ in range(rounds):
        warmed(scratch, 3 * STREAMS * size)
        for direction, rate in storage.alone(place, STREAMS, size).items():
            alone[direction].append(rate)
    for direction, turns in measured.items():
        yield Watched(
            f"{direction}_{where}",
            f"{direction.capitalize()}, {where}",
            statistics.median(one / other for one, other in zip(turns.ours, turns.plain, strict=True)),
            "of plain streams",
            LEAST[where],
            at_least=True,
            rounds=rounds,
            figures={
                "MiB_per_s": statistics.median(turns.ours),
                "plain_MiB_per_s": statistics.median(turns.plain),
                "storage_alone_MiB_per_s": statistics.median(alone[direction]),
                "server_cpu_s_per_GiB": statistics.median(cpu[0] for cpu in turns.used),
                "postgres_cpu_s_per_GiB": statistics.median(cpu[1] for cpu in turns.used) if site.postgres else 0.0,
            },
        )


@dataclass(frozen=True, slots=True)
class _Turns:
    """What the rounds found: MiB per second, and the CPU of ours as `moved` gives it."""

    ours: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    used: list[Sequence[float]] = field(default_factory=list)


def memory(site: Site, load: Load, transfers: int = MANY, size: int = MANY_BYTES) -> Watched:
    """What many transfers at once add to the server's memory."""
    (session_id,) = site.fresh("many", 1)
    # The memory that the first transfer of a process takes once is not counted.
    warm = [File(session_id, "warm", CHUNK)]
    moved(load, site.port, upload_plan(warm), [site.server])
    moved(load, site.port, download_plan(warm), [site.server])
    files = [File(session_id, f"many-{number}", size) for number in range(transfers)]
    plans = {"upload": upload_plan(files), "download": download_plan(files)}
    rises = {}
    for name, plan in plans.items():
        with peak(site.server) as risen:
            moved(load, site.port, plan, [site.server])
        rises[name] = risen() / MIB
    return Watched(
        "transfer_memory",
        f"Memory of {transfers} transfers of {size // MIB} MiB",
        max(rises.values()),
        "MiB",
        MOST_MEMORY,
        at_least=False,
        figures={"uploads_MiB": rises["upload"], "downloads_MiB": rises["download"]},
    )


@contextmanager
def peak(process: Descendants) -> Iterator[Callable[[], int]]:
    """Looks at a process's memory while the context is open; gives how much it has risen at most, in bytes."""
    before = most = resident_bytes(process.pid)
    over = threading.Event()

    def look() -> None:
        nonlocal most
        while not over.wait(0.01):
            most = max(most, resident_bytes(process.pid))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield lambda: most - before
    finally:
        over.set()
        looking.join()


def measure_all(
    names: Sequence[str],
    dsn: str,
    folder: Path,
    scratch: Path,
    postgres: Descendants,
    load: Load,
    rounds: int,
    say: Callable[[str], None],
) -> list[Watched]:
    """The rows of `names`, each storage with a server of its own; `scratch`: where the local folder may be."""
    found: list[Watched] = []
    local = scratch / "blobs"
    # Postgres comes last, and its many transfers after all else, because its autovacuum runs on for a while.
    storages: Sequence[tuple[str, str, Mapping[str, str]]] = (
        ("local", str(local), {"SESSIOND_BLOB_STORE": local.as_uri()}),
        ("postgres", dsn, {}),
    )
    for where, place, environment in storages:
        here = [name for name in names if name.endswith(where)]
        alone = "transfer_memory" in names and where == "postgres"
        if not here and not alone:
            continue
        say(", ".join([*here, *(["transfer_memory"] if alone else [])]))
        with serving(dsn, folder, postgres, environment={**_UNBOUNDED, **environment}) as site:
            found += throughput(here, where, site, load, rounds, folder, scratch, place) if here else ()
            if alone:
                found.append(memory(site, load))
    return sorted(found, key=lambda row: NAMES.index(row.name))


_UNBOUNDED: Final = {"SESSIOND_MAX_SESSION_ATTACHMENTS_SIZE": "0"}
