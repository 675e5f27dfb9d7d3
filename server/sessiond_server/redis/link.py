"""One connection: pipelines out, replies back in order.

redis-py opens the connection (TLS, ACL user, RESP3); from then on this protocol speaks over it. Through redis-py's own
client a lone read costs 63 µs of CPU and each of many in one pipeline 6 µs; this way it is 7 and 0.7 µs
(docs/decisions/0006-redis-links.md).
"""

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError

_log = logging.getLogger("sessiond.redis")

Replies = list[Any] | None
"""One for each command, errors as values; None: the connection was lost first, and the commands may have been done."""

_GRACE = 0.002
"""Seconds that a late reply gets once its time is over: it may be here already, behind a loop that was busy."""


class LinkLost(Exception):
    """The connection cannot be opened or was lost. The text names no secret."""


class Link(asyncio.Protocol):
    """An open connection. Made by `open_link`; every pipeline has `timeout` seconds to be answered, or all is over."""

    def __init__(self, connection: AbstractConnection, transport: asyncio.Transport, timeout: float) -> None:
        self.lost: str | None = None
        """Why the connection is of no more use."""
        self.on_lost: Callable[[], None] = lambda: None
        """Called once when the connection is lost."""
        self.on_push: Callable[[Sequence[Any]], None] = _ignore
        """Called with what the server sends unasked: messages of channels that the connection has subscribed to."""
        self._connection = connection
        self._transport = transport
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._waiting: deque[_Pipeline] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def send(self, commands: bytes, count: int, done: Callable[[Replies], None], since: float | None = None) -> None:
        """Sends `count` packed commands; `done` is called with their replies, never from within this call.

        Their time counts from `since`, of the loop's clock, when somebody has waited before they were sent.
        """
        if self.lost is not None:
            self._loop.call_soon(done, None)
            return
        now = self._loop.time()
        self._waiting.append(_Pipeline(count, done, (now if since is None else since) + self._timeout))
        if self._timer is None:
            self._timer = self._loop.call_at(max(self._waiting[0].deadline, now), self._look)
        self._transport.write(commands)

    async def ask(self, *command: bytes, after: bytes = b"") -> Any:
        """One command's reply. Raises LinkLost; hiredis.ReplyError for an error.

        `after`: packed commands that are sent before it, which the server answers with pushes alone, or with an error,
        which is then raised: the connection is of no more use.
        """
        answer: asyncio.Future[Replies] = self._loop.create_future()
        self.send(after + pack(*command), 1, partial(_settle, answer))
        replies = await answer
        if replies is None:
            raise LinkLost(self.lost or "the connection was closed")
        if isinstance(replies[0], Exception):
            raise replies[0]
        return replies[0]

    def close(self, reason: str = "closed") -> None:
        """Ends the connection at once. Everything that waits gets None."""
        if self.lost is not None:
            return
        self.lost = reason
        if self._timer is not None:
            self._timer.cancel()
        self._transport.abort()
        # redis-py would warn of a connection that nobody closed.
        self._connection._reader = self._connection._writer = None
        waiting, self._waiting = self._waiting, deque()
        for pipeline in waiting:
            _hand_over(pipeline.done, None)
        self.on_lost()

    def data_received(self, data: bytes) -> None:
        reader, waiting = self._reader, self._waiting
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _NOTHING:
                if isinstance(reply, hiredis.PushNotification):
                    self.on_push(reply)
                    continue
                pipeline = waiting[0]
                pipeline.replies.append(reply)
                if len(pipeline.replies) == pipeline.count:
                    waiting.popleft()
                    _hand_over(pipeline.done, pipeline.replies)
                    if self.lost is not None:
                        return
        except (hiredis.ProtocolError, IndexError):
            self.close("the server answers with what is not RESP")

    def connection_lost(self, error: Exception | None) -> None:
        self.close("the connection was lost" + (f": {type(error).__name__}" if error else ""))

    def _look(self) -> None:
        """Ends the connection when the oldest pipeline is overdue, or comes back when it will be."""
        self._timer = None
        if self._waiting:
            oldest = self._waiting[0]
            left = oldest.deadline - self._loop.time()
            if left <= 0 and oldest.overdue:
                self.close(f"no answer within {self._timeout:g} s")
                return
            oldest.overdue = left <= 0
            self._timer = self._loop.call_later(max(left, _GRACE), self._look)


class _Pipeline:
    __slots__ = ("count", "deadline", "done", "overdue", "replies")

    def __init__(self, count: int, done: Callable[[Replies], None], deadline: float) -> None:
        self.count = count
        self.done = done
        self.deadline = deadline
        self.overdue = False
        self.replies: list[Any] = []


_NOTHING = object()


def _ignore(push: Sequence[Any]) -> None:
    """Nobody has subscribed to anything."""


def _hand_over(done: Callable[[Replies], None], replies: Replies) -> None:
    """Calls `done`. What it raises is logged: it must not keep the others from their replies."""
    try:
        done(replies)
    except Exception:
        _log.exception("replies of Redis cannot be taken")


def _settle(answer: "asyncio.Future[Replies]", replies: Replies) -> None:
    if not answer.done():
        answer.set_result(replies)


def pack(*command: bytes) -> bytes:
    """A command as RESP."""
    return b"*%d\r\n" % len(command) + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in command])


def parse(url: str) -> dict[str, Any]:
    """What redis-py makes of a URL, for `open_link`."""
    return dict(parse_url(url))


async def open_link(arguments: Mapping[str, Any], max_wait: float, answer: float | None = None) -> Link:
    """Connects and signs in within `max_wait` seconds; pipelines get `answer` seconds, or as many. Raises LinkLost."""
    options = {**arguments, "socket_connect_timeout": max_wait, "socket_timeout": max_wait, "protocol": 3}
    kind: type[AbstractConnection] = options.pop("connection_class", Connection)
    connection: Any = kind(**options, retry=Retry(NoBackoff(), 0), health_check_interval=0)
    try:
        async with asyncio.timeout(max_wait):
            await connection.connect()
        _be_cancelled()
    except (RedisError, OSError, TimeoutError, ValueError) as error:
        await connection.disconnect(nowait=True)
        _be_cancelled()
        raise LinkLost(f"cannot connect: {_why(error)}") from error
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    transport: asyncio.Transport = connection._writer.transport
    link = Link(connection, transport, max_wait if answer is None else answer)
    transport.set_protocol(link)
    return link


def _why(error: BaseException) -> str:
    """What may be said of it: no words of the server, which may repeat a name."""
    if isinstance(error, AuthenticationError):
        return "the server refuses the name or the password"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    inner = error.__cause__ or error.__context__ or error
    if isinstance(inner, ssl.SSLCertVerificationError):
        return f"the server's certificate is not trusted: {inner.verify_message}"
    if isinstance(inner, ssl.SSLError):
        return f"TLS fails: {inner.reason}"
    if isinstance(inner, OSError) and inner.strerror:
        return f"{type(error).__name__}: {inner.strerror}"
    return type(error).__name__


def _be_cancelled() -> None:
    """Raises the CancelledError that redis-py may have swallowed.

    Before Python 3.12, `asyncio.wait_for`, with which it sends, drops one that comes when what it waits for has just
    been done.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
