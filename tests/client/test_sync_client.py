"""What is the synchronous client's own: threads, interrupts, callbacks, forks, exits. What both clients do is tested by
the tests of this folder that run over both."""

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from deploy import sync_client

import sessiond
from sessiond.loop_thread import wait
from tests.support.both_clients import TWINS, in_thread
from tests.support.client_service import Service
from tests.support.scripted_server import ScriptedServer, Wait

HERE = Path(__file__).name


@pytest.fixture
async def blocking(service: Service) -> AsyncIterator[sessiond.SyncClient]:
    client = sessiond.SyncClient(service.target)
    yield client
    await in_thread(client.close)


def test_the_generated_file_is_up_to_date() -> None:
    assert sync_client.WRITTEN.read_text(encoding="utf-8") == sync_client.generated()


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.__name__)
def test_surface_is_that_of_the_async_class(twin: type) -> None:
    def parameters(method: Any) -> list[tuple[str, Any, Any]]:
        return [(each.name, each.kind, each.default) for each in inspect.signature(method).parameters.values()]

    def public(kind: type) -> dict[str, Any]:
        return {name: value for name, value in inspect.getmembers(kind) if not name.startswith("_")}

    own, others = public(twin), public(TWINS[twin])
    renamed = {"aclose": "close"}
    hidden = {"held", "while_held", "fetch", "items", "first_token"}
    expected = {renamed.get(name, name): value for name, value in others.items() if name not in hidden}
    made = {name for name in own if isinstance(getattr(twin, name), property) and name not in expected}
    assert own.keys() - made == expected.keys()
    for name, method in expected.items():
        if inspect.isfunction(method):
            assert parameters(own[name]) == parameters(method), name
            assert not inspect.iscoroutinefunction(own[name])
    # What is a property there or here only is an attribute of the instance there.
    source = inspect.getsource(TWINS[twin])
    assert all(f"self.{name}" in source for name in made)


async def test_many_threads_share_a_client(blocking: sessiond.SyncClient) -> None:
    session_id = (await in_thread(blocking.create_session, active=True)).session_id

    def append(number: int) -> int:
        return blocking.append_messages(session_id, [sessiond.user(str(number))]).first_seq

    def race() -> list[int]:
        with ThreadPoolExecutor(16) as pool:
            return list(pool.map(append, range(64)))

    assert sorted(await in_thread(race)) == list(range(2, 66))
    assert len(await in_thread(lambda: list(blocking.list_messages(session_id, page_size=10)))) == 64


async def test_error_is_the_same_class_and_shows_the_callers_line(blocking: sessiond.SyncClient) -> None:
    with pytest.raises(sessiond.SessionNotFound) as caught:
        await in_thread(lambda: blocking.get_session("gone"))
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert any(Path(frame.filename).name == HERE and "get_session" in (frame.line or "") for frame in frames)
    assert caught.value.session_id == "gone"


async def test_call_in_a_thread_with_a_running_loop_says_what_to_do(blocking: sessiond.SyncClient) -> None:
    with pytest.raises(RuntimeError, match=r"use sessiond\.Client and await"):
        blocking.get_session("s")
    with pytest.raises(RuntimeError, match=r"asyncio\.to_thread"):
        next(iter(blocking.list_sessions()))


async def test_close_ends_what_waits_in_other_threads(server: ScriptedServer) -> None:
    client = sessiond.SyncClient(server.target)
    server.always = Wait(asyncio.Event())
    with pytest.raises(sessiond.ClientClosed):
        await asyncio.gather(in_thread(client.get_session, "s"), close_after(server, client), return_exceptions=False)
    with pytest.raises(sessiond.ClientClosed):
        await in_thread(client.get_session, "s")
    await in_thread(client.close)


async def close_after(server: ScriptedServer, client: sessiond.SyncClient) -> None:
    await server.arrived.wait()
    await in_thread(client.close)


async def test_closed_watch_ends_in_the_thread_that_reads_it(blocking: sessiond.SyncClient) -> None:
    session_id = (await in_thread(blocking.create_session, active=True)).session_id
    first, seen = asyncio.Event(), []
    loop = asyncio.get_running_loop()
    watch = blocking.watch(session_id, from_beginning=True)

    def read() -> None:
        for event in watch:
            seen.append(event.seq)
            loop.call_soon_threadsafe(first.set)

    reading = asyncio.ensure_future(in_thread(read))
    await first.wait()
    await in_thread(watch.close)
    await reading
    assert seen == [1]


