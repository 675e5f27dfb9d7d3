"""What a summariser is. A plug of another package implements it, and names itself in its metadata:

    [project.entry-points."sessiond.summarisers"]
    my-model = "my_package:opened"

`opened` is called without arguments when the service starts (in each worker, if there are several), and returns an
asynchronous context manager of a Summariser that is open while the service runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sessiond.v1.message_pb2 import Message
from sessiond.v1.session_pb2 import TokenUsage

GROUP = "sessiond.summarisers"
"""The group of entry points."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a summary is to be made of."""

    tenant_id: str
    session_id: str
    previous: str
    """The newest summary, which the new one takes the place of; empty: there is none."""
    messages: Sequence[Message]
    """The messages behind what `previous` covers, by `seq`, at least one; those that are redacted are left out. They
    belong to the caller: never change them."""


@dataclass(frozen=True, slots=True)
class Written:
    """A summary as a summariser made it."""

    text: str
    """1 to 65 536 characters, without U+0000. Covers `previous` and all messages."""
    model: str = ""
    """The model that wrote it: 0 to 255 characters, no control characters; empty where no model wrote it."""
    usage: TokenUsage = field(default_factory=TokenUsage)
    """Tokens spent on it. They are added to those of the session."""
    token_count: int = 0
    """Tokens of `text`; 0: not known."""


class SummariserUnavailable(Exception):
    """The summariser cannot be reached, or takes no more work now."""

    def __init__(self, retry_after: float | None = None) -> None:
        """`retry_after`: seconds for which it wants no other calls, for whatever session; None: it does not say."""
        super().__init__("the summariser is not available")
        self.retry_after = retry_after


class Summariser(Protocol):
    """Makes summaries."""

    async def summarise(self, conversation: Conversation) -> Written:
        """The summary. Called for several sessions at once, never for one session twice at a time.

        May be called again for the same conversation, after errors and crashes. Cancelled once `summary_timeout` is
        over, and when the service stops. Raises SummariserUnavailable; any other exception counts as a failure too, of
        which the log has the type only, never the text. Either way the session is tried again later, with growing
        pauses. An answer that breaks a bound of Written is a failure.
        """
        ...
