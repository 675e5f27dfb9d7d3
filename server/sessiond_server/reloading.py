"""Reloads files that an operator replaces while the service runs, when they change or on a signal."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_log = logging.getLogger("sessiond.app")

PAUSE: Final = 1.0
"""Seconds between two checks. A change is loaded once two checks in a row have found the same state, because several
files are rarely replaced at the same moment."""

Look = tuple[tuple[int, int, int, int] | None, ...]
"""(modification time, change time, size, inode) of each file; None for a missing file. The change time shows changed
access rights too."""


@dataclass(slots=True)
class Reloaded:
    """A set of files that are used together."""

    name: str
    """Name for the log, such as "keys"."""
    paths: Sequence[Path]
    load: Callable[[], Callable[[], str]]
    """Reads the files, in a thread. Returns a function that puts them to use, in the loop, and describes what is used
    now. Raises if the files cannot be used; the text of errors of the classes `safe` is logged."""
    safe: tuple[type[Exception], ...]
    seen: Look
    """State of the files when they were last loaded, or found unusable."""
    before: Look = ()
    """State of the files at the previous check."""


class Reloader:
    """Reloads files that have changed. Files that cannot be used change nothing."""

    def __init__(self, files: Sequence[Reloaded], asked: asyncio.Event | None = None, pause: float = PAUSE) -> None:
        """When `asked` is set, `run` clears it and reads all files, changed or not."""
        self._files = files
        self._pause = pause
        self._asked = asked or asyncio.Event()

    async def run(self) -> None:
        """Checks the files every `pause` seconds, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._pause):
                    await self._asked.wait()
            except TimeoutError:
                pass
            asked = self._asked.is_set()
            self._asked.clear()
            if asked and not self._files:
                _log.info("there are no files to read again: neither keys nor certificates are set")
            for one in self._files:
                await self._follow(one, asked)

    async def _follow(self, one: Reloaded, asked: bool) -> None:
        found = await asyncio.to_thread(look, one.paths)
        settled = found == one.before
        one.before = found
        if not asked and (found == one.seen or not settled):
            return
        one.seen = found
        try:
            use = await asyncio.to_thread(one.load)
        except OSError as error:
            _log.error("the %s in use stay: %s: %s", one.name, error.filename, error.strerror)
        except Exception as error:
            text = str(error) if isinstance(error, one.safe) else type(error).__name__
            _log.error("the %s in use stay: %s", one.name, text)
        else:
            _log.info("the %s were read again: %s", one.name, use())


def look(paths: Sequence[Path]) -> Look:
    """The state of the files. Take it before reading them, so that a later change is noticed."""
    return tuple(_state(path) for path in paths)


def _state(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
