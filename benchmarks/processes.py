"""Processes of a benchmark: started, awaited, ended, and how much CPU they and their descendants have used."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from sessiond_server.embedded.process import tied

_TICKS = os.sysconf("SC_CLK_TCK")
_START_SECONDS = 60.0


class Descendants:
    """CPU of a process and of everything that it started, by Linux's /proc."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def cpu_seconds(self) -> float:
        """User and system time so far, that of the root's ended children included."""
        children: dict[int, list[int]] = {}
        used: dict[int, int] = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                except (FileNotFoundError, ProcessLookupError):
                    continue
                pid = int(entry)
                children.setdefault(int(fields[1]), []).append(pid)
                used[pid] = int(fields[11]) + int(fields[12])
                if pid == self.pid:
                    used[pid] += int(fields[13]) + int(fields[14])
        total, pending = 0, [self.pid]
        while pending:
            pid = pending.pop()
            total += used.get(pid, 0)
            pending += children.get(pid, ())
        return total / _TICKS


def resident_bytes(pid: int) -> int:
    """Memory of one process that is in RAM."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024


@contextmanager
def running(
    command: Sequence[str | Path],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    feed: bytes = b"",
    directory: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process with its standard output as a pipe and its standard error in `log`; ended on
    leaving, and with this process."""
    with log.open("ab") as errors:
        process = subprocess.Popen(
            tied(command, signal.SIGKILL),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **(environment or {})},
            cwd=directory,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(feed)
        process.stdin.close()
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def first_line(process: subprocess.Popen[bytes]) -> str:
    """What the process prints first, such as its port. Raises RuntimeError when it ends without."""
    assert process.stdout is not None
    line = process.stdout.readline().decode().strip()
    if not line:
        raise RuntimeError(f"{process.args!r} ended without a word; see its log")
    return line


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Returns once `ready`. Raises RuntimeError when the process ends first, or after a minute."""
    give_up = time.monotonic() + _START_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > give_up:
            raise RuntimeError(f"{process.args!r} did not become ready; see its log")
        time.sleep(0.05)
