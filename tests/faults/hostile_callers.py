"""Hostile clients beside good ones: none of the good ones' calls may fail, and memory stays bounded (G12)."""

import asyncio
import random
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import sessiond
from sessiond.v1.message_pb2 import Message, Part, Role
from sessiond_server.auth import new_key
from tests.support import attacks
from tests.support.serve_process import Serving, serving

ATTACK_SECONDS = 4.0
BASELINE_SECONDS = 10.0
GOOD = 16
"""Callers of the good tenant."""
MOST_MIB = 1024


@dataclass
class Calls:
    """Of the good tenant."""

    seconds: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def p99(self) -> float:
        return sorted(self.seconds)[int(len(self.seconds) * 0.99)] if self.seconds else float("nan")


@dataclass(frozen=True, slots=True)
class Report:
    attacks: int
    good: int
    complaints: list[str]
    ratio: float
    """p99 of the good tenant's calls beside attacks, to that beside the other tenant's honest calls alone."""
    own_ratio: float
    """The same, to that beside the same attacks on another server of the machine: what is this server's own doing, and
    not that of attackers who take the processor."""
    peak_mib: float
    seconds: float

    @property
    def sound(self) -> bool:
        return not self.complaints and self.good > 0 and self.peak_mib <= MOST_MIB

    def line(self) -> str:
        return (
            f"attacks={self.attacks} good={self.good} seconds={self.seconds:.1f} good_failed={len(self.complaints)} "
            f"good_p99_ratio={self.ratio:.2f} own_p99_ratio={self.own_ratio:.2f} peak_mib={self.peak_mib:.0f}"
        )


async def campaign(
    postgres_dsn: str, log: Path, *, faults: int, seed: int, rate: float, progress: Callable[[str], None]
) -> Report:
    """Attacks `faults` times, in an order that `seed` chooses, while `rate` good calls a second go on."""
    chance, began = random.Random(seed), time.monotonic()
    keys = dict(new_key(name, name) for name in ("loud", "quiet"))
    file = log.parent / "keys.toml"
    file.write_text("".join(keys.values()))
    loud_key, quiet_key = keys
    order = chance.sample(attacks.NAMES, len(attacks.NAMES))
    complaints: list[str] = []
    flags = ("--keys-file", file, "--watch-write-timeout", "1s")
    async with (
        serving(*flags, SESSIOND_POSTGRES_DSN=postgres_dsn) as server,
        serving("--store", "memory", *flags) as other_server,
    ):
        once = sessiond.Retry(max_attempts=1)
        async with (
            sessiond.Client(server.target, api_key=quiet_key, timeout=20, retry=once) as quiet,
            sessiond.Client(server.target, api_key=loud_key, timeout=20) as loud,
            sessiond.Client(other_server.target, api_key=loud_key, timeout=20) as elsewhere,
        ):
            session_id, other_session_id = await _large_session(loud), await _large_session(elsewhere)
            # In a program of its own too: the latency of good calls is not to be that of a busy client.
            async with _attacking(server, loud_key, session_id, attacks.HONEST, 3600.0):
                normal = await _good_calls(quiet, rate, asyncio.sleep(BASELINE_SECONDS))
                complaints += normal.failed
                beside, control = Calls(), Calls()
                for number in range(faults):
                    name = order[number % len(order)]
                    apart = await _good_calls(quiet, rate, _attack(other_server, loud_key, other_session_id, name))
                    calls = await _good_calls(quiet, rate, _attack(server, loud_key, session_id, name))
                    control.seconds += apart.seconds
                    beside.seconds += calls.seconds
                    complaints += [f"{name}: {failure}" for failure in (*apart.failed, *calls.failed)]
                    progress(
                        f"{number + 1} of {faults} attacks: {name}, {len(calls.seconds)} good calls, "
                        f"{len(calls.failed)} failed, p99 {calls.p99() * 1000:.0f} ms, beside the same attack on "
                        f"another server {apart.p99() * 1000:.0f} ms ({len(apart.seconds)} calls), beside none "
                        f"{normal.p99() * 1000:.0f} ms; {_mib(server, 'VmRSS'):.0f} MiB"
                    )
        peak = _mib(server, "VmHWM")
        log.write_bytes(server.log.read_bytes())
        complaints += [line for line in log.read_text(errors="replace").splitlines() if " ERROR " in line]
    good = len(normal.seconds) + len(control.seconds) + len(beside.seconds)
    ratios = beside.p99() / normal.p99(), beside.p99() / control.p99()
    return Report(faults, good, complaints, *ratios, peak, time.monotonic() - began)


async def _large_session(loud: sessiond.Client) -> str:
    session = await loud.create_session(active=True, timeout=60)
    for _ in range(3):
        large = Message(role=Role.ROLE_USER, parts=[Part(text="x" * 900_000)])
        await loud.append_messages(session.session_id, [large], timeout=60)
    return session.session_id


async def _good_calls(quiet: sessiond.Client, rate: float, meanwhile: Awaitable[None]) -> Calls:
    """Appends and reads at the rate until `meanwhile` has ended."""
    calls, ended = Calls(), asyncio.Event()
    session = await quiet.create_session(active=True)

    async def caller(number: int) -> None:
        clock = asyncio.get_running_loop().time
        pause = GOOD / rate
        due = clock() + pause * number / GOOD
        while not ended.is_set():
            await asyncio.sleep(max(0.0, due - clock()))
            due = max(due, clock() - pause) + pause
            began = clock()
            try:
                if number % 2:
                    await quiet.append_messages(session.session_id, [sessiond.user("good")])
                else:
                    await quiet.get_session(session.session_id)
            except sessiond.SessiondError as error:
                calls.failed.append(repr(error))
            calls.seconds.append(clock() - began)

    async with asyncio.TaskGroup() as tasks:
        for number in range(GOOD):
            tasks.create_task(caller(number))
        await meanwhile
        ended.set()
    return calls


async def _attack(server: Serving, key: str, session_id: str, name: str) -> None:
    async with _attacking(server, key, session_id, name, ATTACK_SECONDS) as process:
        _, wrong = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the attack {name} failed: {wrong.decode()[-2000:]}")


@asynccontextmanager
async def _attacking(
    server: Serving, key: str, session_id: str, name: str, seconds: float
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The program that does it, killed in the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.attacks", str(server.port), key, session_id, name, str(seconds),
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _mib(server: Serving, what: str) -> float:
    found = re.search(rf"{what}:\s+(\d+)", Path(f"/proc/{server.process.pid}/status").read_text())
    assert found
    return int(found[1]) / 1024