async def test_lists_can_be_closed_and_retried(blocking: sessiond.SyncClient) -> None:
    for number in range(3):
        await in_thread(blocking.create_session, f"s{number}")

    def read() -> list[str]:
        with iter(blocking.list_sessions(order_by="create_time_asc", page_size=2)) as sessions:
            found = [next(sessions).session_id]
        return [*found, *(session.session_id for session in sessions)]

    assert await in_thread(read) == ["s0"]


async def test_callbacks_run_in_the_thread_that_waits(blocking: sessiond.SyncClient, tmp_path: Path) -> None:
    session_id = (await in_thread(blocking.create_session, active=True)).session_id
    threads: set[threading.Thread] = set()
    figures: list[tuple[int, int]] = []

    class Store:
        saved: list[str] = []  # noqa: RUF012

        def load(self) -> str | None:
            threads.add(threading.current_thread())
            return self.saved[-1] if self.saved else None

        def save(self, position: str) -> None:
            threads.add(threading.current_thread())
            self.saved.append(position)

    def pieces() -> Iterator[bytes]:
        for _ in range(5):
            threads.add(threading.current_thread())
            yield bytes(300_000)

    def progress(done: int, whole: int) -> None:
        threads.add(threading.current_thread())
        figures.append((done, whole))

    def work() -> tuple[threading.Thread, bytes, list[int], list[int]]:
        uploaded = blocking.upload(session_id, pieces(), progress=progress)
        content = blocking.download(session_id, uploaded.attachment_id, progress=progress).read()
        store = Store()
        seqs: list[list[int]] = []
        for _ in range(2):
            with blocking.watch(session_id, store=store, from_beginning=not seqs) as watch:
                seqs.append([])
                if not seqs[0]:
                    seqs[-1] += [next(watch).seq, next(watch).seq]
                    watch.ack()
                else:
                    blocking.append_messages(session_id, [sessiond.user("hi")])
                    seqs[-1].append(next(watch).seq)
        return threading.current_thread(), content, seqs[0], seqs[1]

    thread, content, first, second = await in_thread(work)
    assert threads == {thread}
    assert content == bytes(1_500_000)
    assert figures[-1] == (1_500_000, 1_500_000)
    assert (first, second) == ([1, 2], [3])


async def test_file_positions_serve_both_clients(blocking: sessiond.SyncClient, tmp_path: Path) -> None:
    session_id = (await in_thread(blocking.create_session, active=True)).session_id
    path = tmp_path / "position"

    def work() -> None:
        with blocking.watch(session_id, store=sessiond.FilePositions(path), from_beginning=True) as watch:
            next(watch)
            watch.ack()

    await in_thread(work)
    assert path.read_text()


async def test_error_of_a_callback_cancels_the_call(blocking: sessiond.SyncClient) -> None:
    session_id = (await in_thread(blocking.create_session, active=True)).session_id

    def fails(done: int, whole: int) -> None:
        raise LookupError("no progress bar")

    with pytest.raises(LookupError, match="no progress bar"):
        await in_thread(blocking.upload, session_id, bytes(1_000_000), progress=fails)

    class Broken:
        def load(self) -> str | None:
            raise LookupError("no position")

        def save(self, position: str) -> None: ...

    with pytest.raises(LookupError, match="no position"):
        await in_thread(next, blocking.watch(session_id, store=Broken()))
    assert (await in_thread(blocking.get_session, session_id)).version == 1


async def test_calls_through_a_lost_run_raise_run_fenced(blocking: sessiond.SyncClient) -> None:
    session_id = (await in_thread(blocking.create_session, active=True)).session_id
    await in_thread(blocking.request_tool_call, session_id, "tool", tool_call_id="t", requires_approval=True)
    entered = threading.Event()

    def block(run: sessiond.SyncLiveRun) -> None:
        with run:
            entered.set()
            with pytest.raises(sessiond.RunFenced) as waited:
                run.wait_for_decision("t")
            assert run.lost is waited.value
            with pytest.raises(sessiond.RunFenced) as late:
                run.append_messages([sessiond.user("late")])
            assert late.value is run.lost

    run = blocking.run(session_id, lease=5)
    working = asyncio.ensure_future(in_thread(block, run))
    await in_thread(entered.wait)
    # The tool call is not the run's and stays open: that the wait ends is the heartbeat's doing.
    await in_thread(blocking.begin_run, session_id, policy="interrupt")
    with pytest.raises(sessiond.RunFenced) as ended:
        await working
    assert ended.value is run.lost
    assert run.finished is None
    assert (await in_thread(blocking.get_run, session_id, run.run_id)).end_reason


