"""Asks the database about its own condition, for tasks that look at it at intervals."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from sessiond_server.errors import StoreUnavailable

ANSWER_SECONDS: Final = 3.0
"""Longest time for the answers to one question."""

Fetch = Callable[[str], Awaitable[Sequence[Any]]]


class Question:
    """Statements that are asked together. An outage is no concern of theirs; the first other failure is logged."""

    def __init__(self, fetch: Fetch, log: logging.Logger, what: str, *statements: str) -> None:
        """`what` is to be found out, for `log`."""
        self._fetch = fetch
        self._log = log
        self._what = what
        self._statements = statements
        self._failed = False

    async def ask(self) -> Sequence[Sequence[Any]] | None:
        """The rows of each statement; None if the database does not answer, or refuses to. Never raises."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return [await self._fetch(statement) for statement in self._statements]
        except (StoreUnavailable, TimeoutError):
            return None
        except Exception as error:
            if not self._failed:
                self._log.warning("cannot find out %s", self._what, exc_info=error)
            self._failed = True
            return None
