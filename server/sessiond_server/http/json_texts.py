"""JSON texts from and to messages: protobuf's JSON mapping with the names that the protos have.

Parsing takes microseconds for each element, far more than the rest of a call. Texts beyond INLINE are converted in
threads: one for middling texts and one for large ones, so that other calls and the event loop go on meanwhile.
"""

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message

from sessiond_server.http.json_objects import to_object
from sessiond_server.http.problems import Problem, invalid, malformed

INLINE: Final = 16 * 1024
"""Largest text, or message, in bytes that is converted at once."""
MIDDLING: Final = 256 * 1024
"""Largest one, in bytes, for the thread of middling ones."""
MOST_ELEMENTS: Final = 250_000
"""Most values of one text, as of a request by gRPC."""

WINDOW: Final = 64 * 1024
"""Bytes of a text whose strings are cut out at once."""

_NO_FIELD: Final = re.compile(r'has no field named "(.{1,200}?)"')
_FIELD: Final = re.compile(r"Failed to parse (\w+) field: ")

Result = TypeVar("Result")


class Converter:
    """Runs conversions: small ones at once, others in threads. Belongs to one event loop."""

    def __init__(self) -> None:
        self._middling = ThreadPoolExecutor(1, "http-json")
        self._large = ThreadPoolExecutor(1, "http-json-large")

    def close(self) -> None:
        """What waits is cancelled; what is under way ends by itself."""
        for pool in (self._middling, self._large):
            pool.shutdown(wait=False, cancel_futures=True)

    async def run(self, size: int, work: Callable[..., Result], *arguments: Any) -> Result:
        """The result of `work(*arguments)` on a text or message of `size` bytes. Raises what it raises."""
        if size <= INLINE:
            return work(*arguments)
        pool = self._middling if size <= MIDDLING else self._large
        return await asyncio.get_running_loop().run_in_executor(pool, work, *arguments)


def dump(message: Message) -> bytes:
    """The JSON text of a message."""
    return dump_value(to_object(message))


def dump_dict(found: Mapping[str, Any]) -> bytes:
    return dump_value(found)


def dump_value(found: Any) -> bytes:
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()


def load(text: bytes) -> Any:
    """The value of a JSON text. Raises Problem: for all that is not UTF-8, not JSON (RFC 8259), or has a key twice."""
    # Most texts have too few of these to be too large, whatever is within their strings.
    if _marks(text) > MOST_ELEMENTS and _marks_outside_strings(text) > MOST_ELEMENTS:
        raise Problem(413, "REQUEST_TOO_LARGE", f"the body has more than {MOST_ELEMENTS} values")
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant)
    except UnicodeDecodeError as error:
        raise malformed(f"the body is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise malformed(f"the body is not JSON at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise malformed("the body is nested too deeply") from None
    except ValueError:
        raise malformed("the body has a number that is too long") from None


def _marks(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _marks_outside_strings(text: bytes) -> int:
    """Takes time in proportion to the length and memory for one WINDOW, whatever the text is. After the first place
    that is not JSON, the number may be wrong: the parser stops there too."""
    # Without escaped backslashes and quotes, each quote begins or ends a string.
    text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks, first_outside = 0, 0
    for place in range(0, len(text), WINDOW):
        pieces = text[place : place + WINDOW].split(b'"')
        marks += _marks(b"".join(pieces[first_outside::2]))
        if len(pieces) % 2 == 0:
            first_outside = 1 - first_outside
    return marks


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise malformed("the body has an object with a key twice")
    return found


def _constant(name: str) -> Any:
    raise malformed(f"{name} is not JSON")


def fill(message: Message, fields: dict[str, Any]) -> None:
    """Sets the fields of a message from a JSON object. Raises Problem, which names the field and quotes no value."""
    try:
        ParseDict(fields, message)
    except ParseError as error:
        raise _fault(str(error), message) from None
    except (ValueError, TypeError, AttributeError, RecursionError):
        # Half of a surrogate pair; values of well-known types that are objects or lists in place of texts.
        raise malformed(f"not the JSON form of {message.DESCRIPTOR.full_name}") from None


def _fault(text: str, message: Message) -> Problem:
    """What a ParseError says, without the value that it may quote after the name of the field."""
    if unknown := _NO_FIELD.search(text):
        return invalid(unknown[1], "there is no such field")
    path, place = [], 0
    while found := _FIELD.match(text, place):
        path.append(found[1])
        place = found.end()
    name = ".".join(path) or "body"
    return invalid(name, f"not as the JSON form of {message.DESCRIPTOR.full_name} has it")
