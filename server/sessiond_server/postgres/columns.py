"""Rows turned into the arrays that a multi-row statement takes."""

from collections.abc import Iterable, Sequence
from typing import Any

from sessiond_server.domain.rows import Key

Column = Sequence[Any]


def columns(rows: Iterable[Sequence[Any]], width: int) -> list[Column]:
    """One array for each column; empty ones for no rows."""
    return list(zip(*rows, strict=True)) or [()] * width


def flat(items: Sequence[tuple[Key, Any]]) -> Iterable[tuple[str, str, Any]]:
    """Keys taken apart into their columns."""
    return ((tenant_id, session_id, rest) for (tenant_id, session_id), rest in items)
