"""The client's methods for exports and imports of whole sessions."""

import asyncio
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

from sessiond.connection import Connection
from sessiond.download import flushed, reserved
from sessiond.errors import ExportOutdated, SessiondError, Unavailable
from sessiond.export_lines import Written, line_of, lines, record_of, refused
from sessiond.file_names import beside
from sessiond.options import Reconnect
from sessiond.streams import Sending, Stream
from sessiond.transfer import GIVE_UP_AFTER, IDLE_TIMEOUT, Patience, Progress, stalled
from sessiond.v1.export_service_pb2 import (
    ExportRecord,
    ExportSessionRequest,
    ExportSessionResponse,
    ImportHeader,
    ImportSessionRequest,
    ImportSessionResponse,
)

LINE_KEY = "sessiond-import-line"
BATCH_BYTES = 256 * 1024
"""Bytes of lines that are sent in one message, unless one line alone has more."""
BATCH_LINES = 256
MOST_ANEW = 5
"""How many times an export begins anew because something was removed meanwhile."""


class ExportCalls:
    """ExportService; see `Client` for what all methods have in common."""

    _connection: Connection
    _reconnect: Reconnect

    async def export_session(
        self,
        session_id: str,
        path: "str | os.PathLike[str]",
        *,
        progress: Progress | None = None,
        idle_timeout: float = IDLE_TIMEOUT,
        give_up_after: float = GIVE_UP_AFTER,
    ) -> int:
        """Exports a session to a file, which appears when it is complete and replaces an existing one. Returns its
        number of lines. docs/moving.md has the form.

        Until then the lines are in a file beside it, whose name ends in `.part`. When the connection breaks, the export
        goes on from there on another one; so does the next call with the same path, in any process. When something that
        was exported is redacted or deleted meanwhile, it begins anew. `progress` gets the lines so far, and about how
        many there will be. The last error is raised when there was no progress for `give_up_after` seconds. An attempt
        fails when no bytes move for `idle_timeout` seconds. It has no deadline.

        Raises SessionNotFound, ExportOutdated, AttachmentLost; OSError of the file, BlockingIOError while another call
        exports to the same path.
        """
        target = Path(path)
        part = beside(target, ".part")
        file = await asyncio.to_thread(reserved, part)
        try:
            written = Written()
            await asyncio.to_thread(written.recall, file)
            export = _Export(self._connection, session_id, file, written, progress, idle_timeout)
            anew = 0
            patience = Patience(self._reconnect, give_up_after)
            while not export.written.complete:
                try:
                    await export.attempt(patience)
                except ExportOutdated:
                    anew += 1
                    if anew == MOST_ANEW:
                        raise
                    await asyncio.to_thread(export.begin_anew)
                except SessiondError as error:
                    await patience.after(error)
            await asyncio.to_thread(flushed, file)
            await asyncio.to_thread(os.replace, part, target)
        finally:
            file.close()
        return export.written.lines

    async def import_session(
        self,
        path: "str | os.PathLike[str]",
        *,
        session_id: str = "",
        progress: Progress | None = None,
        idle_timeout: float = IDLE_TIMEOUT,
        give_up_after: float = GIVE_UP_AFTER,
    ) -> ImportSessionResponse:
        """Imports an exported session from a file, under its own id or under `session_id`. It appears with everything,
        or not at all. `already_there` in the answer says that it was imported before.

        When the connection breaks, the import goes on behind what the service has; so does the next call with the same
        file and id, in any process. `progress` gets the bytes of the file that were sent, and its size. Timeouts as for
        `export_session`.

        Raises ImportRefused, with the line, ImportIncomplete, ImportSuperseded (another call imports the same),
        SessionAlreadyExists, SessionQuotaReached, AttachmentTooLarge, AttachmentSpaceExhausted; OSError of the file.
        """
        patience = Patience(self._reconnect, give_up_after)
        file = await asyncio.to_thread(open, path, "rb")
        try:
            size = await asyncio.to_thread(lambda: os.fstat(file.fileno()).st_size)
            sending = _Import(self._connection, session_id, file, size, progress, idle_timeout)
            while True:
                try:
                    return await sending.attempt(patience)
                except SessiondError as error:
                    await patience.after(error)
        finally:
            file.close()


