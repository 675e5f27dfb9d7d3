"""The readers of a campaign of the HTTP door: programs of Node with published packages, one process for each kind."""

import asyncio
import json
import shutil
import signal
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from sessiond_server.embedded.process import tied
from tests.faults.door_judgement import Line
from tests.support import node

OF_SESSIONS: Final = {"EventSource": "event_source.js", "fetch": "fetch_sse.js"}
"""Kinds that resume, and the program of each."""
OF_RUNS: Final = {"AI SDK": "ai_sdk_runs.js", "AG-UI": "ag_ui_runs.js"}
"""Kinds that know no positions and show a run from its beginning."""
LONGEST_LINE: Final = 1 << 20


class Reader:
    """Use as `async with Reader(program, base, *sessions) as reader`. Killed in the end unless it has ended."""

    def __init__(self, program: str, *arguments: str) -> None:
        self.lines: list[Line] = []
        self.ready = asyncio.Event()
        self._command = tied([shutil.which("node") or "node", str(node.BUILT / program), *arguments], signal.SIGKILL)
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=LONGEST_LINE
        )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process is not None
        assert self._reading is not None
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    @property
    def broken(self) -> int:
        """Streams that broke, as far as the reader has said."""
        return sum(line.get("broken", 0) for line in self.lines)

    def show(self, session_id: str, run_id: str) -> None:
        """One more run to read."""
        assert self._process is not None
        assert self._process.stdin is not None
        if not self._process.stdin.is_closing():  # a reader that has ended too early is told of by `finish`
            self._process.stdin.write(json.dumps({"session": session_id, "run": run_id}).encode() + b"\n")

    async def finish(self) -> str:
        """Returns once it has read everything to its end: what is wrong with that, usually nothing."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._reading is not None
        self._process.stdin.close()
        await asyncio.shield(self._reading)
        code = await self._process.wait()
        return f"ended with {code}" if code else ""

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for text in self._process.stdout:
            line = json.loads(text)
            if "ready" in line:
                self.ready.set()
            else:
                self.lines.append(line)
