"""Google ADK's DatabaseSessionService: sessions and events by SQLAlchemy, in the process that uses them.

adk_sessions.py DSN CALLERS SECONDS
"""
# What it imports is only in the environment that it runs in.
# mypy: ignore-errors

import asyncio
import itertools
import sys
import uuid

from google.adk.events import Event
from google.adk.sessions import DatabaseSessionService
from google.adk.sessions.base_session_service import GetSessionConfig
from google.genai.types import Content, Part
from in_process import measure

TEXT = "I looked the reservation up: it is a round trip with two bags, and it can still be changed without a fee. " * 2
STATE = {"step": "choose", "reservation": "Q7XK2M", "passengers": 2}
SESSIONS = 256


def event() -> Event:
    return Event(author="user", invocation_id=uuid.uuid4().hex, content=Content(role="user", parts=[Part(text=TEXT)]))


async def main(dsn: str, callers: int, seconds: float) -> None:
    service = DatabaseSessionService(dsn, pool_size=10, max_overflow=0, pool_timeout=60)
    await service.prepare_tables()

    async def create(_: int) -> None:
        await service.create_session(app_name="bench", user_id="user", state=STATE)

    await measure("create", create, callers, seconds)
    sessions = [await service.create_session(app_name="bench", user_id="user", state=STATE) for _ in range(SESSIONS)]
    own = [itertools.cycle(sessions[number::callers]) for number in range(callers)]

    async def get(number: int) -> None:
        one = next(own[number])
        none = GetSessionConfig(num_recent_events=0)
        await service.get_session(app_name="bench", user_id="user", session_id=one.id, config=none)

    await measure("get", get, callers, seconds)

    async def append(number: int) -> None:
        await service.append_event(next(own[number]), event())

    await measure("append_1", append, callers, seconds)
    for one in sessions[:callers]:
        for _ in range(50):
            await service.append_event(one, event())

    async def read(number: int) -> None:
        newest = GetSessionConfig(num_recent_events=50)
        one = sessions[number]
        await service.get_session(app_name="bench", user_id="user", session_id=one.id, config=newest)

    await measure("list_50", read, callers, seconds)


asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
