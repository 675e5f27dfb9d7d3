"""Bounds pages by their bytes, as the statements of Postgres do."""

from collections.abc import Callable, Iterable, Sized
from typing import TypeVar

from sessiond_server.store.session_reads import PAGE_BYTES

Item = TypeVar("Item")
SizedItem = TypeVar("SizedItem", bound=Sized)


def fitting(items: Iterable[SizedItem]) -> list[SizedItem]:
    """The first items that fit into PAGE_BYTES, but at least one."""
    return fitting_by(len, items)


def fitting_by(size: Callable[[Item], int], items: Iterable[Item]) -> list[Item]:
    """As fitting; `size`: bytes of an item."""
    page: list[Item] = []
    total = 0
    for item in items:
        total += size(item)
        if page and total > PAGE_BYTES:
            break
        page.append(item)
    return page
