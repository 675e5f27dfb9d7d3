"""Encodes and decodes the payloads of a bus: hints as lines of text, which NOTIFY can carry too, and deltas as bytes
behind such a line.

Session ids may have blanks, which are escaped. Neither they nor tenant ids have line ends (domain/text.py and auth.py
check that).
"""

from collections.abc import Iterable, Sequence
from typing import Final

from sessiond_server.domain.rows import Key
from sessiond_server.events.bus import Deltas, Hint

EVERYTHING: Final = b"*"
"""Payload in place of hints: any session may have new events."""


def hint_line(key: Key, seq: int) -> bytes:
    return f"{key[0]} {_escaped(key[1])} {seq}".encode()


def _escaped(session_id: str) -> str:
    """The id without blanks. Servers that don't know the escapes find no session by them, and poll as without a
    hint."""
    if " " in session_id or "%" in session_id:
        return session_id.replace("%", "%25").replace(" ", "%20")
    return session_id


def _unescaped(session_id: str) -> str:
    return session_id.replace("%20", " ").replace("%25", "%") if "%" in session_id else session_id


def hints_in(payload: bytes) -> Sequence[Hint] | None:
    """The hints of a payload; None if any session may have new events, or if the payload is of an unknown version."""
    try:
        parts = [line.split(" ") for line in payload.decode().split("\n")]
        return [Hint((tenant_id, _unescaped(session_id)), int(seq)) for tenant_id, session_id, seq in parts]
    except ValueError:
        return None


def deltas_record(deltas: Deltas) -> bytes:
    sizes = " ".join([str(len(data)) for data in deltas.data])
    return f"{deltas.key[0]} {_escaped(deltas.key[1])} {sizes}\n".encode() + b"".join(deltas.data)


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
        yield Deltas((tenant_id, _unescaped(session_id)), data)
