"""Counts the statements that a test's own code sends to Postgres."""

import asyncio
from collections.abc import Callable, Collection
from typing import Any, Final

import asyncpg
import pytest

LOOKS_FOR_BLOCKERS: Final = "blockers"
"""The task that asks who holds locks, where a lock takes long: a busy machine is enough."""
_KINDS = ("fetch", "fetchrow", "fetchval", "execute", "executemany")


def count_statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns a list that grows by each statement, from now on. As `note_statements`."""
    sent: list[str] = []
    note_statements(monkeypatch, lambda _, statement: sent.append(statement))
    return sent


def note_statements(
    monkeypatch: pytest.MonkeyPatch,
    note: Callable[[str, str], None],
    besides: Collection[str] = (LOOKS_FOR_BLOCKERS,),
) -> None:
    """Calls `note` with asyncpg's method and the text of each statement, from now on. To be called on the event loop of
    the test.

    Left out are those of tasks named in `besides`, and of other loops: fixtures make the databases of the next tests at
    the same time.
    """
    loop = asyncio.get_running_loop()

    def noted(kind: str) -> Callable[..., Any]:
        original = getattr(asyncpg.Connection, kind)

        async def noting(self: Any, statement: str, *parameters: Any, **options: Any) -> Any:
            task = asyncio.current_task()
            if asyncio.get_running_loop() is loop and task is not None and task.get_name() not in besides:
                note(kind, statement)
            return await original(self, statement, *parameters, **options)

        return noting

    for kind in _KINDS:
        monkeypatch.setattr(asyncpg.Connection, kind, noted(kind))
