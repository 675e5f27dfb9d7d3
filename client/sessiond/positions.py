"""Stores for the position of a reader."""

import asyncio
import os
import time
from pathlib import Path
from typing import Protocol

from sessiond.file_names import beside


class PositionStore(Protocol):
    """Keeps one position: of one session or feed, with one filter. What it raises comes out of the watch."""

    async def load(self) -> str | None:
        """Returns the position that was saved last; None where none was."""
        ...

    async def save(self, position: str) -> None:
        """Replaces the stored position before it returns. There is never more than one call at a time."""
        ...


class FilePositions:
    """A PositionStore that keeps its position in a file, which it replaces as a whole and flushes to the disk: a crash
    at any moment leaves the old position or the new one. One reader a file; its folder must be there."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)

    def __repr__(self) -> str:
        return f"FilePositions({str(self._path)!r})"

    async def load(self) -> str | None:
        """Raises OSError, except where there is no file; ValueError for a file that holds something else."""
        return await asyncio.to_thread(self._load)

    async def save(self, position: str) -> None:
        """Raises OSError. Cancelled, it may have saved all the same."""
        await asyncio.to_thread(self._save, position)

    def _load(self) -> str | None:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return None
        if not content.endswith(b"\n") or not content.isascii() or b"\n" in (position := content[:-1]) or not position:
            raise ValueError(f"{self._path}: holds no position")
        return position.decode()

    def _save(self, position: str) -> None:
        new = beside(self._path, ".new")
        with new.open("wb") as file:
            file.write(position.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)
        if os.name == "posix":  # elsewhere a folder cannot be opened, and is written through
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


class Saver:
    """Decides when a position is saved: the first one at once, then after `every_events` events or `every_seconds`
    seconds, whichever comes first, and at the end."""

    def __init__(self, store: PositionStore, every_events: int, every_seconds: float) -> None:
        self._store = store
        self._every_events = every_events
        self._every_seconds = every_seconds
        self._position = ""
        self._saved = ""
        self._events = 0
        self._since = 0.0
        self._saving = asyncio.Lock()

    async def load(self) -> str:
        """Loads and returns the stored position; empty where there is none."""
        self._saved = self._position = await self._store.load() or ""
        return self._saved

    def reached(self, position: str, events: int) -> None:
        """Notes that the reader has processed all events up to `position`, `events` more than at the last call."""
        if self._position == self._saved:
            self._since = time.monotonic()
        self._position = position
        self._events += events

    def due_in(self) -> float | None:
        """Returns the seconds until `save` is due; None where there is nothing to save."""
        if self._position == self._saved:
            return None
        if not self._saved or self._events >= self._every_events:
            return 0.0
        return max(0.0, self._since + self._every_seconds - time.monotonic())

    async def save(self) -> None:
        """Saves the position if it has changed. An error or a cancellation leaves the saver as it was."""
        async with self._saving:
            position, events = self._position, self._events
            if position != self._saved:
                await self._store.save(position)
                self._saved = position
                self._events -= events
