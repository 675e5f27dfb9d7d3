"""`sessiond export` and `sessiond import`: sessions to files and back, through the running service (docs/moving.md)."""

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import sessiond
from sessiond_server.settings import SettingError

REFRESH_SECONDS: Final = 0.1
REACH_SECONDS: Final = 10.0
"""How long the service may take for the first answer, before its address is taken to be wrong."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Service:
    """How to reach the service."""

    target: str
    key_file: str | None
    ca_file: str | None

    def client(self) -> sessiond.Client:
        """Raises SettingError for a file that cannot be read, and for a key that would cross the network in clear."""
        try:
            key = Path(self.key_file).read_text("utf-8").strip() if self.key_file else None
            tls = sessiond.TLS(root_certificates=Path(self.ca_file).read_bytes()) if self.ca_file else None
            return sessiond.Client(self.target, api_key=key, tls=tls)
        except (OSError, ValueError) as error:
            raise SettingError(str(error)) from error

    @asynccontextmanager
    async def reached(self) -> AsyncIterator[sessiond.Client]:
        """A client that the service has answered. Raises Unavailable after REACH_SECONDS without an answer, and what
        `client` raises."""
        async with self.client() as client:
            try:
                await client.get_session("-", timeout=REACH_SECONDS)
            except (sessiond.Unavailable, sessiond.DeadlinePassed) as error:
                text = f"the service at {self.target} has not answered for {REACH_SECONDS:g} s"
                raise sessiond.Unavailable(text, code="UNAVAILABLE") from error
            except sessiond.SessiondError:
                pass  # an answer, which the call that is meant gets too if it concerns that
            yield client


class Progress:
    """A line on standard error that shows how far something is, if a person watches."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._shown = 0.0
        self.watched = sys.stderr.isatty()
        """Whether a person watches."""

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self.watched and now - self._shown >= REFRESH_SECONDS:
            self._shown = now
            print(f"\r{self._name}: {done * 100 // max(total, 1)} %", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def export_session(service: Service, session_id: str, output: str | None) -> int:
    """Exports to `output`, or to standard output, which gets nothing unless the export is complete. Raises SettingError
    without a session."""
    if not session_id:
        raise SettingError("which session? give its id, or --user")
    if output is not None:
        return asyncio.run(_told(service, session_id, lambda client: _export(client, session_id, Path(output))))
    with tempfile.TemporaryDirectory(prefix="sessiond-export-") as folder:
        path = Path(folder) / "session.jsonl"
        code = asyncio.run(_told(service, session_id, lambda client: _export(client, session_id, path)))
        if code == 0:
            with path.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()
    return code


def export_user(service: Service, user_id: str, session_id: str, output: str | None) -> int:
    """Exports all that a user has to the folder `output`. Raises SettingError unless there is one, and no session."""
    if session_id or output is None:
        raise SettingError("--user needs --output FOLDER, and no session")
    return asyncio.run(_told(service, user_id, lambda client: _export_user(client, user_id, Path(output))))


def import_files(service: Service, files: Sequence[str], session_id: str) -> int:
    """Imports each file; those behind one that fails, too."""
    if session_id and len(files) > 1:
        raise SettingError("--as needs one file")
    failed = 0
    for file in files:
        failed += asyncio.run(_told(service, file, lambda client, file=file: _import(client, file, session_id)))  # type: ignore[misc]
    if len(files) > 1:
        print(f"{len(files) - failed} of {len(files)} files are imported")
    return 1 if failed else 0


async def _told(service: Service, name: str, work: Callable[[sessiond.Client], Awaitable[object]]) -> int:
    """0, or 1 after it has said on standard error why it did not work."""
    try:
        async with service.reached() as client:
            await work(client)
    except sessiond.SessiondError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{name}: {error.strerror or error}", file=sys.stderr)
        return 1
    except asyncio.CancelledError:
        print(f"{name}: interrupted; the same command goes on", file=sys.stderr)
        raise
    return 0


async def _export(client: sessiond.Client, session_id: str, path: Path) -> None:
    progress = Progress(session_id)
    try:
        lines = await client.export_session(session_id, path, progress=progress)
    finally:
        progress.end()
    print(f"{session_id}: {lines} lines", file=sys.stderr)


async def _export_user(client: sessiond.Client, user_id: str, folder: Path) -> None:
    progress = Progress(user_id)
    try:
        sessions = await client.export_user(user_id, folder, progress=progress)
    finally:
        progress.end()
    print(f"{user_id}: {sessions} sessions in {folder}", file=sys.stderr)


async def _import(client: sessiond.Client, file: str, session_id: str) -> None:
    progress = Progress(file)
    try:
        done = await client.import_session(file, session_id=session_id, progress=progress)
    finally:
        progress.end()
    what = "was there already" if done.already_there else f"{done.session.version - done.session.base_version} events"
    print(f"{file}: session {done.session.session_id}, {what}")
