"""Blobs in the database itself: nothing else is needed to keep attachments.

A piece is a row for each 7 936 bytes: what fits into one page of the table beside its key. Large values would be cut
into rows of 2 000 bytes in a table of their own, which costs twice as much. COPY writes the rows of a segment.
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
from sessiond_server.postgres.statements import BLOBS
from sessiond_server.postgres.transactions import FAREWELL_SECONDS, TRANSACTION_SECONDS, Transactions

LENGTH = BLOBS["length"].text
READ = BLOBS["read"].text
DELETE = BLOBS["delete"].text
PIECES = BLOBS["pieces"].text

ROW_BYTES: Final = 7936
"""Of 8 160 in a page: 24 of the row's head, up to 132 of the tenant, 16 of the piece, 8 of numbers, and alignment."""
_COLUMNS = ("tenant_id", "piece_id", "number", "data")
_ROWS_READ = 33
"""Rows that make what `read` gives at a time: 261 888 bytes."""
_ROWS_DELETED = 4096
_PIECES_LISTED = 500
_NONE = UUID(int=0)

# PostgreSQL's documentation of COPY, "Binary Format": all numbers in network order, a length before each value.
_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_KEY: Final = Struct("!hi")
_UUID: Final = Struct("!i16s")
_VALUE: Final = Struct("!iii")
_TRAILER: Final = b"\xff\xff"

_T = TypeVar("_T")


class PostgresBlobs:
    """A BlobStore (see blobs/contract.py) on a migrated database. Use as `async with PostgresBlobs(dsn) as blobs`.

    On connections of its own: transfers must not take those that sessions are written with.
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
            await self._connections.close(FAREWELL_SECONDS)

    async def append(self, piece: Piece, offset: int, data: Sequence[Buffer]) -> None:
        with _translated(), self._transactions.causes.told():
            connection = await self._connections.acquire()
            try:
                # Here, not before: whoever waits for a connection holds the bytes once only. A view, for asyncpg would
                # take bytes for the name of a file.
                rows = memoryview(_binary_rows(piece, offset // ROW_BYTES, data))
                # A transaction by itself: two trips to the server less for each segment.
                with self._connections.limited(connection, TRANSACTION_SECONDS):
                    await connection.copy_to_table("blob_rows", source=rows, columns=_COLUMNS, format="binary")
            except BaseException:
                # In the middle of a COPY nothing else can be done with it; the server rolls back by itself.
                cut(connection)
                raise
            finally:
                await self._connections.release(connection)

    async def commit(self, piece: Piece) -> None:
        """Every append was a commit."""

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
            for tenant_id, piece_id in rows:
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

    By hand: asyncpg's own way takes each value through a codec into a buffer that grows by a KiB at a time, which cost
    as much as all else that this process does with a segment (docs/decisions/0020).
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