async def test_wait_for_decision_has_a_time_limit(blocking: sessiond.SyncClient) -> None:
    session_id = (await in_thread(blocking.create_session, active=True)).session_id
    await in_thread(blocking.request_tool_call, session_id, "tool", tool_call_id="t", requires_approval=True)
    with pytest.raises(sessiond.DeadlinePassed):
        await in_thread(blocking.wait_for_decision, session_id, "t", timeout=0.05)


PROGRAMS = {
    "interrupt": """
import os, signal, threading
with sessiond.SyncClient(target) as client:
    session = client.create_session(active=True)
    for wait in (
        lambda: next(client.watch(session.session_id)),
        lambda: client.wait_for_decision(session.session_id, "t"),
    ):
        client.request_tool_call(session.session_id, "tool", tool_call_id="t", requires_approval=True, request_id="r")
        timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        try:
            next(watch) if False else wait()
            # The first frame of a watch is no item, so both wait for ever.
        except KeyboardInterrupt:
            print("interrupted", client.get_session(session.session_id).session_id == session.session_id)
        timer.join()
""",
    "exit": """
client = sessiond.SyncClient(target)
session = client.create_session(active=True)
watch = client.watch(session.session_id, from_beginning=True)
print(next(watch).seq)
draft = client.draft(session.session_id)
draft.__enter__()
draft.write("unfinished")
""",
    "exit while another thread waits": """
import threading
client = sessiond.SyncClient(target)
session = client.create_session(active=True)
watch = client.watch(session.session_id)
watch.__enter__()
threading.Thread(target=next, args=(watch,), daemon=True).start()
print(1)
""",
    "at exit": """
import atexit
client = sessiond.SyncClient(target)
atexit.register(client.close)
print(client.create_session(active=True).version)
""",
    "fork before": """
import os
client = sessiond.SyncClient(target)
pid = os.fork()
print(client.create_session(active=True, timeout=60).version, flush=True)
if pid:
    assert os.waitpid(pid, 0)[1] == 0
""",
    "fork after": """
import os
client = sessiond.SyncClient(target)
session = client.create_session(active=True)
watch = client.watch(session.session_id, from_beginning=True)
next(watch)
pid = os.fork()
if not pid:
    another = sessiond.SyncClient(target)
    for work in (lambda: client.get_session("s"), lambda: next(watch), another.create_session):
        try:
            work()
        except sessiond.ClientForked as error:
            print("forked", flush=True)
    watch.close()
    client.close()
    os._exit(0)
else:
    status = os.waitpid(pid, 0)[1]
    assert status == 0, f"the child ended with status {status}"
    print(client.get_session(session.session_id).version)
""",
}


async def printed(name: str, target: str) -> list[str]:
    """What the program prints, in a process of its own, without a warning or another word on stderr."""
    program = f"import sys\nimport sessiond\ntarget = {target!r}\n{PROGRAMS[name]}"

    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "error", "-c", program]
        # See docs/client.md: with grpc's own support of forks a child crashes now and then.
        environment = {**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0"}
        return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=environment)

    ran = await in_thread(run)
    # At a fork, grpc itself says on stderr that its threads are at work.
    said = [line for line in ran.stderr.splitlines() if "fork_posix.cc" not in line]
    assert (ran.returncode, said) == (0, [])
    return str(ran.stdout).splitlines()


async def test_keyboard_interrupt_cancels_the_call_and_leaves_the_client_usable(service: Service) -> None:
    assert await printed("interrupt", service.target) == ["interrupted True"] * 2


@pytest.mark.parametrize("name", ["exit", "exit while another thread waits", "at exit"])
async def test_exit_without_close_neither_hangs_nor_warns(service: Service, name: str) -> None:
    assert await printed(name, service.target) == ["1"]


@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
async def test_client_works_in_both_processes_after_a_fork_before_its_first_call(service: Service) -> None:
    assert await printed("fork before", service.target) == ["1", "1"]


@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
async def test_fork_after_the_first_call_raises_client_forked_in_the_child(service: Service) -> None:
    assert await printed("fork after", service.target) == ["forked"] * 3 + ["1"]


def test_interrupt_waits_until_the_call_has_ended() -> None:
    ended = threading.Event()

    async def lingers() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()

    def interrupt(number: int, frame: object) -> None:
        raise InterruptedError("by a signal")

    before = signal.signal(signal.SIGUSR1, interrupt)
    timer = threading.Timer(0.05, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1))
    timer.start()
    try:
        with pytest.raises(InterruptedError):
            wait(lingers())
        assert ended.is_set()
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
