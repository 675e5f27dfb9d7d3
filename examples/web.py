"""A web backend for chats: people post messages, and follow a session as server-sent events.

    uvicorn examples.web:app
    curl --no-buffer http://127.0.0.1:8000/chats/SESSION/events

A browser's EventSource sends the id of the last event when it connects again; the id is the position, so that it misses
nothing. Who may see which session is for your application to decide, before it calls the client.
"""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Body, FastAPI, Header, Request
from fastapi.responses import JSONResponse, StreamingResponse

import sessiond

ADDRESS = os.environ.get("SESSIOND_ADDRESS", "127.0.0.1:50051")
client: sessiond.Client


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    global client
    async with sessiond.Client(ADDRESS) as client:
        yield


app = FastAPI(lifespan=lifespan)


@app.exception_handler(sessiond.NotFound)
async def not_found(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": str(error)}, status_code=404)


@app.post("/chats")
async def create() -> dict[str, str]:
    return {"session_id": (await client.create_session(active=True)).session_id}


@app.post("/chats/{session_id}/messages")
async def append(session_id: str, text: Annotated[str, Body(embed=True)]) -> dict[str, int]:
    return {"seq": (await client.append_messages(session_id, [sessiond.user(text)])).version}


@app.post("/chats/{session_id}/token")
async def token(session_id: str) -> dict[str, str]:
    """With it a page reads and appends without this backend, for 10 minutes. The API key stays here."""
    return {"token": (await client.create_session_token(session_id, access="append", ttl=600)).token}


@app.get("/chats/{session_id}/events")
async def follow(session_id: str, last_event_id: Annotated[str | None, Header()] = None) -> StreamingResponse:
    await client.get_session(session_id, view="basic")  # 404 where there is none
    return StreamingResponse(stream(session_id, last_event_id), media_type="text/event-stream")


async def stream(session_id: str, position: str | None) -> AsyncIterator[str]:
    async with client.watch(session_id, position=position, from_beginning=position is None) as watch:
        async for frame in watch.frames():
            if isinstance(frame, sessiond.EventBatch):
                events = [{"seq": event.seq, "text": sessiond.text_of(event.message)} for event in frame.events]
                yield f"id: {frame.position}\ndata: {json.dumps(events)}\n\n"
            else:
                yield ": a comment, which keeps the connection alive\n\n"
