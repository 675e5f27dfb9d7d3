"""A running sessiond with data in it: what every row of the benchmark measures against."""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from benchmarks.load import Script
from benchmarks.processes import Descendants, running, wait_until
from sessiond.v1.message_pb2 import Message, Part, Role
from sessiond.v1.message_service_pb2 import AppendMessagesRequest
from sessiond.v1.message_service_pb2_grpc import MessageServiceStub
from sessiond.v1.session_pb2 import Session, SessionStatus, SessionType
from sessiond.v1.session_service_pb2 import CreateSessionRequest
from sessiond.v1.session_service_pb2_grpc import SessionServiceStub
from sessiond_server.rpc.probe import health

_SENTENCES = (
    "I looked the reservation up: it is a round trip with two bags, and it can still be changed without a fee.",
    "Could you tell me whether the earlier flight has seats left, and what the difference in price would be?",
    "The second option leaves at half past nine and arrives before noon; shall I book it for both passengers?",
    "Yes please, and send the receipt to the address that you already have on file.",
)
LARGEST_APPEND = 256


def message(number: int) -> Message:
    """About 260 bytes: what one turn of a chat holds on average, without tool output."""
    text = " ".join(_SENTENCES[(number + i) % len(_SENTENCES)] for i in range(2))
    return Message(role=Role.ROLE_ASSISTANT if number % 2 else Role.ROLE_USER, parts=[Part(text=text)])


def new_session(session_id: str, number: int = 0) -> Session:
    """About 500 bytes, a third of them content."""
    session = Session(
        session_id=session_id,
        type=SessionType.SESSION_TYPE_AGENT,
        agent_id=f"agent-{number % 7}",
        user_id=f"user-{number % 1000}",
        name=f"Change of reservation {number}",
        status=SessionStatus.SESSION_STATUS_ACTIVE,
        labels={"channel": "web", "plan": ("free", "pro")[number % 2]},
    )
    session.metadata.update({"locale": "en-GB", "customer": f"c-{number}", "tags": ["travel", "change"]})
    session.state.update({"step": "choose", "reservation": "Q7XK2M", "passengers": 2})
    return session


class Site:
    """One server and what is needed to fill it."""

    def __init__(self, port: int, server: Descendants, postgres: Descendants | None) -> None:
        self.port = port
        self.server = server
        self.postgres = postgres
        self._channel = grpc.insecure_channel(
            f"127.0.0.1:{port}", options=[("grpc.max_receive_message_length", 16 << 20)]
        )
        self.sessions = SessionServiceStub(self._channel)
        self.messages = MessageServiceStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def fresh(self, prefix: str, count: int, messages: int = 0) -> list[str]:
        """Ids of new active sessions, each with so many messages."""
        ids = [f"{prefix}-{secrets.token_hex(6)}-{number}" for number in range(count)]
        _all(
            lambda one: self.sessions.CreateSession.future(
                CreateSessionRequest(session=new_session(ids[one], one)), timeout=60
            ),
            range(count),
        )
        self.extend(ids, messages)
        return ids

    def extend(self, ids: Sequence[str], messages: int) -> None:
        """Appends so many messages to each session."""
        body = [message(number) for number in range(LARGEST_APPEND)]
        for start in range(0, messages, LARGEST_APPEND):
            batch = body[: min(LARGEST_APPEND, messages - start)]
            _all(
                lambda one, batch=batch: self.messages.AppendMessages.future(  # type: ignore[misc]
                    AppendMessagesRequest(session_id=one, messages=batch), timeout=60
                ),
                ids,
            )

    def answers(self, scripts: Sequence[Script]) -> dict[str, bytes]:
        """One answer to each method of the scripts, of median size where a method occurs several times."""
        seen: dict[str, list[bytes]] = {}
        for script in scripts[:16]:
            run = secrets.token_hex(12)
            for step in script:
                call: Callable[..., bytes] = self._channel.unary_unary(step.method)
                body = step.body.replace(b"%run--unique-identifier%", run.encode())
                body = body.replace(b"%call-unique-identifier%", secrets.token_hex(12).encode())
                seen.setdefault(step.method, []).append(call(body, timeout=60))
        return {method: sorted(some, key=len)[len(some) // 2] for method, some in seen.items()}


def _all(start: Callable[[Any], "grpc.Future[Any]"], items: Sequence[Any], window: int = 64) -> None:
    """Makes one call for each item, at most `window` at a time. Raises what any of them raises."""
    under_way: list[grpc.Future[Any]] = []
    for item in items:
        under_way.append(start(item))
        if len(under_way) == window:
            under_way.pop(0).result()
    for future in under_way:
        future.result()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def serving(
    dsn: str | None,
    folder: Path,
    postgres: Descendants | None,
    redis_url: str = "",
    environment: Mapping[str, str] | None = None,
) -> Iterator[Site]:
    """`sessiond serve` on a database (None: in memory), on loopback, with the settings of a plain installation.

    `redis_url` empty: without a cache.
    """
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "sessiond_server",
        "serve",
        "--listen",
        f"127.0.0.1:{port}",
        "--log-level",
        "warning",
    ]
    if dsn is None:
        command += ["--store", "memory"]
    settings = {
        "SESSIOND_POSTGRES_DSN": dsn or "",
        "DATABASE_URL": "",
        "SESSIOND_REDIS_URL": redis_url,
        **(environment or {}),
    }
    with running(command, log=folder / "sessiond.log", environment=settings) as process:
        wait_until(lambda: health("127.0.0.1", port, 0.5) == "SERVING", process)
        site = Site(port, Descendants(process.pid), postgres)
        try:
            yield site
        finally:
            site.close()


def _listens(port: int) -> bool:
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    try:
        grpc.channel_ready_future(channel).result(timeout=0.5)
    except grpc.FutureTimeoutError:
        return False
    finally:
        channel.close()
    return True


def commit() -> str:
    """Of the working tree; "+" when it has changes."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"


def machine() -> str:
    """Processor, cores and memory, in one line."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "unknown processor",
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    python = sys.version.split()[0]
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, Linux {os.uname().release}, Python {python}"


def today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())
