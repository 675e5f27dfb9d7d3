"""Encodes and decodes the payloads of a bus: hints as lines of text, which NOTIFY can carry too, and deltas as bytes
behind such a line.

The format relies on keys without blanks and line ends (rpc/sessions/checks.py and auth.py check that).
"""

from collections.abc import Iterable, Sequence
from typing import Final

from sessiond_server.domain.rows import Key
from sessiond_server.events.bus import Deltas, Hint

EVERYTHING: Final = b"*"
"""Payload in place of hints: any session may have new events."""


def hint_line(key: Key, seq: int) -> bytes:
    return f"{key[0]} {key[1]} {seq}".encode()


def hints_in(payload: bytes) -> Sequence[Hint] | None:
    """The hints of a payload; None if any session may have new events, or if the payload is of an unknown version."""
    try:
        parts = [line.split(" ") for line in payload.decode().split("\n")]
        return [Hint((tenant_id, session_id), int(seq)) for tenant_id, session_id, seq in parts]
    except ValueError:
        return None


def deltas_record(deltas: Deltas) -> bytes:
    sizes = " ".join([str(len(data)) for data in deltas.data])
    return f"{deltas.key[0]} {deltas.key[1]} {sizes}\n".encode() + b"".join(deltas.data)


def deltas_in(payload: bytes) -> Iterable[Deltas]:
    """The deltas of the records in a payload. Stops at a record of an unknown version."""
    place = 0
    while (end := payload.find(b"\n", place)) >= 0:
        try:
            tenant_id, session_id, *parts = payload[place:end].decode().split(" ")
            sizes = [int(part) for part in parts]
        except ValueError:
            return
        place, data = end + 1, []
        for size in sizes:
            data.append(payload[place : place + size])
            place += size
        if place > len(payload) or min(sizes, default=-1) < 0:
            return
        yield Deltas((tenant_id, session_id), data)
