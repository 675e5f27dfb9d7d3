"""Finds processes that tests have started and not ended. Needs /proc: elsewhere it finds none."""

import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

GRACE = float(os.environ.get("TESTS_GRACE", "10"))
"""Seconds that processes get to end after they have been killed."""

_MARK = "TESTS_OF_RUN"


def mark() -> str:
    """Marks all processes that we start from now on, and all that they start: see `marked`."""
    identity = uuid.uuid4().hex
    os.environ[_MARK] = " ".join([*os.environ.get(_MARK, "").split(), identity])  # a run within a run keeps both
    return identity


def marked(identity: str) -> list[str]:
    """The command lines of all processes with that mark: also of those whose parent has ended."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            variables = (process / "environ").read_bytes().split(b"\0")
            if any(each.startswith(f"{_MARK}=".encode()) and identity.encode() in each for each in variables):
                found.append(_command(process))
    return found


def children() -> list[str]:
    """The command lines of our own child processes, whatever their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent = (process / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z" and int(parent) == os.getpid():
                found.append(_command(process))
    return found


def remaining(find: Callable[[], list[str]]) -> list[str]:
    """What is still there after GRACE; empty as soon as nothing is."""
    until = time.monotonic() + GRACE
    while (found := find()) and time.monotonic() < until:
        time.sleep(0.05)
    return found


def _command(process: Path) -> str:
    return f"{process.name} {(process / 'cmdline').read_text().replace(chr(0), ' ').strip()}"
