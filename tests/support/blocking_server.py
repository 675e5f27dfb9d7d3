"""`sessiond serve` in a process of its own, for tests without an event loop."""

import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sessiond_server.embedded.process import tied
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]


class Server:
    """`sessiond serve` in a process of its own."""

    def __init__(self, *flags: str) -> None:
        command = [sys.executable, "-m", "sessiond_server", "serve", "--log-level", "warning", *flags]
        self.process = subprocess.Popen(
            tied(command, signal.SIGKILL), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if found := re.search(r"listening\s+(127\.0\.0\.1:\d+)", line):
                self.address = found[1]
                break
        else:
            pytest.fail("the server did not start:\n" + "".join(said))
        # Later output must be read, too; a full pipe would block the server.
        self._reader = threading.Thread(target=self.process.stdout.read)
        self._reader.start()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        self._reader.join(PATIENCE)
        self.process.communicate(timeout=PATIENCE)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()
