"""`sessiond serve --workers N`: runs the service in several processes, until a signal stops it."""

import asyncio

from sessiond_server import telemetry
from sessiond_server.app.workers.supervise import supervise
from sessiond_server.app.workers.supervisor import WorkersFailed
from sessiond_server.cli.announcement import announce
from sessiond_server.settings import Settings


def run(settings: Settings) -> int:
    telemetry.configure(settings.log_level, settings.log_format, str)
    try:
        asyncio.run(supervise(settings, announce))
    except WorkersFailed as error:
        return error.code  # the worker has said why
    print("stopped", flush=True)
    return 0
