"""A worker that does what a script says, in place of one that serves: `python scripted_worker.py SCRIPT FD`.

Each start takes the next line of the script: `serve`; `fail CODE` (ends before it serves); `crash` (serves, and ends by
itself once it is asked for its metrics); `hang` (serves, and stands still from then on); `mute` (stands still before it
serves); `deaf` (serves, and does not stop). After the last line all serve.
"""

import asyncio
import fcntl
import os
import signal
import socket
import sys
from importlib.metadata import version
from pathlib import Path

from sessiond_server.app.workers.link import Alive, AskMetrics, Link, Metrics, Ready, introduction
from sessiond_server.metrics.totals import Family

COUNTER = "served"


def following(script: Path) -> str:
    """The next line, which is taken away."""
    with script.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        first, *rest = file.read().splitlines() or ["serve"]
        file.seek(0)
        file.truncate()
        file.write("\n".join(rest))
    return first


async def act(supervisor: socket.socket, what: str) -> int:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, (lambda: None) if what == "deaf" else stop.set)
    supervisor.setblocking(False)
    link = await Link.over(supervisor)
    if what == "mute":
        os.kill(os.getpid(), signal.SIGSTOP)
    link.send(Ready(keys=7))

    async def alive() -> None:
        while True:
            link.send(Alive())
            await asyncio.sleep(0.05)

    async def answers() -> None:
        while (message := await link.receive()) is not None:
            assert isinstance(message, AskMetrics)
            link.send(Metrics([Family(COUNTER, "", "counter", {(f"{COUNTER}_total", ()): 1.0})]))
            if what == "crash":
                await link.close()
                os._exit(9)
        stop.set()

    if what == "hang":
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGSTOP)
    tasks = [asyncio.create_task(alive()), asyncio.create_task(answers())]
    await stop.wait()
    for task in tasks:
        task.cancel()
    await link.close()
    return 0


def main(script: str, descriptor: str) -> int:
    supervisor = socket.socket(fileno=int(descriptor))
    introduction(supervisor, version("sessiond"))
    what, _, code = following(Path(script)).partition(" ")
    return int(code) if what == "fail" else asyncio.run(act(supervisor, what))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
