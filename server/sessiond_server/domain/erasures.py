"""What an erasure removed, as the JSON of its report."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from sessiond.v1.session_pb2 import Session

FORMAT: Final = "sessiond-erasure-report-1"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ErasedSession:
    """What the report counts of one session."""

    session_id: str
    events: int
    messages: int
    attachments: int
    attachment_bytes: int

    @classmethod
    def of(cls, session_id: str, version: int, core: bytes) -> "ErasedSession":
        """`core`: the stored session, before its deletion."""
        session = Session.FromString(core)
        counted = (session.message_count, session.attachment_count, session.attachment_bytes)
        return cls(session_id, version - session.base_version, *counted)


@dataclass(frozen=True, slots=True)
class Removed:
    """The numbers of a report."""

    sessions: int
    events: int
    messages: int
    attachments: int
    attachment_bytes: int
    document_rows: int


def ids_digest(session_ids: Iterable[str]) -> str:
    """As `session_ids_sha256` of ErasureReport."""
    digest = hashlib.sha256()
    for session_id in sorted(each.encode() for each in session_ids):
        digest.update(session_id + b"\n")
    return digest.hexdigest()


def report(
    tenant_id: str,
    user_id: str,
    erasure_id: str,
    begin_us: int,
    end_us: int,
    removed: Removed,
    session_ids_sha256: str,
) -> str:
    """ErasureReport.json."""
    fields = {
        "format": FORMAT,
        "tenant_id": tenant_id,
        "erasure_id": erasure_id,
        "user_id": user_id,
        "begin_time": _time(begin_us),
        "end_time": _time(end_us),
        "removed": asdict(removed),
        "session_ids_sha256": session_ids_sha256,
    }
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def _time(time_us: int) -> str:
    return (_EPOCH + timedelta(microseconds=time_us)).isoformat(timespec="microseconds").replace("+00:00", "Z")
