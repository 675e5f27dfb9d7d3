"""Programs in other languages that tests run to their end."""

import asyncio
from contextlib import suppress

from tests.support.waiting import PATIENCE


async def output_of(*program: str) -> bytes:
    """What the program writes to its standard output. If it does not end well, fails with what it says on the other."""
    process = await asyncio.create_subprocess_exec(
        *program, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, wrong = await asyncio.wait_for(process.communicate(), PATIENCE)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    assert process.returncode == 0, wrong.decode()
    return out
