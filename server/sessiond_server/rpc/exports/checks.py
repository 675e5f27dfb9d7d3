"""Checks of the requests of ExportService: one function per RPC. See rpc/sessions/checks.py."""

from dataclasses import dataclass
from typing import Final

from sessiond.v1.export_service_pb2 import ExportPlace, ExportRecord, ExportSessionRequest, ImportSessionRequest
from sessiond_server.domain import commands, ids, text
from sessiond_server.domain.imports.digests import BYTES
from sessiond_server.domain.validation import FieldViolations
from sessiond_server.errors import InvalidFields, Violation
from sessiond_server.rpc import fields

HEADER_RULE: Final = "is required in the first message, and allowed only there"


@dataclass(frozen=True, slots=True)
class ImportBegin:
    """The checked header of an import, its first message."""

    first: ExportRecord
    """The export's first record; what it holds is not checked yet."""
    session_id: str


def export_session(request: ExportSessionRequest) -> ExportPlace | None:
    """Where to go on; None: at the beginning."""
    found = FieldViolations()
    fields.session_id(found, request.session_id)
    if request.HasField("after"):
        after = request.after
        if after.version < 1:
            found.add("after.version", "must be at least 1")
        found.add("after.last_event_id", text.identifier(after.last_event_id))
        if not 0 <= after.seq <= after.version:
            found.add("after.seq", "must be 0 to version")
        if not 0 <= after.attachment_seq <= after.version:
            found.add("after.attachment_seq", "must be 0 to version")
        fields.not_negative(found, "after.offset", after.offset)
        if len(after.digest) != BYTES:
            found.add("after.digest", f"must be {BYTES} bytes")
    found.check()
    return request.after if request.HasField("after") else None


def import_header(request: ImportSessionRequest | None, scope: commands.Scope) -> ImportBegin:
    """Checks the first message of the stream; None: the stream ended before it."""
    if request is None or not request.HasField("header"):
        raise InvalidFields([Violation("header", HEADER_RULE)])
    header, found = request.header, FieldViolations()
    if header.record.WhichOneof("record") != "header":
        found.add("header.record.header", "is required")
    session = header.record.header.session
    session_id = header.session_id or session.session_id
    if header.session_id:
        found.add("header.session_id", text.identifier(session_id))
    if scope.user_id:
        if session.user_id != scope.user_id:
            found.add("header.record.header.session.user_id", "must be the user that the key is bound to")
        # As for CreateSession (docs/decisions/0022-ids-of-bound-keys.md).
        own = ids.own_prefix(scope.user_id)
        if not session_id.startswith(own):
            found.add("header.session_id", f"must begin with {own} as the key is bound to a user")
    found.check()
    return ImportBegin(header.record, session_id)
