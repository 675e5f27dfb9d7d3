"""A background task that fails is logged and makes health NOT_SERVING; no task fails unobserved."""

import asyncio
import logging

import pytest

from sessiond_server import tasks
from sessiond_server.app.service import running
from sessiond_server.rpc import probe
from sessiond_server.settings import load


async def _fail() -> None:
    raise LookupError("a defect")


async def test_failed_background_task_is_logged_and_health_says_not_serving(caplog: pytest.LogCaptureFixture) -> None:
    settings = load({"store": "memory", "listen": "127.0.0.1:0"}, {"HOME": "/nowhere"})
    async with running(settings) as service:

        async def health() -> str:
            return await asyncio.to_thread(probe.health, "127.0.0.1", service.listening.port, 5.0)

        assert await health() == "SERVING"
        with caplog.at_level(logging.ERROR):
            task = tasks.run_in_background(_fail(), "example")
            await asyncio.wait({task})
            async with asyncio.timeout(60):
                while await health() != "NOT_SERVING":  # noqa: ASYNC110  asked over the wire
                    await asyncio.sleep(0.05)
    (record, *_) = [record for record in caplog.records if "example" in record.getMessage()]
    assert record.levelno == logging.CRITICAL
    assert record.exc_info is not None
    assert record.exc_info[0] is LookupError


async def test_cancelled_background_task_is_not_reported() -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    task = tasks.run_in_background(asyncio.sleep(60), "example")
    task.cancel()
    await asyncio.wait({task})
    await asyncio.sleep(0)
    assert not reported
