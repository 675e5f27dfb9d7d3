"""One channel carries any number of calls at once, from 1 to 2 000, streams among them: none is refused.

Callers in other languages are programs in the folders beside this file. They are built once, into `build/callers`;
where their toolchain or their packages are not to be had, their tests are skipped.
"""

import asyncio
import base64
import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

import sessiond
from sessiond.v1 import session_service_pb2 as s
from sessiond.v1.event_service_pb2 import WatchSessionRequest
from tests.support.programs import output_of
from tests.support.wire import TENANT, Wire, serving

HERE = Path(__file__).parent
BUILT = HERE.parents[1] / "build" / "callers"
GET = s.GetSessionRequest(session_id="busy").SerializeToString()
WATCH = WatchSessionRequest(session_id="busy").SerializeToString()
PATIENCE = 240.0
COMBINATIONS = ((1, 0), (256, 50), (600, 300), (1000, 1000), (2000, 0))
QUICK = ((1, 0), (256, 50))
"""(calls at once, streams that are open meanwhile)."""
EACH = 2
"""Calls that each caller makes, one after the other."""


@pytest.fixture
async def busy() -> AsyncIterator[Wire]:
    async with serving() as wire:
        await wire.create("busy")
        yield wire


COMBINED = pytest.mark.parametrize(
    ("callers", "streams"),
    [pytest.param(*each, marks=() if each in QUICK else pytest.mark.long) for each in COMBINATIONS],
)


@COMBINED
async def test_plain_stub_is_never_refused(busy: Wire, callers: int, streams: int) -> None:
    ends: Counter[str] = Counter()
    metadata = (("authorization", f"Bearer {TENANT}"),)
    get: Any = busy.channel.unary_unary("/sessiond.v1.SessionService/GetSession")
    watch: Any = busy.channel.unary_stream("/sessiond.v1.EventService/WatchSession")
    opened = [watch(WATCH, metadata=metadata, timeout=PATIENCE) for _ in range(streams)]

    async def attempt(call: Any) -> None:
        try:
            await call
            ends["OK"] += 1
        except grpc.aio.AioRpcError as error:
            ends[f"{error.code().name} {error.details()}"] += 1

    async def caller() -> None:
        for _ in range(EACH):
            await attempt(get(GET, metadata=metadata, timeout=PATIENCE))

    await asyncio.gather(*(attempt(stream.read()) for stream in opened))
    await asyncio.gather(*(caller() for _ in range(callers)))
    for stream in opened:
        stream.cancel()
    assert ends == {"OK": callers * EACH + streams}


@COMBINED
async def test_client_is_never_refused(busy: Wire, callers: int, streams: int) -> None:
    async with sessiond.Client(
        f"127.0.0.1:{busy.port}", api_key=TENANT, timeout=PATIENCE, retry=sessiond.Retry(max_attempts=1)
    ) as client:
        watching = [asyncio.create_task(_first_update(client)) for _ in range(streams)]

        async def caller() -> None:
            for _ in range(EACH):
                assert (await client.get_session("busy")).session_id == "busy"

        await asyncio.gather(*(caller() for _ in range(callers)))
        await asyncio.gather(*watching)


async def _first_update(client: sessiond.Client) -> None:
    async with client.watch("busy", from_beginning=True) as watch:
        async for _ in watch:
            return


@pytest.mark.long
@COMBINED
@pytest.mark.parametrize("language", ["go", "java", "node"])
async def test_other_languages_are_never_refused(busy: Wire, language: str, callers: int, streams: int) -> None:
    program = await asyncio.to_thread(PROGRAMS[language])
    out = await output_of(
        *program,
        f"127.0.0.1:{busy.port}",
        TENANT,
        *map(str, (callers, EACH, streams)),
        *(base64.b64encode(request).decode() for request in (GET, WATCH)),
    )
    assert json.loads(out) == {"OK": callers * EACH + streams}


def _go() -> Sequence[str]:
    program = BUILT / "go"
    _build(program, HERE / "go", ("go", "build", "-trimpath", "-o", str(program), "."), "go")
    return (str(program),)


def _node() -> Sequence[str]:
    folder = BUILT / "node"
    folder.mkdir(parents=True, exist_ok=True)
    for file in (HERE / "node").glob("*.js*"):
        shutil.copy2(file, folder)
    _build(
        folder / "node_modules" / "@grpc" / "grpc-js" / "package.json",
        folder,
        ("npm", "install", *_QUIET),
        "node",
        "npm",
    )
    return ("node", str(folder / "main.js"))


def _java() -> Sequence[str]:
    folder = BUILT / "java"
    classes, libraries = folder / "classes", folder / "libraries"
    copied = ("mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={libraries}")
    _build(libraries, HERE / "java", copied, "mvn", "java", "javac")
    source = HERE / "java/src/main/java/Main.java"
    path = f"{libraries}/*"
    _build(
        classes / "Main.class", HERE, ("javac", "-cp", path, "-d", str(classes), str(source)), "javac", source=source
    )
    return ("java", "-cp", f"{classes}:{path}", "Main")


_QUIET = ("--no-package-lock", "--no-audit", "--no-fund", "--silent")
PROGRAMS: dict[str, Callable[[], Sequence[str]]] = {"go": _go, "java": _java, "node": _node}


def _build(made: Path, folder: Path, command: Sequence[str], *tools: str, source: Path | None = None) -> None:
    """Makes a file or folder that is not there yet, or is older than the source; or skips the test."""
    sources = [source] if source else [path for path in folder.iterdir() if path.is_file()]
    if made.exists() and made.stat().st_mtime >= max(path.stat().st_mtime for path in sources):
        return
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"there is no {tool}")
    made.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command, cwd=folder, env=dict(os.environ), capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{command[0]} cannot have or build what is needed: {(done.stderr or done.stdout)[-300:]}")
    made.touch()
