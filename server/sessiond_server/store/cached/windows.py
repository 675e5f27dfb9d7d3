"""Cuts pages of messages from a copy that holds the newest ones. Pure."""

from collections.abc import Sequence

from sessiond_server.store.cached.contract import PLACE_BYTES, SUM_BYTES, Copy, message_of, seq_of
from sessiond_server.store.session_reads import PAGE_BYTES, MessagesPage


def reaches(copy: Copy, *, after_seq: int, before_seq: int, descending: bool) -> bool:
    """Whether the messages after `copy.after_seq` can contain the whole page."""
    return before_seq > copy.after_seq + 1 if descending and before_seq else copy.after_seq <= after_seq


def page(copy: Copy, *, after_seq: int, before_seq: int, descending: bool, limit: int) -> MessagesPage | None:
    """The page that `SessionReads.list_messages` would return; None unless the copy has all of it and shows whether
    more messages follow."""
    messages = copy.messages
    start, end = 0, len(messages)
    if after_seq > copy.after_seq:
        while start < end and seq_of(messages[start]) <= after_seq:
            start += 1
    elif after_seq < copy.after_seq and (not descending or end - start <= limit):
        # Ascending, the first messages are missing. Descending, it is unknown whether there are more.
        return None
    while before_seq and start < end and seq_of(messages[end - 1]) >= before_seq:
        end -= 1
    if after_seq < copy.after_seq and end - start <= limit:
        return None
    count = min(end - start, limit)
    chosen = messages[end - count : end][::-1] if descending else messages[start : start + count]
    count = _fitting(chosen)
    if not count:
        return MessagesPage(copy.version, [], 0, 0, more=False)
    bodies = [message_of(message) for message in chosen[:count]]
    return MessagesPage(copy.version, bodies, seq_of(chosen[0]), seq_of(chosen[count - 1]), more=count < end - start)


def _fitting(messages: Sequence[bytes]) -> int:
    """How many of the messages fit into PAGE_BYTES, but at least one."""
    total = 0
    if sum(map(len, messages)) <= PAGE_BYTES:
        return len(messages)
    for count, message in enumerate(messages):
        total += len(message) - PLACE_BYTES - SUM_BYTES
        if count and total > PAGE_BYTES:
            return count
    return len(messages)
