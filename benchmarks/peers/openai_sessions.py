"""OpenAI Agents SDK's SQLAlchemySession: items of a conversation, in the process that uses them.

openai_sessions.py DSN CALLERS SECONDS
"""
# What it imports is only in the environment that it runs in.
# mypy: ignore-errors

import asyncio
import itertools
import sys
import uuid

from agents.extensions.memory import SQLAlchemySession
from in_process import measure
from sqlalchemy.ext.asyncio import create_async_engine

TEXT = "I looked the reservation up: it is a round trip with two bags, and it can still be changed without a fee. " * 2
ITEM = {"role": "user", "content": TEXT}
SESSIONS = 256


async def main(dsn: str, callers: int, seconds: float) -> None:
    engine = create_async_engine(dsn, pool_size=10, max_overflow=0, pool_timeout=60)
    await SQLAlchemySession("first", engine=engine, create_tables=True).add_items([ITEM])
    sessions = [SQLAlchemySession(uuid.uuid4().hex, engine=engine) for _ in range(SESSIONS)]
    own = [itertools.cycle(sessions[number::callers]) for number in range(callers)]

    async def create(_: int) -> None:
        # A session begins to exist with its first item.
        await SQLAlchemySession(uuid.uuid4().hex, engine=engine).add_items([ITEM])

    async def append(number: int) -> None:
        await next(own[number]).add_items([ITEM])

    async def read(number: int) -> None:
        await sessions[number].get_items(limit=50)

    await measure("create", create, callers, seconds)
    await measure("append_1", append, callers, seconds)
    for one in sessions[:callers]:
        await one.add_items([ITEM] * 50)
    await measure("list_50", read, callers, seconds)
    await engine.dispose()


asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
