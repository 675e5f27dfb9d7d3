"""Frees what ended calls held. The frames in the traceback of a call's error hold what the call received, and often the
error: left alone, all of it waits for the garbage collector, which counts objects and not bytes."""

from collections.abc import Awaitable, Callable
from typing import Any

from grpc.aio import AbortError

Serve = Callable[[Any, Any], Awaitable[Any]]
"""A handler that grpc calls with the caller's messages and the context."""


def forget(error: BaseException) -> None:
    """Takes their tracebacks from an error and those that it came from."""
    origin: BaseException | None = error
    while origin is not None and origin.__traceback__ is not None:
        origin.__traceback__ = None
        origin = origin.__cause__ or origin.__context__


def freeing(serve: Serve) -> Serve:
    """Wraps a handler so that nothing of an aborted call is kept: grpc keeps the AbortError as long as the call, and
    raises it by itself."""

    async def freed(messages: Any, context: Any) -> Any:
        try:
            return await serve(messages, context)
        except AbortError as aborted:
            forget(aborted)
            return None

    return freed
