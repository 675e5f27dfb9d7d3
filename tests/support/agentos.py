"""The agent platform AgentOS as published, in an environment of its own below `build`."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import httpx
import pytest

from sessiond_server.embedded.process import tied
from tests.support.ports import free_port
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / "build" / "agentos"
REQUIREMENTS = ROOT / "benchmarks" / "peers" / "agentos.txt"
PROGRAM = ROOT / "tests" / "support" / "agentos_platform.py"
REQUIRED = "SESSIOND_REQUIRE_AGENTOS"
"""Set in CI: tests that need the platform fail where it cannot be installed, where they would be skipped."""
SECONDS = 900
"""That pip may take."""


def interpreter() -> Path:
    """Of an environment that has the platform, in the version of the requirements; installed the first time. Skips the
    test, or fails it, where it cannot be installed."""
    python, stamp = ENVIRONMENT / "bin" / "python", ENVIRONMENT / ".installed"
    ENVIRONMENT.parent.mkdir(exist_ok=True)
    with (ENVIRONMENT.parent / ".agentos.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests of several processes share the folder
        if stamp.exists() and stamp.read_text() == REQUIREMENTS.read_text():
            return python
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
        pip = (python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "-r", REQUIREMENTS)
        if subprocess.run(pip, check=False, timeout=SECONDS).returncode:
            reason = "pip cannot install AgentOS: see what it says above"
            pytest.fail(reason) if os.environ.get(REQUIRED) else pytest.skip(reason)
        stamp.write_text(REQUIREMENTS.read_text())
    return python


@asynccontextmanager
async def serving(dsn: str) -> AsyncIterator[httpx.AsyncClient]:
    """The platform on a database, and a client of it."""
    port = free_port()
    # SQLAlchemy takes the port of a Unix socket for a part of its name.
    url = urlunsplit(urlsplit(dsn)._replace(scheme="postgresql+asyncpg")).removesuffix("&port=5432")
    command = tied([interpreter(), PROGRAM, url, str(port)], signal.SIGKILL)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: ASYNC220 - at once
    try:
        # It closes the connection behind an internal error, without saying so.
        limits = httpx.Limits(max_keepalive_connections=0)
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False, limits=limits) as client:

            async def answers() -> bool:
                assert process.poll() is None, "AgentOS has ended"
                try:
                    return (await client.get("/health")).status_code == 200
                except httpx.TransportError:
                    return False

            await until(answers)
            yield client
    finally:
        process.kill()
        process.wait()
