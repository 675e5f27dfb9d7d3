"""The error boundary: turns every exception from inside into a status of the table."""

import asyncio
import logging
import secrets
from typing import Any

from grpc.aio import AbortError
from grpc.aio import InternalError as TransportError

from sessiond_server.errors import InternalError, SessiondError, StoreUnavailable
from sessiond_server.rpc import status
from sessiond_server.rpc.call import Call, Handler, Method
from sessiond_server.rpc.interceptors import call_id

log = logging.getLogger("sessiond.rpc")


class Boundary:
    """Answers SessiondErrors by the table, and all other exceptions with INTERNAL, a constant text and the id of a log
    record.

    A CancelledError passes only if the call's own task was cancelled: if a handler raises one, grpc sends no answer.
    """

    def __init__(self, max_wait: float = 10.0) -> None:
        """`max_wait`: seconds that the transport may take to accept the status of a failed call; see `_answer`."""
        self._max_wait = max_wait

    def around(self, method: Method, proceed: Handler) -> Handler:
        async def bounded(request: Any, call: Call) -> bytes | None:
            try:
                return await proceed(request, call)
            except AbortError:
                # AbortError is an Exception; the answer has already been sent.
                raise
            except TransportError:
                await self._cancelled()
                raise
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                answered: SessiondError = _unforeseen(call, error)
            except SessiondError as error:
                answered = error if type(error) in status.TABLE else _unforeseen(call, error)
            except Exception as error:
                answered = _unforeseen(call, error)
            if call.database and isinstance(answered, StoreUnavailable):
                answered.name(call.database)
            call.error = answered
            await self._answer(call, status.answer(answered))
            return None

        return bounded

    async def _answer(self, call: Call, answer: status.Answer) -> None:
        """Hands the status to the transport, then raises AbortError, as grpc requires.

        The status can wait without end behind frames that the peer does not read. After max_wait seconds the handler
        returns all the same: its resources are free, and grpc keeps the status until the peer reads it, leaves, or
        loses its connection. A server cannot cancel a call.
        """
        try:
            async with asyncio.timeout(self._max_wait) as timer:
                await call.context.abort(answer.code, answer.text, (*answer.trailers, (call_id.KEY, call.id)))
        except TransportError:
            # The caller has disconnected. grpc does not cancel a call that has its status, and logs what such a call
            # raises, except the AbortError that it raises itself once the handler has returned.
            pass
        except TimeoutError:
            if not timer.expired():
                raise

    async def _cancelled(self) -> None:
        """Waits at most max_wait seconds until grpc cancels the call, whose caller has disconnected.

        A write fails a moment before grpc learns the reason. Without this wait grpc would log a traceback although a
        caller may leave at any time.
        """
        try:
            async with asyncio.timeout(self._max_wait):
                await asyncio.get_running_loop().create_future()
        except TimeoutError:
            pass


def _unforeseen(call: Call, error: BaseException) -> InternalError:
    error_id = secrets.token_hex(8)
    log.error(
        "unforeseen %s in %s, error id %s",
        type(error).__name__,
        call.method.path,
        error_id,
        exc_info=error,
        extra={"error_id": error_id, "method": call.method.path, "request_id": call.id},
    )
    return InternalError(error_id)
