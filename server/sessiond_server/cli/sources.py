"""`sessiond import KIND SOURCE`: sessions of another system, through the running service (docs/moving.md)."""

import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import sessiond
from sessiond.export_lines import line_of
from sessiond_server.cli.transfer import Progress, Service, import_files
from sessiond_server.domain.imports.log import Broken, ImportedLog, checked_header
from sessiond_server.domain.imports.rows import StagedRows
from sessiond_server.errors import ImportRefused
from sessiond_server.settings import SettingError
from sessiond_server.sources.foreign import ForeignSession, Unreadable, export_of
from sessiond_server.sources.kinds import KINDS
from sessiond_server.sources.values import Unfit

AT_ONCE: Final = 8
"""Sessions that are imported at the same time."""
SHOWN: Final = 100
"""Most lines of the report about single sessions."""


class Report:
    """What became of the sessions of a source."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        """What had to be changed, with the number of sessions."""
        self._shown = 0

    def add(self, what: str, name: str = "", why: str = "") -> None:
        """`what`: imported, there already, would be imported, not imported. Prints those that have a `why`."""
        self.counts[what] += 1
        if why:
            self._shown += 1
            if self._shown <= SHOWN:
                print(f"{name}: {what}: {why}")

    def print(self) -> None:
        if self._shown > SHOWN:
            print(f"and {self._shown - SHOWN} more")
        for note, count in sorted(self.notes.items()):
            print(f"note, {count} times: {note}")
        print(", ".join(f"{count} {what}" for what, count in sorted(self.counts.items())) or "nothing found")


def run(service: Service, files: Sequence[str], session_id: str, prefix: str, *, dry_run: bool) -> int:
    """Imports exported files; or, if the first of `files` is a kind, all sessions of the others. 1 if one could not be.

    With `dry_run`, only reads them; `prefix` goes before all ids. Raises SettingError for what does not go together.
    """
    kind, *rest = files
    if kind not in KINDS or not rest:
        if dry_run or prefix:
            raise SettingError(f"--dry-run and --prefix need a kind of source: {', '.join(KINDS)}")
        return import_files(service, files, session_id)
    if session_id:
        raise SettingError("--as is for one exported file; --prefix goes before the ids of a source")
    return _import_kind(service, kind, rest, prefix, dry_run=dry_run)


def _import_kind(service: Service, kind: str, files: Sequence[str], prefix: str, *, dry_run: bool) -> int:
    report, failed = Report(), False
    for file in files:
        try:
            asyncio.run(import_all(service, kind, Path(file), prefix, report, dry_run=dry_run))
        except (Unfit, OSError) as error:
            print(f"{file}: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
            failed = True
        except sessiond.SessiondError as error:
            print(f"{file}: {error}; the same command goes on", file=sys.stderr)
            failed = True
            break
    report.print()
    return 1 if failed or report.counts["not imported"] else 0


async def import_all(service: Service, kind: str, source: Path, prefix: str, report: Report, *, dry_run: bool) -> None:
    """Raises what `run` says on standard error."""
    read, progress = KINDS[kind], Progress(str(source))
    total = sum(1 for _ in read(source)) if progress.watched else 0
    places, done = asyncio.Semaphore(AT_ONCE), 0
    with tempfile.TemporaryDirectory(prefix="sessiond-import-") as folder:
        reaching = service.client() if dry_run else service.reached()
        async with reaching as client, _unwrapped(), asyncio.TaskGroup() as group:

            async def work(each: ForeignSession, path: Path) -> None:
                try:
                    await _import(client, each, kind, path, report)
                finally:
                    places.release()

            for number, each in enumerate(read(source)):
                if isinstance(each, Unreadable):
                    report.add("not imported", each.source_id, each.why)
                    continue
                each.session.session_id = prefix + each.session.session_id
                report.notes.update(each.notes)
                if dry_run:
                    _check(each, kind, report)
                    continue
                await places.acquire()
                group.create_task(work(each, Path(folder) / str(number)))
                done = number + 1
                progress(done, total)
    progress.end()


async def _import(client: sessiond.Client, each: ForeignSession, kind: str, path: Path, report: Report) -> None:
    """Imports one session by a file. Raises what speaks of the service and not of the session."""
    try:
        await asyncio.to_thread(path.write_bytes, b"".join(map(line_of, export_of(each, kind))))
        answer = await client.import_session(path)
        report.add("there already" if answer.already_there else "imported")
    except (sessiond.InvalidRequest, sessiond.AlreadyExists, sessiond.Refused) as error:
        report.add("not imported", each.source_id, str(error))
    finally:
        await asyncio.to_thread(path.unlink, missing_ok=True)


def _check(each: ForeignSession, kind: str, report: Report) -> None:
    """Says of one session whether the service would take it."""
    first, *rest = export_of(each, kind)
    try:
        checked_header(first.header)
        log = ImportedLog(first.header, ("", each.session.session_id), time.time_ns() // 1000)
        for record in rest[:-1]:
            log.add(record.event, StagedRows())
        log.finish()
    except (Broken, ImportRefused) as error:
        report.add("not imported", each.source_id, str(error))
    else:
        report.add("would be imported")


@asynccontextmanager
async def _unwrapped() -> AsyncIterator[None]:
    """Raises the first error of a group instead of the group."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
