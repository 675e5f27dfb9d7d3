"""ExportService. Each RPC makes four moves: check, authorise, call, answer."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Final

from sessiond.v1.export_service_pb2 import (
    ExportRecord,
    ExportSessionRequest,
    ExportSessionResponse,
    ImportSessionResponse,
)
from sessiond.v1.session_pb2 import Session
from sessiond_server.auth import SESSIONS_READ, SESSIONS_WRITE
from sessiond_server.domain import encoding
from sessiond_server.exports.reading import Exports
from sessiond_server.exports.receiving import Imports
from sessiond_server.rpc.attachments.transfers import Transfers
from sessiond_server.rpc.call import Call, taking_bytes
from sessiond_server.rpc.exports import arriving
from sessiond_server.rpc.exports import checks as requests

LINE_KEY: Final = "sessiond-import-line"
MESSAGE_BYTES: Final = 1024 * 1024
"""Bytes of records, but for one that is larger, that go into one message."""
MESSAGE_RECORDS: Final = 256
"""Most records of one message: other calls have their turn behind each."""

_RECORD: Final = encoding.tag(ExportSessionResponse.RECORDS_FIELD_NUMBER)


class ExportServicer:
    """The RPCs of sessiond.v1.ExportService."""

    def __init__(self, exports: Exports, imports: Imports, transfers: Transfers) -> None:
        self._exports = exports
        self._imports = imports
        self._transfers = transfers

    async def export_session(self, request: ExportSessionRequest, call: Call) -> None:
        after = requests.export_session(request)
        scope = call.admit(SESSIONS_READ)
        with self._transfers.place(scope.tenant_id):
            async with aclosing(_messages(self._exports.records(scope, request.session_id, after))) as messages:
                async for message in messages:
                    await self._transfers.moved(call.write(message))
                    self._transfers.sent += len(message)

    @taking_bytes
    async def import_session(self, messages: AsyncIterator[bytes], call: Call) -> bytes:
        # The place is taken before anything is read, because a client that sends no header needs one too.
        with self._transfers.place(call.principal.tenant_id):
            coming = self._transfers.arriving(messages)
            message = await anext(coming, None)
            first = None if message is None else await arriving.parsed(message)
            begin = requests.import_header(first, call.scope)
            scope = call.admit(SESSIONS_WRITE)
            assert first is not None
            async with aclosing(arriving.records(first, coming)) as records:
                taken_up = partial(_taken_up, call)
                done = await self._imports.receive(scope, begin.first, begin.session_id, records, taken_up)
        session = Session.FromString(done.core)
        return ImportSessionResponse(session=session, already_there=done.already_there).SerializeToString()


async def _messages(records: AsyncGenerator[ExportRecord]) -> AsyncGenerator[bytes]:
    """Closes `records`."""
    waiting: list[bytes] = []
    size = 0
    async with aclosing(records):
        async for record in records:
            data = record.SerializeToString()
            if waiting and (size + len(data) > MESSAGE_BYTES or len(waiting) == MESSAGE_RECORDS):
                yield encoding.repeated(_RECORD, waiting)
                waiting, size = [], 0
            waiting.append(data)
            size += len(data)
    yield encoding.repeated(_RECORD, waiting)


async def _taken_up(call: Call, line: int) -> None:
    await call.begin_answer(LINE_KEY, str(line))
