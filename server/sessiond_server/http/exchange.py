"""One request and its answer: what ASGI gives of them, and what is passed on."""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sessiond_server.http.problems import malformed
from sessiond_server.rpc.loopback import PEER_KEY

LINGER: Final = 10.0
"""Seconds for which the rest of an unread body is received and dropped, so that the answer reaches its sender."""

FORWARDED: Final = {
    "authorization": "authorization",
    "db-id": "db_id",
    "traceparent": "traceparent",
    "tracestate": "tracestate",
}
"""Headers that are metadata of the call, by its names."""
_PLAIN: Final = re.compile(r"[\x20-\x7e]{0,4096}").fullmatch
"""What metadata may hold. No key, session token or trace is longer."""
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:~-]{1,128}").fullmatch
_MILLISECONDS: Final = re.compile(r"[1-9][0-9]{0,8}").fullmatch

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class Gone(Exception):
    """The client has disconnected, or is to be disconnected."""


@dataclass(slots=True)
class Request:
    """One request, without its body."""

    method: str
    path: str
    """As it was sent, percent-encoded."""
    query: bytes
    headers: Mapping[str, str]
    """By names in small letters."""
    scheme: str
    peer: str
    """Address of the client, as gRPC writes addresses."""
    id: str
    receive: Receive
    send: Send
    body_due: bool
    """Whether some of the body has not been received."""
    head_bytes: int
    """Of the request line and the headers, without spaces that mean nothing."""


def request_of(scope: Any, receive: Receive, send: Send) -> Request:
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
    given = headers.get("x-request-id", "")
    request_id = given if _REQUEST_ID(given) else f"{random.getrandbits(128):032x}"
    host, port = scope["client"] or ("", 0)
    peer = f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
    path, query = scope["raw_path"].decode("ascii"), scope["query_string"]
    # A length that is no number was refused before.
    body_due = "transfer-encoding" in headers or int(headers.get("content-length", "0")) > 0
    line = len(f"{scope['method']} {path}? HTTP/1.1\r\n") + len(query)
    head_bytes = line + sum(len(name) + len(value) + len(": \r\n") for name, value in scope["headers"])
    return Request(
        scope["method"], path, query, headers, scope["scheme"], peer, request_id, receive, send, body_due, head_bytes
    )


def metadata(request: Request) -> list[tuple[str, str]]:
    """That of the call that a request is."""
    found = [("x-request-id", request.id), (PEER_KEY, request.peer)]
    # A key is plain; another value is refused there as an invalid key.
    found += [
        (key, value if _PLAIN(value) else "")
        for name, key in FORWARDED.items()
        if (value := request.headers.get(name)) is not None
    ]
    return found


def deadline(request: Request) -> float | None:
    """Seconds that the caller gives; None: it says nothing. Raises Problem."""
    given = request.headers.get("x-timeout-ms")
    if given is None:
        return None
    if not _MILLISECONDS(given):
        raise malformed("x-timeout-ms must be a whole number of milliseconds, 1 or more")
    return int(given) / 1000


async def pieces(request: Request) -> Any:
    """The body as it arrives. Raises Gone."""
    more = request.body_due
    while more:
        event = await request.receive()
        if event["type"] == "http.disconnect":
            raise Gone
        more = request.body_due = event["more_body"]
        if event["body"]:
            yield event["body"]


async def drop_body(request: Request) -> None:
    """Receives what is left of a body for a while, for an answer that does not wait for it."""
    try:
        async with asyncio.timeout(LINGER):
            while (event := await request.receive())["type"] != "http.disconnect" and event["more_body"]:
                pass
    except TimeoutError:
        return


async def until_left(answering: Coroutine[Any, Any, None], leaving: Coroutine[Any, Any, None]) -> None:
    """Runs what sends an answer until it ends or the client leaves, of which `leaving` tells by its end. Raises what
    `answering` raises."""
    tasks = [asyncio.create_task(answering, name="http-answer"), asyncio.create_task(leaving, name="http-leaving")]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        ended, _ = await asyncio.gather(*tasks, return_exceptions=True)
    if isinstance(ended, Exception):
        raise ended


async def left(request: Request) -> None:
    """Returns when the client has disconnected. To be called once the body was received."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
