"""Page numbers over lists that go on from a token.

A page is found from the beginning of the list, by pages of the list without the sessions' content, as far as FARTHEST;
sessions that come or go meanwhile move the following pages, as they do with any numbers of pages. Only the sessions of
the page are read whole.
"""

from collections.abc import Sequence
from typing import Final

from sessiond.v1.session_pb2 import Session, SessionView
from sessiond.v1.session_service_pb2 import (
    BatchGetSessionsRequest,
    CountSessionsRequest,
    ListSessionsRequest,
    SessionFilter,
    SessionOrder,
)
from sessiond_server.http.agentos.calls import Calls
from sessiond_server.http.agentos.refusals import Refused

FARTHEST: Final = 10_000
"""Place in the list up to which pages have numbers: each read of one costs a hundredth of it in calls."""
LARGEST_PAGE: Final = 1000
"""Sessions."""
LARGEST_ANSWER: Final = 16 * 1024 * 1024
"""Bytes of one answer, before it is JSON."""
STEP: Final = 100
"""Sessions of one call."""


async def page(
    calls: Calls, selected: SessionFilter, order: "SessionOrder.ValueType", number: int, limit: int
) -> tuple[Sequence[Session], int]:
    """The sessions of a page, SESSION_VIEW_FULL, and how many there are on all pages. `number` begins at 1, and
    `number` x `limit` is at most FARTHEST. Raises Refused and Problem."""
    count: int = (await calls("CountSessions", CountSessionsRequest(filter=selected))).count
    first, behind = (number - 1) * limit, number * limit
    if first >= count:
        return [], count
    ids: list[str] = []
    place, asked = 0, ListSessionsRequest(filter=selected, order_by=order, view=SessionView.SESSION_VIEW_BASIC)
    while place < behind:
        asked.page_size = min(STEP, behind - place)
        got = await calls("ListSessions", asked)
        ids += [each.session_id for at, each in enumerate(got.sessions, place) if at >= first]
        place += len(got.sessions)
        asked.page_token = got.next_page_token
        if not asked.page_token:
            break
    return await _whole(calls, ids), count


async def _whole(calls: Calls, ids: Sequence[str]) -> list[Session]:
    """Those that are still there, in the order of `ids`."""
    found: dict[str, Session] = {}
    size = 0
    waiting = list(ids)
    while waiting:
        asked = BatchGetSessionsRequest(session_ids=waiting[:STEP], view=SessionView.SESSION_VIEW_FULL)
        got = await calls("BatchGetSessions", asked)
        found |= {each.session_id: each for each in got.sessions}
        size += got.ByteSize()
        if size > LARGEST_ANSWER:
            mib = LARGEST_ANSWER // 1024 // 1024
            raise Refused(413, f"the sessions of this page have more than {mib} MiB; a smaller limit helps")
        waiting = [*got.omitted, *waiting[STEP:]]
    return [found[each] for each in ids if each in found]
