"""Files that an operator changes while the service runs: read again when they change, or on a signal."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_log = logging.getLogger("sessiond.app")

PAUSE: Final = 1.0
"""Seconds between two looks. A change is taken up when two looks in a row have found the same: several files are rarely
replaced at once."""

Look = tuple[tuple[int, int, int] | None, ...]
"""(modified, size, inode) of each file; None: it is not there."""


@dataclass(slots=True)
class Reloaded:
    """Some files that are used together."""

    name: str
    """For the log: "keys"."""
    paths: Sequence[Path]
    load: Callable[[], Callable[[], str]]
    """Reads the files, in a thread of its own, and returns what makes the loop use them and tells what is used now.
    Raises where they cannot be used; the text of `safe` errors is logged."""
    safe: tuple[type[Exception], ...]
    seen: Look
    """How they were when they were last taken up, or found unfit."""
    before: Look = ()
    """At the look before this one."""


class Reloader:
    """Keeps what the service uses at what its files say. What cannot be used leaves what is used as it is."""

    def __init__(self, files: Sequence[Reloaded], asked: asyncio.Event | None = None, pause: float = PAUSE) -> None:
        """`asked`, once set, makes `run` read all files, changed or not; it is cleared then."""
        self._files = files
        self._pause = pause
        self._asked = asked or asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
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
    """How the files are. Take it before they are read."""
    return tuple(_state(path) for path in paths)


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
