"""A ledger of acknowledged messages, which must all exist after a crash."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TextIO

from examples.demo.chats import BadFileError

import sessiond


@dataclass(frozen=True, slots=True)
class Entry:
    """One acknowledged message."""

    message_id: str
    seq: int
    digest: str


class Ledger:
    """Appends one line of JSON for each acknowledged append, before the demo continues. Without a path it writes
    nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: TextIO | None = None

    def __enter__(self) -> "Ledger":
        if self._path is not None:
            try:
                self._file = self._path.open("a", encoding="utf-8", buffering=1)
            except OSError as error:
                raise BadFileError(f"{self._path}: {error.strerror}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def acknowledged(
        self, session_id: str, first_seq: int, message_ids: Sequence[str], messages: Sequence[sessiond.Message]
    ) -> None:
        """The messages stand at consecutive `seq`."""
        if self._file is None:
            return
        entries = [
            [message_id, first_seq + index, digest(message)]
            for index, (message_id, message) in enumerate(zip(message_ids, messages, strict=True))
        ]
        self._file.write(json.dumps({"session_id": session_id, "messages": entries}) + "\n")


def digest(message: sessiond.Message) -> str:
    """SHA-256 of what the message says."""
    chat = json.dumps(sessiond.to_chat(message), ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(chat.encode()).hexdigest()


def read(path: Path) -> dict[str, list[Entry]]:
    """The entries by session. A last line that was cut off by the demo's own end does not count."""
    sessions: dict[str, list[Entry]] = defaultdict(list)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadFileError(f"{path}: cannot be read") from error
    for number, line in enumerate(lines[:-1], 1):
        try:
            record = json.loads(line)
            sessions[record["session_id"]] += (Entry(*entry) for entry in record["messages"])
        except (ValueError, KeyError, TypeError) as error:
            raise BadFileError(f"{path}:{number}: not a line of a ledger") from error
    if not sessions:
        raise BadFileError(f"{path}: no acknowledged message in it")
    return sessions


@dataclass(slots=True)
class Verdict:
    """The result of the comparison of acknowledged messages with the service."""

    sessions: int = 0
    acked: int = 0
    lost: int = 0
    changed: int = 0
    """Another content, or another place, than was acknowledged."""
    doubled: int = 0
    """Unacknowledged messages before acknowledged ones: a retry that was applied twice."""

    @property
    def good(self) -> bool:
        return not (self.lost or self.changed or self.doubled)


async def verify(client: sessiond.Client, sessions: dict[str, list[Entry]]) -> Verdict:
    """Reads every session of the ledger and looks for each acknowledged message at its place, unchanged, once.

    Messages after the last acknowledged one may exist: their acknowledgement was in flight.
    """
    verdict = Verdict(sessions=len(sessions))
    for session_id, entries in sessions.items():
        verdict.acked += len(entries)
        try:
            pages = client.list_messages(session_id, page_size=500, consistency="strong")
            stored = {message.seq: message async for message in pages}
        except sessiond.SessionNotFound:
            stored = {}
        ids = {message.message_id for message in stored.values()}
        for entry in entries:
            message = stored.pop(entry.seq, None)
            if entry.message_id not in ids:
                verdict.lost += 1
            elif message is None or message.message_id != entry.message_id or digest(message) != entry.digest:
                verdict.changed += 1
        last = max(entry.seq for entry in entries)
        verdict.doubled += sum(seq < last for seq in stored)
    return verdict
