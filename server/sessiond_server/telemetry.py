"""Log records on standard error, as text for people or as JSON, one object per line, for machines.

Records never contain contents or secrets. Authors of log calls ensure that for their own records. The text of foreign
exceptions is outside our control, so of exceptions only types, places and error codes are logged, and the text of those
whose text is known to be safe.
"""

import json
import logging
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TextIO

from sessiond_server.embedded import EmbeddedError
from sessiond_server.errors import SessiondError

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "call_id",
    "trace_id",
    "worker",
}
_SAFE_TEXT: Final = (SessiondError, EmbeddedError)


def configure(
    level: str,
    form: str,
    call_id: Callable[[], str],
    stream: TextIO | None = None,
    *,
    trace_id: Callable[[], str] = str,
    worker: int = 0,
) -> None:
    """Sends all records of at least `level` to `stream` (default: standard error), in the `form` "text" or "json".

    `call_id` returns the id of the call that the current task serves, or "", and `trace_id` that of its trace.
    `worker`: the id of this process, for its records, if it is one of several that serve. Replaces any earlier
    configuration.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    handler.addFilter(_IdsFilter(call_id, trace_id, worker))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Records of asyncio and grpc below warnings are meant for their own developers.
    for name in ("asyncio", "grpc", "grpc._cython.cygrpc"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(True)


class _IdsFilter(logging.Filter):
    """Adds the ids of the call, of its trace and of the worker to each record, in the task that logs it. Passes every
    record."""

    def __init__(self, call_id: Callable[[], str], trace_id: Callable[[], str], worker: int) -> None:
        super().__init__()
        self._call_id = call_id
        self._trace_id = trace_id
        self._worker = worker

    def filter(self, record: logging.LogRecord) -> bool:
        record.call_id = self._call_id()
        record.trace_id = self._trace_id()
        record.worker = self._worker
        return True


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.123Z INFO sessiond.app: text request_id=... trace_id=... worker=...`, followed by the places
    of an exception."""

    def format(self, record: logging.LogRecord) -> str:
        call_id = getattr(record, "call_id", "") or getattr(record, "request_id", "")
        line = f"{_time(record)} {record.levelname} {record.name}: {_one_line(record.getMessage())}"
        if call_id:
            line += f" request_id={call_id}"
        if trace_id := getattr(record, "trace_id", ""):
            line += f" trace_id={trace_id}"
        if worker := getattr(record, "worker", 0):
            line += f" worker={worker}"
        if record.exc_info and record.exc_info[1]:
            line += "\n" + describe(record.exc_info[1])
        return line


class JsonFormatter(logging.Formatter):
    """`time`, `level`, `logger`, `message`, `request_id` in a call, `trace_id` in a trace, `worker` in a worker,
    `exception`, and the record's extra fields."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if call_id := getattr(record, "call_id", ""):
            fields["request_id"] = call_id
        if trace_id := getattr(record, "trace_id", ""):
            fields["trace_id"] = trace_id
        if worker := getattr(record, "worker", 0):
            fields["worker"] = worker
        fields.update((name, value) for name, value in vars(record).items() if name not in _STANDARD)
        if record.exc_info and record.exc_info[1]:
            fields["exception"] = describe(record.exc_info[1])
        # dumps escapes non-ASCII characters, so that a lone surrogate or a line separator cannot break the line.
        return json.dumps(fields, default=str)


def describe(error: BaseException) -> str:
    """Types and places of an exception and its causes, first cause first, without texts that could hold contents."""
    parts = []
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        parts += [describe(cause), "which led to:"]
    parts += [
        f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}'
        for frame in traceback.extract_tb(error.__traceback__)
    ]
    if isinstance(error, BaseExceptionGroup):
        parts += [describe(inner) for inner in error.exceptions]
    parts.append(f"{type(error).__module__}.{type(error).__qualname__}{_detail(error)}")
    return "\n".join(parts)


def _detail(error: BaseException) -> str:
    if isinstance(error, _SAFE_TEXT):
        return f": {error}"
    if isinstance(error, OSError) and error.strerror:
        return f": {error.strerror}"
    state = getattr(error, "sqlstate", None)
    return f": SQLSTATE {state}" if isinstance(state, str) else ""


def _one_line(text: str) -> str:
    """The text with characters escaped that could start another record or control a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
