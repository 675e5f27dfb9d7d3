"""The lines of an exported file: a record of an export on each, in protobuf's JSON form."""

import base64
import binascii
import json
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from google.protobuf.json_format import MessageToJson, Parse, ParseError

from sessiond.errors import ImportRefused
from sessiond.v1.export_service_pb2 import ExportPlace, ExportRecord

MOST_LINE = 16 * 1024 * 1024
"""Bytes of a line, so that no file makes the client read more into memory. The events that sessiond stores have less
than 3.5 MiB, and JSON makes little more of them."""


def line_of(record: ExportRecord) -> bytes:
    """The line, with its end."""
    return MessageToJson(record, indent=None, ensure_ascii=False).encode() + b"\n"


def record_of(line: bytes, number: int) -> ExportRecord:
    """Raises ImportRefused, with the line's number, for what is no record."""
    try:
        record = Parse(line, ExportRecord())
    except (ParseError, ValueError, RecursionError):
        # The parser's own text may quote the line.
        raise refused(number, "must be a record of an export in JSON") from None
    return record


def refused(number: int, rule: str) -> ImportRefused:
    return ImportRefused(
        f"line {number}: {rule}", reason="IMPORT_REFUSED", code="INVALID_ARGUMENT", metadata={"line": str(number)}
    )


def lines(file: BinaryIO, number: int) -> Iterator[bytes]:
    """The lines of the file from its present place, of which the first has this number, without empty ones at the end.
    Raises ImportRefused for one that is too long."""
    while line := file.readline(MOST_LINE):
        if len(line) == MOST_LINE:
            raise refused(number, f"must have less than {MOST_LINE} bytes")
        if not line.strip():
            if file.read(1).strip():
                raise refused(number, "must not be empty")
            return
        yield line
        number += 1


class Written:
    """How far a file has come: how many lines, and the place behind the last of them."""

    def __init__(self) -> None:
        self.lines = 0
        self.total = 0
        """About how many lines the whole file has; 0: not known yet."""
        self.complete = False
        self.place: ExportPlace | None = None

    def add(self, records: Iterable[ExportRecord]) -> None:
        for record in records:
            self.lines += 1
            kind = record.WhichOneof("record")
            if kind == "header":
                session = record.header.session
                self._begin(session.version, session.last_event_id, session.base_version)
                chunks = session.attachment_bytes // CHUNK + session.attachment_count
                self.total = 2 + session.version - session.base_version + session.attachment_count + chunks
            elif kind == "event":
                self._place.seq = record.event.seq
            elif kind == "attachment":
                self._place.attachment_seq, self._place.offset = record.attachment.seq, 0
            elif kind == "chunk":
                self._place.offset += len(record.chunk)
            else:
                self.complete = True
            self._place.digest = record.digest

    def recall(self, file: BinaryIO) -> None:
        """Reads what an earlier export has written, and cuts off what is no whole line. The file's place is its end
        then. A file that is no export begins anew."""
        file.seek(0)
        end = 0
        try:
            while (line := file.readline(MOST_LINE)).endswith(b"\n"):
                self._add_line(json.loads(line))
                end += len(line)
        except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
            self.lines, self.total, self.complete, self.place = 0, 0, False, None
            end = 0
        file.seek(end)
        file.truncate()

    def _add_line(self, line: dict[str, Any]) -> None:
        record = ExportRecord(digest=base64.b64decode(line["digest"], validate=True))
        if "header" in line:
            session = Parse(json.dumps(line["header"]["session"]), ExportRecord().header.session)
            record.header.session.CopyFrom(session)
        elif "event" in line:
            record.event.seq = int(line["event"]["seq"])
        elif "attachment" in line:
            record.attachment.seq = int(line["attachment"]["seq"])
        elif "chunk" in line:
            record.chunk = base64.b64decode(line["chunk"], validate=True)
        else:
            record.end.SetInParent()
        self.add([record])

    def _begin(self, version: int, last_event_id: str, base_version: int) -> None:
        self.place = ExportPlace(version=version, last_event_id=last_event_id, seq=base_version)

    @property
    def _place(self) -> ExportPlace:
        if self.place is None:
            raise ValueError("an export begins with a header")
        return self.place


CHUNK = 256 * 1024
