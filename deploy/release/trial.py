"""Tries an installed sessiond: starts the service with its bundled servers, appends a message, and watches it arrive.

    /empty/environment/bin/python -I trial.py VERSION

Exit status 0: it works, and is that version.
"""

import asyncio
import re
import signal
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import sessiond
from sessiond_server.embedded.process import tied

PATIENCE = 120.0
"""Seconds after which a step has failed."""


async def use(address: str) -> None:
    """One append, and one watch that sees it."""
    async with sessiond.Client(address, timeout=PATIENCE) as client:
        session = await client.create_session(active=True)
        async with client.watch(session.session_id) as watch:
            appended = await client.append_messages(session.session_id, [sessiond.user("Is anybody there?")])
            event = await anext(watch)
        if (event.seq, sessiond.text_of(event.message)) != (appended.version, "Is anybody there?"):
            raise SystemExit(f"the watch has seen something else: {event}")


async def serve_and_use(data: Path) -> None:
    serve = ("-m", "sessiond_server", "serve", "--listen", "127.0.0.1:0", "--data-dir", str(data))
    command = tied([sys.executable, "-I", *serve], signal.SIGKILL)
    server = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert server.stdout is not None
        said = ""
        while not (found := re.search(r"listening +(\S+:\d+)", said)):
            line = await server.stdout.readline()
            if not line:
                raise SystemExit(f"the service has not started: {said}")
            said += line.decode()
        reading = asyncio.create_task(server.stdout.read())
        await use(found[1])
        server.terminate()
        await reading
        if status := await server.wait():
            raise SystemExit(f"the service has ended with {status}")
    finally:
        if server.returncode is None:
            server.kill()
            await server.wait()


async def main(expected: str) -> None:
    if version("sessiond") != expected:
        raise SystemExit(f"{version('sessiond')} is installed, not {expected}")
    with tempfile.TemporaryDirectory(prefix="sessiond-trial-") as folder:
        # Root runs the bundled Postgres as an account of its own, which must be able to enter.
        Path(folder).chmod(0o711)
        async with asyncio.timeout(PATIENCE):
            await serve_and_use(Path(folder) / "data")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
