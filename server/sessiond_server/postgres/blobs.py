"""Blob storage in the database itself, so that attachments need no other service.

A piece has one row per 7 936 bytes, which with its key fills one page of the table. Postgres would store larger values
out of line, in rows of 2 000 bytes, at twice the cost. COPY writes the rows of a segment.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from struct import Struct
from types import TracebackType
from typing import Final, TypeVar
from uuid import UUID

import asyncpg

from sessiond_server.blobs.contract import Buffer, BytesMissing
from sessiond_server.domain.attachments.rows import Piece
from sessiond_server.errors import StorageUnavailable, StoreUnavailable
from sessiond_server.postgres.connection import Connections, abandoned_copies, cut
from sessiond_server.postgres.statements import ATTACHMENTS, BLOBS
from sessiond_server.postgres.transactions import TRANSACTION_SECONDS, Transactions

LENGTH = BLOBS["length"].text
READ = BLOBS["read"].text
DELETE = BLOBS["delete"].text
PIECES = BLOBS["pieces"].text
IS_ELSEWHERE = ATTACHMENTS["is_elsewhere"].text

ROW_BYTES: Final = 7936
"""Data bytes per row. A page has 8 160: the row header takes 24, the tenant up to 132, the piece 16, numbers 8, and
alignment the rest."""
_COLUMNS = ("tenant_id", "piece_id", "number", "data")
_ROWS_READ = 33
"""Rows that `read` fetches at a time: 261 888 bytes."""
_ROWS_DELETED = 4096
_PIECES_LISTED = 500
_NONE = UUID(int=0)

# Source: PostgreSQL's documentation of COPY, "Binary Format". Numbers are in network order; values follow their length.
_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_KEY: Final = Struct("!hi")
_UUID: Final = Struct("!i16s")
_VALUE: Final = Struct("!iii")
_TRAILER: Final = b"\xff\xff"

_T = TypeVar("_T")


class PostgresBlobs:
    """Implements `blobs.contract.BlobStore` on a migrated database. Use as `async with PostgresBlobs(dsn) as blobs`.

    It has its own connections, so that transfers do not take those of session writes.
    """

    segment = 66 * ROW_BYTES

    def __init__(self, dsn: str, *, max_connections: int = 4, connect_timeout: float = 5.0) -> None:
        """`connect_timeout` is in seconds, for each new connection."""
        self._connections = Connections(dsn, max_connections=max_connections, connect_timeout=connect_timeout)
        self._transactions = Transactions(self._connections)
        self._stack = ExitStack()

    async def __aenter__(self) -> "PostgresBlobs":
        await self._connections.open()
        self._stack.enter_context(abandoned_copies())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            await self._transactions.close()
            await self._connections.close()

    async def append(self, piece: Piece, offset: int, data: Sequence[Buffer]) -> None:
        with _translated(), self._transactions.causes.translating():
            connection = await self._connections.acquire()
            try:
                # The rows are built after the wait for a connection, so that waiting calls hold their bytes only once.
                # asyncpg needs a memoryview here: it would take bytes for a file name.
                rows = memoryview(_binary_rows(piece, offset // ROW_BYTES, data))
                # COPY is a transaction by itself, which saves two round trips per segment.
                with self._connections.limited(connection, TRANSACTION_SECONDS):
                    await connection.copy_to_table("blob_rows", source=rows, columns=_COLUMNS, format="binary")
            except BaseException:
                # A connection in the middle of a COPY is not usable; the server rolls back by itself.
                cut(connection)
                raise
            finally:
                await self._connections.release(connection)

    async def commit(self, piece: Piece) -> None:
        """Does nothing: every append was committed."""

    async def length(self, piece: Piece) -> int:
        rows = await self._fetch(LENGTH, piece.tenant_id, UUID(piece.piece_id))
        return rows[0][0] * ROW_BYTES + rows[0][1] if rows else 0

    async def read(self, piece: Piece, start: int, end: int) -> AsyncIterator[Buffer]:
        piece_id = UUID(piece.piece_id)
        while start < end:
            first = start // ROW_BYTES
            beyond = min(first + _ROWS_READ, -(-end // ROW_BYTES))
            ((data,),) = await self._fetch(READ, piece.tenant_id, piece_id, first, beyond)
            given = (data or b"")[start - first * ROW_BYTES : end - first * ROW_BYTES]
            if start + len(given) < min(end, beyond * ROW_BYTES):
                ((elsewhere,),) = await self._fetch(IS_ELSEWHERE, piece.tenant_id)
                if elsewhere:
                    # The tenant has moved, and its rows were removed here. The rest of the bytes is in its new home.
                    raise StorageUnavailable
                raise BytesMissing
            start += len(given)
            yield given

    async def delete(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            piece_id = UUID(piece.piece_id)
            deleted = _ROWS_DELETED
            while deleted == _ROWS_DELETED:

                async def work(
                    connection: asyncpg.Connection, tenant_id: str = piece.tenant_id, piece_id: UUID = piece_id
                ) -> int:
                    status = await connection.execute(DELETE, tenant_id, piece_id, _ROWS_DELETED)
                    return int(status.rpartition(" ")[2])

                deleted = await self._run(work)

    async def pieces(self) -> AsyncIterator[Piece]:
        last = ("", _NONE)
        while True:
            rows = await self._fetch(PIECES, *last, _PIECES_LISTED)
            for tenant_id, piece_id, elsewhere in rows:
                if not elsewhere:
                    yield Piece(tenant_id, str(piece_id))
            if len(rows) < _PIECES_LISTED:
                return
            last = (rows[-1][0], rows[-1][1])

    async def _run(self, work: Callable[[asyncpg.Connection], Awaitable[_T]]) -> _T:
        with _translated():
            return await self._transactions.run(work)

    async def _fetch(self, statement: str, *parameters: object) -> Sequence[asyncpg.Record]:
        with _translated():
            return await self._transactions.fetch(statement, *parameters)


def _binary_rows(piece: Piece, first: int, data: Sequence[Buffer]) -> bytes:
    """The data as rows numbered from `first`, in the binary format of COPY.

    This replaces asyncpg's own encoding, which passes each value through a codec into a buffer that grows by 1 KiB at a
    time. That cost as much CPU time as all other work on a segment in this process (docs/decisions/0020).
    """
    tenant_id = piece.tenant_id.encode()
    key = _KEY.pack(len(_COLUMNS), len(tenant_id)) + tenant_id + _UUID.pack(16, UUID(piece.piece_id).bytes)
    parts: list[Buffer] = [_HEADER]
    missing, room = sum(map(len, data)), 0
    for chunk in data:
        view, at = memoryview(chunk), 0
        while at < len(view):
            if not room:
                room = min(ROW_BYTES, missing)
                parts += (key, _VALUE.pack(4, first, room))
                first += 1
            taken = view[at : at + room]
            parts.append(taken)
            at += len(taken)
            room -= len(taken)
            missing -= len(taken)
    parts.append(_TRAILER)
    return b"".join(parts)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except StoreUnavailable as error:
        raise StorageUnavailable from error
