"""A server with the chat-completions interface, which tests have answer as rudely as they like."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


def completion(text: object, **more: Any) -> dict[str, Any]:
    """The body of an answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "small-1", "choices": [choice],
            "usage": usage, **more}  # fmt: skip


def answer(body: object, status: str = "200 OK", *headers: str) -> bytes:
    """A whole answer of HTTP; a body that is no bytes is sent as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(data)}", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + data


@dataclass
class ChatServer:
    """`script` is called with each request's headers and body, and returns what to send: bytes, None for silence, or
    an asynchronous iterator of bytes that is sent until the client goes."""

    script: Callable[[dict[str, str], Any], Any]
    url: str = ""
    requests: list[tuple[dict[str, str], Any]] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in head[1:])}
                body = json.loads(await reader.readexactly(int(headers["content-length"])))
                self.requests.append((headers, body))
                self.arrived.set()
                found = self.script(headers, body)
                if found is None:
                    await reader.read()
                    return
                if isinstance(found, bytes):
                    writer.write(found)
                else:
                    async for piece in found:
                        writer.write(piece)
                        await writer.drain()
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    def cut(self) -> None:
        for writer in self._open:
            writer.transport.abort()


@asynccontextmanager
async def chat_server(script: Callable[[dict[str, str], Any], Any]) -> AsyncIterator[ChatServer]:
    made = ChatServer(script)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, limit=2**22)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield made
    finally:
        server.close()
        made.cut()
        await server.wait_closed()
