"""Parses the messages of an import as they arrive, large ones in slices: see rpc/elements.py."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from time import thread_time
from typing import Final

from google.protobuf.message import DecodeError

from sessiond.v1.export_service_pb2 import ExportRecord, ImportSessionRequest
from sessiond_server.errors import InvalidFields, MalformedRequest, Violation
from sessiond_server.rpc import elements
from sessiond_server.rpc.exports.checks import HEADER_RULE

PARSED_AT_ONCE: Final = 256 * 1024
"""Bytes of a message that are parsed in one piece, as clients send them."""
_FIELDS: Final = elements.table(ImportSessionRequest.DESCRIPTOR)
_NAME: Final = ImportSessionRequest.DESCRIPTOR.full_name


async def parsed(message: bytes) -> ImportSessionRequest:
    """Raises MalformedRequest, and InvalidFields for a message of too many elements."""
    request = ImportSessionRequest()
    pace = elements.Pace(thread_time)
    try:
        if len(message) <= PARSED_AT_ONCE:
            request.MergeFromString(message)
            return request
        for piece in list(elements.slices(message, _FIELDS)):
            if piece is not None:
                request.MergeFromString(piece)
            await asyncio.sleep(pace.pause())
            pace.go_on()
    except elements.TooManyElements:
        raise InvalidFields([Violation("records", f"must have at most {elements.MOST} elements in all")]) from None
    except (DecodeError, elements.Malformed):
        raise MalformedRequest(_NAME) from None
    return request


async def records(first: ImportSessionRequest, messages: AsyncIterator[bytes]) -> AsyncGenerator[ExportRecord]:
    """The records of all messages; `first` is parsed already."""
    for record in first.records:
        yield record
    async for message in messages:
        request = await parsed(message)
        if request.HasField("header"):
            raise InvalidFields([Violation("header", HEADER_RULE)])
        for record in request.records:
            yield record
