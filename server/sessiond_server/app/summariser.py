"""Opens the summariser that the settings name, and what makes summaries with it."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from importlib.metadata import entry_points
from typing import Final

from sessiond_server.app.parts import Parts
from sessiond_server.settings import SettingError, Settings, summary_key
from sessiond_server.summaries.contract import GROUP, Summariser
from sessiond_server.summaries.coverage import Bounds
from sessiond_server.summaries.queue import When
from sessiond_server.summaries.worker import Limits, Worker

MESSAGE_SHARE: Final = 4
"""Of the tokens of one summary's messages, a MESSAGE_SHARE-th may be of one message."""


@asynccontextmanager
async def opened_summariser(settings: Settings) -> AsyncIterator[Summariser | None]:
    """None if it is off. Raises SettingError, OSError of the key's file, and what a plug raises."""
    if not settings.summarises:
        yield None
        return
    if 0 < settings.summary_messages <= settings.summary_keep:
        raise SettingError("--summary-keep must be less than --summary-messages")
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(_named(settings))


def worker(parts: Parts, summariser: Summariser, settings: Settings) -> Worker:
    """What makes summaries of the sessions of one database."""
    limits = Limits(
        When(settings.summary_messages, settings.summary_tokens, settings.summary_at_end),
        Bounds(settings.summary_keep, settings.summary_input_tokens),
        settings.summary_timeout,
        settings.summary_concurrency,
    )
    return Worker(parts.truth.summary_queue, parts.truth, parts.batcher, summariser, limits, parts.summarising)


def _named(settings: Settings) -> AbstractAsyncContextManager[Summariser]:
    if settings.summariser == "extractive":
        from sessiond_server.summaries import extractive

        return extractive.opened()
    if settings.summariser == "chat":
        return _chat(settings)
    (*found,) = entry_points(group=GROUP, name=settings.summariser)
    if not found:
        raise SettingError(f"--summariser: no installed package has an entry point of that name in the group {GROUP}")
    opened: AbstractAsyncContextManager[Summariser] = found[0].load()()
    return opened


def _chat(settings: Settings) -> AbstractAsyncContextManager[Summariser]:
    if settings.summary_url is None or settings.summary_model is None:
        raise SettingError("--summariser chat needs --summary-url and --summary-model")
    try:
        from sessiond_server.summaries import chat
    except ImportError as error:
        raise SettingError("--summariser chat needs openai: install sessiond[summaries]") from error
    return chat.opened(
        settings.summary_url.reveal(),
        settings.summary_model,
        summary_key(settings.summary_key_file),
        seconds=settings.summary_timeout,
        message_tokens=settings.summary_input_tokens // MESSAGE_SHARE,
    )