class _Export:
    """One export, made by as many calls as it takes."""

    def __init__(
        self,
        connection: Connection,
        session_id: str,
        file: BinaryIO,
        written: Written,
        progress: Progress | None,
        idle_timeout: float,
    ) -> None:
        self._connection = connection
        self._session_id = session_id
        self._file = file
        self.written = written
        self._progress = progress
        self._idle_timeout = idle_timeout

    async def attempt(self, patience: Patience) -> None:
        """Writes what one call brings."""
        request = ExportSessionRequest(session_id=self._session_id, after=self.written.place)
        stream = self._connection.receive(lambda stubs: stubs.exports.ExportSession, request)
        try:
            while (response := await self._next(stream)) is not None:
                await asyncio.to_thread(self._write, response.records)
                patience.progressed()
                if self._progress is not None:
                    self._progress(self.written.lines, max(self.written.lines, self.written.total))
        finally:
            self._connection.end(stream)
        if not self.written.complete:
            raise Unavailable("the stream ended early", code="UNAVAILABLE")

    def begin_anew(self) -> None:
        self.written = Written()
        self._file.seek(0)
        self._file.truncate()

    def _write(self, records: Sequence[ExportRecord]) -> None:
        self._file.write(b"".join(map(line_of, records)))
        self.written.add(records)

    async def _next(self, stream: Stream[ExportSessionResponse]) -> ExportSessionResponse | None:
        try:
            async with asyncio.timeout(self._idle_timeout):
                return await stream.read()
        except TimeoutError:
            raise stalled(self._idle_timeout) from None


class _Import:
    """One import, made by as many calls as it takes."""

    def __init__(
        self,
        connection: Connection,
        session_id: str,
        file: BinaryIO,
        size: int,
        progress: Progress | None,
        idle_timeout: float,
    ) -> None:
        self._connection = connection
        self._session_id = session_id
        self._file = file
        self._size = size
        self._progress = progress
        self._idle_timeout = idle_timeout
        self._line = 0
        """The last line that the service is known to have."""

    async def attempt(self, patience: Patience) -> ImportSessionResponse:
        first = await asyncio.to_thread(self._first)
        sending = self._connection.send(lambda stubs: stubs.exports.ImportSession)
        try:
            async with asyncio.timeout(self._idle_timeout) as limit:

                def go_on() -> None:
                    limit.reschedule(asyncio.get_running_loop().time() + self._idle_timeout)

                header = ImportHeader(record=first, session_id=self._session_id)
                taken = await sending.write(ImportSessionRequest(header=header))
                begun = await sending.begun()
                if taken and LINE_KEY in begun:
                    line = int(begun[LINE_KEY])
                    if line > self._line:
                        patience.progressed()
                    self._line = line
                    await self._send(sending, line, go_on)
                # The last transaction takes as long as the session is large, and nothing moves meanwhile.
                limit.reschedule(None)
                return await sending.answer()
        except TimeoutError:
            raise stalled(self._idle_timeout) from None
        finally:
            self._connection.end(sending)

    async def _send(
        self, sending: Sending[ImportSessionRequest, ImportSessionResponse], line: int, go_on: Callable[[], None]
    ) -> None:
        await asyncio.to_thread(self._skip, line)
        number, taken = line + 1, True
        while taken and (records := await asyncio.to_thread(partial(self._batch, number))):
            go_on()
            taken = await sending.write(ImportSessionRequest(records=records))
            number += len(records)
            if taken and self._progress is not None:
                self._progress(self._file.tell(), self._size)

    def _first(self) -> ExportRecord:
        self._file.seek(0)
        line = next(lines(self._file, 1), b"")
        record = record_of(line, 1)
        if record.WhichOneof("record") != "header":
            raise refused(1, "must be the header of an export")
        return record

    def _skip(self, line: int) -> None:
        """Moves the file's place behind the line; the first one is read already."""
        every = lines(self._file, 2)
        for _ in range(line - 1):
            next(every, None)

    def _batch(self, number: int) -> list[ExportRecord]:
        """The records of the next lines, from the one with this number on. None at the end of the file."""
        records: list[ExportRecord] = []
        size = 0
        for line in lines(self._file, number):
            records.append(record_of(line, number + len(records)))
            size += len(line)
            if size >= BATCH_BYTES or len(records) == BATCH_LINES:
                break
        return records
