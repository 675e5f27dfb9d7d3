"""`sessiond` as the operator runs it: a process, its output, its exit code."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from sessiond_server.embedded.process import tied
from tests.support.waiting import PATIENCE, until


def environment(**variables: str) -> dict[str, str]:
    """Ours, without settings of sessiond but those given."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SESSIOND_") and k != "DATABASE_URL"}
    return {**kept, **variables}


def command(*arguments: str | Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Runs `sessiond` with the arguments to its end."""
    return subprocess.run(
        [sys.executable, "-m", "sessiond_server", *map(str, arguments)],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@contextmanager
def data_folder() -> Iterator[Path]:
    """A fresh folder for bundled servers, where the account that root runs Postgres as can reach it."""
    with tempfile.TemporaryDirectory(prefix="sessiond-tests-") as folder:
        path = Path(folder)
        path.chmod(0o711)
        yield path / "data"


@dataclass(slots=True)
class Serving:
    """A running `sessiond serve`."""

    process: asyncio.subprocess.Process
    announced: str
    port: int
    log: Path

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Signals it and waits; the exit code."""
        self.process.send_signal(how)
        return await self.ended()

    async def ended(self) -> int:
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()

    async def rest(self) -> str:
        """What it has printed since it was up, once it has ended."""
        assert self.process.stdout is not None
        return (await self.process.stdout.read()).decode()

    async def metrics(self) -> dict[str, float]:
        """What it serves to Prometheus: values by "NAME LABEL LABEL", labels in the order of their names."""
        found = re.search(r"metrics +(http://\S+)", self.announced)
        assert found, self.announced
        with await asyncio.to_thread(urlopen, found[1], timeout=PATIENCE) as answer:
            text = answer.read().decode()
        return {
            " ".join([sample.name, *(value for _, value in sorted(sample.labels.items()))]): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    async def until_metric(self, name: str, value: float) -> None:
        """Waits for the metric to be there and have the value."""
        found = None
        try:
            async with asyncio.timeout(PATIENCE):
                while (found := (await self.metrics()).get(name)) != value:  # noqa: ASYNC110  another process
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{name} is {found}, and not {value}") from None

    async def until_logged(self, text: str) -> None:
        await until(lambda: text in self.log.read_text())


@asynccontextmanager
async def serving(*arguments: str | Path, **variables: str) -> AsyncIterator[Serving]:
    """`sessiond serve` on a free port, up; killed in the end unless it has ended."""
    with tempfile.NamedTemporaryFile(prefix="sessiond-log-") as log:
        process = await asyncio.create_subprocess_exec(
            *_serve(arguments),
            env=environment(**variables),
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            stdin=asyncio.subprocess.DEVNULL,
        )
        try:
            announced = await _announced(process, Path(log.name))
            found = re.search(r"listening +\S+:([0-9]+)", announced)
            assert found, announced
            yield Serving(process, announced, int(found[1]), Path(log.name))
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


def _serve(arguments: Sequence[str | Path]) -> list[str]:
    command = [sys.executable, "-m", "sessiond_server", "serve", "--listen", "127.0.0.1:0", *arguments]
    return tied(command, signal.SIGKILL)


async def _announced(process: asyncio.subprocess.Process, log: Path) -> str:
    assert process.stdout is not None
    lines = ""
    async with asyncio.timeout(PATIENCE):
        while "\n  next " not in lines:
            line = await process.stdout.readline()
            if not line:
                await process.wait()
                raise AssertionError(_failure(process.returncode, log))
            lines += line.decode()
    return lines


def _failure(code: int | None, log: Path) -> str:
    return f"serve ended with {code}: {log.read_text()}"
