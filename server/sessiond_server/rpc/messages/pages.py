"""Pages of messages, in either order and in both directions."""

from collections.abc import Sequence
from typing import Final, cast

from sessiond_server.rpc.paging import ListTokens
from sessiond_server.store.session_reads import MessagesPage

FOLLOWING: Final = "following"
PRECEDING: Final = "preceding"


class MessagePages:
    """What to read for one page of a list, and which tokens lead on from it.

    A token says on which side of which `seq` its page lies, in the order asked for. Messages are only ever appended, so
    what lay before a page when it was read still does.
    """

    def __init__(self, tokens: ListTokens, newest_first: bool, after_seq: int, before_seq: int, token: str) -> None:
        """The bounds are those of the request, before_seq 0 for none. Raises InvalidPageToken."""
        self._tokens = tokens
        # What this list has sealed has this shape.
        self._from = cast("tuple[str, int] | None", tokens.open(token))
        self._backwards = self._from is not None and self._from[0] == PRECEDING
        self.descending = newest_first != self._backwards
        """Direction of reading: against the order asked for when going back."""
        self.after_seq = after_seq
        self.before_seq = before_seq
        if self._from is not None:
            # The token's seq lies inside the bounds: they are part of what it is bound to.
            if self.descending:
                self.before_seq = self._from[1]
            else:
                self.after_seq = self._from[1]

    def ordered(self, page: MessagesPage) -> Sequence[bytes]:
        """The messages in the order asked for."""
        return page.messages[::-1] if self._backwards else page.messages

    def around(self, page: MessagesPage) -> tuple[str, str]:
        """(next_page_token, previous_page_token)."""
        if not page.messages:
            return "", ""
        first, last = page.first_seq, page.last_seq
        if self._backwards:
            first, last = last, first
        following = self._tokens.seal([FOLLOWING, last]) if self._backwards or page.more else ""
        before = page.more if self._backwards else self._from is not None
        return following, self._tokens.seal([PRECEDING, first]) if before else ""
