"""Exports all that a user has to a folder: a file for each session, the documents, and a list of it all."""

import asyncio
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from google.protobuf.json_format import MessageToDict

from sessiond.errors import SessionNotFound
from sessiond.export_lines import MOST_LINE
from sessiond.file_names import beside
from sessiond.transfer import Progress
from sessiond.v1.document_pb2 import Document
from sessiond.v1.session_pb2 import Session

if TYPE_CHECKING:
    from sessiond.client import Client

FORMAT = "sessiond-user-export-1"
LIST = "user.json"
DOCUMENTS = "documents.jsonl"
_NAME_CHARACTERS = 60
_PAGE = 100


async def exported(client: "Client", user_id: str, folder: Path, progress: Progress | None) -> int:
    """See Client.export_user."""
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    await asyncio.to_thread((folder / LIST).unlink, missing_ok=True)  # it says that the folder is complete
    total = await client.count_sessions(user_id=user_id)
    sessions: list[dict[str, Any]] = []
    part, documents = beside(folder / DOCUMENTS, ".part"), 0
    with await asyncio.to_thread(part.open, "wb") as file:
        own = [each async for each in client.list_documents(user_id=user_id, page_size=_PAGE)]
        documents += await asyncio.to_thread(_write, file, own)
        async for session in client.list_sessions(user_id=user_id, page_size=_PAGE, consistency="strong"):
            try:
                sessions.append(await _session(client, session, folder))
                of_it = client.list_documents(session_id=session.session_id, page_size=_PAGE)
                found = [each async for each in of_it]
            except SessionNotFound:
                continue  # it was deleted meanwhile
            documents += await asyncio.to_thread(_write, file, found)
            if progress is not None:
                progress(len(sessions), max(total, len(sessions)))
        await asyncio.to_thread(_flushed, file)
    await asyncio.to_thread(os.replace, part, folder / DOCUMENTS)
    contents = {"format": FORMAT, "user_id": user_id, "sessions": sessions, "documents": documents}
    await asyncio.to_thread(_replace, folder / LIST, json.dumps(contents, ensure_ascii=False, indent=1).encode())
    return len(sessions)


async def _session(client: "Client", session: Session, folder: Path) -> dict[str, Any]:
    """Exports the session, unless its file is there and the session is still as it is in it."""
    name = file_name(session.session_id)
    version = await asyncio.to_thread(_version, folder / name)
    if version != (session.version, session.last_event_id):
        await client.export_session(session.session_id, folder / name)
        version = await asyncio.to_thread(_version, folder / name)
    return {"session_id": session.session_id, "file": name, "version": version[0]}


def file_name(session_id: str) -> str:
    """The name of a session's file: the beginning of its id, percent-encoded, and a digest of it. Different ids have
    different names also where file systems ignore case."""
    digest = hashlib.sha256(session_id.encode()).hexdigest()[:16]
    return f"{quote(session_id, safe=' ~')[:_NAME_CHARACTERS]}-{digest}.jsonl"


def _version(path: Path) -> tuple[int, str]:
    """(version, last event's id) of the session in an exported file; (0, "") if there is none."""
    try:
        with path.open("rb") as file:
            session = json.loads(file.readline(MOST_LINE))["header"]["session"]
            return int(session["version"]), str(session["lastEventId"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return 0, ""


def _write(file: Any, documents: Iterable[Document]) -> int:
    count = 0
    for document in documents:
        file.write(json.dumps(MessageToDict(document), ensure_ascii=False).encode() + b"\n")
        count += 1
    return count


def _flushed(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _replace(path: Path, content: bytes) -> None:
    part = beside(path, ".part")
    with part.open("wb") as file:
        file.write(content + b"\n")
        _flushed(file)
    part.replace(path)
