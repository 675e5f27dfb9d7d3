"""Turns rows into the arrays that a multi-row statement takes."""

from collections.abc import Iterable, Sequence
from typing import Any

from sessiond_server.domain.rows import Key

Column = Sequence[Any]


def columns(rows: Iterable[Sequence[Any]], width: int) -> list[Column]:
    """One array per column; empty arrays if there are no rows."""
    return list(zip(*rows, strict=True)) or [()] * width


def flat(items: Sequence[tuple[Key, Any]]) -> Iterable[tuple[str, str, Any]]:
    """The items with their keys split into columns."""
    return ((tenant_id, session_id, rest) for (tenant_id, session_id), rest in items)
