"""The rows that forks read and write, as plain values. See docs/decisions/0047-forks.md."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sessiond_server.domain.rewinds.ranges import Ranges

if TYPE_CHECKING:
    from sessiond_server.domain.attachments.rows import AttachmentRow
    from sessiond_server.domain.rows import RunRow, ToolCallRow

Key = tuple[str, str]
"""As rows.Key: (tenant_id, session_id)."""

GENERATIONS: Final = 100
"""Most logs that a session's log is made of, besides its own."""
FORKS: Final = 10_000
"""Most forks of one session."""
ITEMS: Final = 10_000
"""Most runs, tool calls and attachments together that a fork has copies of."""
LOOKED_BACK: Final = 16_384
"""Most events between the place of a fork and an event before it that has the session's core. Events of this version
have one every CORES events."""
HIDDEN_AT_ONCE: Final = 5_000
"""Most events that one transaction moves to a hidden log."""
CORES: Final = 64
"""The rows of events with a `seq` that this divides have the session's core after the event."""


@dataclass(frozen=True, slots=True)
class ForkPlace:
    """Where a session is forked, or rewound to: at an event, at a message, or at its end."""

    seq: int = 0
    message_id: str = ""
    before: bool = False
    """Just before the message."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a session's log: the events from `first_seq` through `last_seq`, which another log has."""

    log_id: str
    """The session that wrote the events, or the hidden log that keeps them since that session was deleted."""
    first_seq: int
    last_seq: int


@dataclass(frozen=True, slots=True)
class ForkAsk:
    """The place of a session to look up. The session is locked."""

    key: Key
    place: ForkPlace
    version: int
    fork_seq: int | None
    """As Head.fork_seq."""
    base_version: int
    core: bytes
    """The session's core as it is now."""
    with_content: bool = True
    """Whether the content at the place is needed."""


@dataclass(slots=True)
class ForkSource:
    """A session as it was at a place, as far as it has not been redacted or deleted since."""

    seq: int
    """The place. 0: the session has no such place."""
    core: bytes = b""
    content: bytes = b""
    segments: Sequence[Segment] = ()
    """All that a fork at the place shares, ascending and without a gap."""
    runs: "Sequence[RunRow]" = ()
    tool_calls: "Sequence[ToolCallRow]" = ()
    attachments: "Sequence[AttachmentRow]" = ()
    """Tombstones included."""
    children: int = 0
    """How many forks the session has; counted up to FORKS."""
    exceeded: str = ""
    """ForkLimitReached.what, of a limit that was exceeded while the place was looked up: nothing else is there."""


@dataclass(frozen=True, slots=True)
class RewindSource:
    """What was visible at a place of a session, as far as it has not been deleted since."""

    seq: int
    """The place. 0: the session has no such place."""
    core: bytes = b""
    """Of the place; b"" where an event with a core is too far away."""
    content: bytes = b""
    """Of the place, if it was asked for."""


@dataclass(frozen=True, slots=True)
class RewoundRow:
    """What rewinds have hidden of a session: all of it, as in its core."""

    key: Key
    ranges: Ranges


@dataclass(frozen=True, slots=True)
class ForkRow:
    """A new fork."""

    key: Key
    parent_id: str
    seq: int
    segments: Sequence[Segment]
    create_time_us: int


@dataclass(frozen=True, slots=True)
class Spread:
    """A redaction of a message that several sessions may show. It is spread to all of them: each gets the redaction as
    a command of its own, with `request_id` as its request id."""

    tenant_id: str
    session_id: str
    """The session in which it was redacted, which has its event."""
    log_id: str
    """The log that has the message."""
    seq: int
    request_id: str
    message_id: str
    reason: str
    title: str
    """The name that the message gave to sessions; "" for none."""
    actor: str


@dataclass(frozen=True, slots=True)
class Shared:
    """What a session shares with others."""

    through: int = 0
    """The highest seq of its own log that forks show; 0: none."""
