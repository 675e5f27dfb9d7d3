"""Opens the export of traces, if the environment asks for it."""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version

from sessiond_server.settings import SettingError
from sessiond_server.spans import Tracer

_log = logging.getLogger("sessiond.app")


@asynccontextmanager
async def opened_tracer(protocol: str | None) -> AsyncIterator[Tracer | None]:
    """None unless `protocol` (settings.traces) names one. Without the libraries the service works, and the log says
    so. Raises SettingError."""
    if protocol is None:
        yield None
        return
    try:
        from sessiond_server.tracing import exporting
    except ImportError:
        _log.warning("no traces are exported, although OTEL_* asks for them: install sessiond[telemetry]")
        yield None
        return
    async with AsyncExitStack() as stack:
        try:
            tracer = await stack.enter_async_context(exporting(protocol, version("sessiond")))
        except Exception as error:
            raise SettingError(f"OTEL_*: a value is not valid ({type(error).__name__})") from error
        yield tracer
