"""The memory store's pages of sessions, in the order that a list asks for."""

from collections.abc import Callable, Iterable
from typing import Final

from sessiond.v1.session_service_pb2 import SessionOrder
from sessiond_server.domain.rows import IndexRow
from sessiond_server.memory.pages import fitting_by
from sessiond_server.memory.session import MemorySession
from sessiond_server.store.session_reads import SessionsPage


def page(
    selected: Iterable[tuple[MemorySession, IndexRow]],
    order_by: SessionOrder.ValueType,
    after: tuple[int | str, str] | None,
    limit: int,
    *,
    content: bool,
) -> SessionsPage:
    """The first `limit` of the selected sessions behind the place `after`, as many as fit into a page."""
    place, descending = _ORDERS[order_by]
    placed = [((place(log, index), index.key[1]), log) for log, index in selected]
    if after is not None:
        placed = [(key, log) for key, log in placed if (key < after if descending else key > after)]
    placed.sort(key=lambda item: item[0], reverse=descending)
    sessions = [log.snapshot(content=content) for _, log in placed[:limit]]
    if content:
        sessions = fitting_by(lambda session: len(session.core) + len(session.content), sessions)
    more = len(sessions) < len(placed)
    return SessionsPage(sessions, placed[len(sessions) - 1][0] if more else None)


def _create_time(log: MemorySession, index: IndexRow) -> int | str:
    return index.create_time_us


def _update_time(log: MemorySession, index: IndexRow) -> int | str:
    return log.update_time_us


def _name(log: MemorySession, index: IndexRow) -> int | str:
    return index.name


_ORDERS: Final[dict[int, tuple[Callable[[MemorySession, IndexRow], int | str], bool]]] = {
    SessionOrder.SESSION_ORDER_UNSPECIFIED: (_create_time, True),
    SessionOrder.SESSION_ORDER_CREATE_TIME_DESC: (_create_time, True),
    SessionOrder.SESSION_ORDER_CREATE_TIME_ASC: (_create_time, False),
    SessionOrder.SESSION_ORDER_UPDATE_TIME_DESC: (_update_time, True),
    SessionOrder.SESSION_ORDER_UPDATE_TIME_ASC: (_update_time, False),
    SessionOrder.SESSION_ORDER_NAME_ASC: (_name, False),
    SessionOrder.SESSION_ORDER_NAME_DESC: (_name, True),
}
