"""The subscribers of a campaign, in processes of their own: what each watches, and what it has received so far."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.faults.history import End
from tests.faults.subscribers import Place, Plan

READY_SECONDS = 120.0


class Audience:
    """Use as `async with Audience(folder, addresses, places, silence) as audience`; entered once all have begun."""

    def __init__(self, folder: Path, addresses: Sequence[str], places: Sequence[Place], silence: float) -> None:
        """`silence`: see Plan. Histories come to lie in `folder` under the names of the places."""
        # The library's subscribers and the raw ones each in a process: they share connections with their like.
        self._plans = [
            Plan(str(folder), addresses, silence, group)
            for group in ([p for p in places if p.library], [p for p in places if not p.library])
            if group
        ]
        self._processes: list[Process] = []
        self._reading: list[asyncio.Task[None]] = []
        self._heard: dict[int, int] = {}
        self.late: list[str] = []
        """After `finish`: who has not got everything."""

    @property
    def delivered(self) -> int:
        """Events, as of a second ago."""
        return sum(self._heard.values())

    async def __aenter__(self) -> "Audience":
        try:
            for number, plan in enumerate(self._plans):
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "tests.faults.subscribers", stdin=PIPE, stdout=PIPE, start_new_session=True
                )
                self._processes.append(process)
                self._tell(process, plan.text())
                self._reading.append(asyncio.create_task(self._read(number, process)))
            async with asyncio.timeout(READY_SECONDS):
                while len(self._heard) < len(self._plans):
                    self.check()
                    await asyncio.sleep(0.05)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.kill()
            await process.wait()
        for task in self._reading:
            task.cancel()
        await asyncio.gather(*self._reading, return_exceptions=True)

    async def finish(self, ends: Mapping[str, End], patience: float) -> None:
        """Returns when every subscriber has everything up to the last events of these sessions, or `patience` seconds
        are over, and all histories are on disk."""
        for process in self._processes:
            self._tell(process, json.dumps({"ends": dict(ends), "patience": patience}))
        for process in self._processes:
            code = await process.wait()
            assert code == 0, f"a process of subscribers ended with {code}"
        await asyncio.gather(*self._reading)

    def check(self) -> None:
        """Raises when a process of subscribers has ended."""
        for process in self._processes:
            assert process.returncode is None, f"a process of subscribers ended with {process.returncode}"

    def _tell(self, process: Process, text: str) -> None:
        assert process.stdin is not None
        process.stdin.write(text.encode() + b"\n")

    async def _read(self, number: int, process: Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            said = json.loads(line)
            self._heard[number] = said["delivered"]
            self.late += said.get("late", ())


def seats(sessions: Sequence[str], hot: int, others: int) -> Sequence[Place]:
    """`hot` watchers of the first session, `others` spread over the rest, and three feeds: one of everything from the
    first event on, one from now on, one of half of the sessions. A third watches through the library; some come and go.
    """
    watched = [sessions[0]] * hot + [sessions[1 + number % (len(sessions) - 1)] for number in range(others)]
    places = [
        Place(
            f"session-{number}",
            session_id,
            library=number % 3 == 0,
            replica=number % 3,
            from_beginning=number % 5 == 0,
            absent=number % 6 == 1,
        )
        for number, session_id in enumerate(watched)
    ]
    half = tuple(sessions[::2])
    return [
        *places,
        Place("feed-all", "", library=False, replica=0, from_beginning=True),
        Place("feed-now", "", library=True, replica=1),
        Place("feed-half", "", library=False, replica=2, from_beginning=True, absent=True, only=half),
    ]
