"""A client in a forked process works or raises ClientForked."""

import asyncio
import os
import sys

import pytest

from tests.support.client_service import Service

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no fork")

PROGRAM = """
import asyncio, os, sys
import sessiond

async def create(client):
    return (await client.create_session(active=True, timeout=60)).version

def child(work):
    pid = os.fork()
    if not pid:
        try:
            print(asyncio.run(work()), flush=True)
        except BaseException as error:
            print(type(error).__name__, flush=True)
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

async def another():
    async with sessiond.Client(target, pipe=pipe) as client:
        return await create(client)

async def watching():
    watch = parents.watch("s")
    await anext(watch)

async def closing():
    await parents.close(grace=60)

async def nested():
    child(another)
    return "forked"

target, when, pipe = sys.argv[1:]
parents = sessiond.Client(target, pipe=pipe)

async def main():
    await create(parents)
    for work in (lambda: create(parents), another, watching, closing, nested):
        child(work)
    print(await create(parents), flush=True)  # else the next child has it in its buffer too
    await parents.close()
    child(another)

if when == "before":
    child(lambda: create(parents))
    child(another)
    print(asyncio.run(create(parents)))
else:
    asyncio.run(main())
"""

WITH_STREAMS = {"GRPC_ENABLE_FORK_SUPPORT": "0"}
"""What docs/client.md asks for where a process forks while it has streams, which pipes are."""


async def printed(*arguments: str) -> list[str]:
    """By the program, in a process of its own: a fork of the tests' process would take all of it along."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, *arguments, stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **({} if arguments[-1] == "off" else WITH_STREAMS)},
    )  # fmt: skip
    try:
        async with asyncio.timeout(240):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    return output.decode().split()


@pytest.mark.parametrize("pipe", ["off", "on"])
async def test_client_works_after_a_fork_before_its_first_call(pipe: str, service: Service) -> None:
    assert await printed(service.target, "before", pipe) == ["1", "1", "1"]


@pytest.mark.parametrize("pipe", ["off", "on"])
async def test_fork_after_the_first_call_raises_client_forked(pipe: str, service: Service) -> None:
    of_children = ["ClientForked"] * 3 + ["None"] + ["ClientForked", "forked"]
    assert await printed(service.target, "after", pipe) == [*of_children, "1", "ClientForked"]
