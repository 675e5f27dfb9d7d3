"""Pages of messages, in both orders and both directions."""

from collections.abc import Sequence
from typing import Final, TypedDict, cast

from sessiond_server.rpc.paging import ListTokens
from sessiond_server.store.session_reads import MessagesPage

FOLLOWING: Final = "following"
PRECEDING: Final = "preceding"


class Bounds(TypedDict):
    """Arguments of the store's lists of messages."""

    after_seq: int
    before_seq: int
    descending: bool


class MessagePages:
    """The range to read for one page of a list, and the tokens of its neighbours.

    A token says on which side of which `seq` its page lies, in the requested order. Messages before a page never change
    but for those that are deleted.
    """

    def __init__(self, tokens: ListTokens, newest_first: bool, after_seq: int, before_seq: int, token: str) -> None:
        """The bounds are those of the request; before_seq 0: none. Raises InvalidPageToken."""
        self._tokens = tokens
        # A token that this list has sealed has this form; that of a list as of a place has the place too.
        self._from = cast("tuple[str, int] | tuple[str, int, int] | None", tokens.open(token))
        self.place = self._from[2] if self._from is not None and len(self._from) == 3 else 0
        """The seq as of which the list is; 0: as of now. Set it before the first use of `bounds`."""
        self._backwards = self._from is not None and self._from[0] == PRECEDING
        self.descending = newest_first != self._backwards
        """Direction of reading: opposite to the requested order for a previous page."""
        self.after_seq = after_seq
        self.before_seq = before_seq
        if self._from is not None:
            # The token's seq lies inside the bounds, because the token is bound to them.
            if self.descending:
                self.before_seq = self._from[1]
            else:
                self.after_seq = self._from[1]

    @property
    def bounds(self) -> Bounds:
        """What to read."""
        before_seq = self.before_seq
        if self.place:
            before_seq = min(before_seq or self.place + 1, self.place + 1)
        return Bounds(after_seq=self.after_seq, before_seq=before_seq, descending=self.descending)

    def ordered(self, page: MessagesPage) -> Sequence[bytes]:
        """The messages in the requested order."""
        return page.messages[::-1] if self._backwards else page.messages

    def around(self, page: MessagesPage) -> tuple[str, str]:
        """(next_page_token, previous_page_token)."""
        if not page.first_seq:
            return "", ""
        first, last = page.first_seq, page.last_seq
        if self._backwards:
            first, last = last, first
        place = [self.place] if self.place else []
        following = self._tokens.seal([FOLLOWING, last, *place]) if self._backwards or page.more else ""
        before = page.more if self._backwards else self._from is not None
        return following, self._tokens.seal([PRECEDING, first, *place]) if before else ""
