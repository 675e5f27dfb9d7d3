"""The earlier session file: a SQLite database whose table `sessions` has session_id, user_id, metadata, created_at,
expires_at, last_activity and request_count. Live sessions stay live, with their ids, expiry and counts."""

from functools import partial
from pathlib import Path
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from sessiond.v1.session_pb2 import Session
from sessiond_server.domain.times import set_timestamp
from sessiond_server.sources import sqlite
from sessiond_server.sources.foreign import ForeignSession, Read, attempt
from sessiond_server.sources.values import Unfit, identifier, optional_identifier, struct, time_us

KIND: Final = "sessions-file"
COLUMNS: Final = ("session_id", "user_id", "metadata", "created_at", "expires_at", "last_activity", "request_count")


def read(path: Path) -> Read:
    """Raises Unfit, OSError for a file that is none of these."""
    with sqlite.opened(path, {"sessions": COLUMNS}) as connection:
        for number, row in enumerate(sqlite.rows(connection, "select * from sessions order by rowid"), 1):
            yield attempt(f"row {number}", partial(_session, row))


def _session(row: sqlite.Row) -> ForeignSession:
    notes: list[str] = []
    session_id = identifier(row["session_id"], "session_id")
    session = Session(session_id=session_id, user_id=optional_identifier(row["user_id"], "user_id"))
    if (metadata := struct(row["metadata"], "metadata")) is not None:
        session.metadata.CopyFrom(metadata)
    created = time_us(row["created_at"], "created_at", notes)
    if row["expires_at"] is not None:
        expires = Timestamp()
        set_timestamp(expires, time_us(row["expires_at"], "expires_at", notes))
        session.expire_time.CopyFrom(expires)
    count = row["request_count"]
    if not isinstance(count, int) or not 0 <= count < 2**53:
        raise Unfit("request_count must be a number from 0")
    session.request_count = count
    used = 0 if row["last_activity"] is None else time_us(row["last_activity"], "last_activity", notes)
    return ForeignSession(session_id, session, created, used, notes=notes)
