"""Headers of parts and of whole files: ranges, digests, tags, names (RFC 9110, 9530, 6266)."""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from sessiond_server.http.problems import Problem, invalid

DIGEST: Final = "repr-digest"
"""Has the SHA-256 of the whole file, also where a part is sent."""

_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,16})-(\d{1,16})/(\d{1,16})").fullmatch
_RANGE: Final = re.compile(r"bytes=(\d{0,16})-(\d{0,16})", re.IGNORECASE).fullmatch
_SHA256: Final = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]{44}):\s*(?:;[^,]*)?(?=,|$)", re.IGNORECASE)
_MOST: Final = 2**53 - 1


@dataclass(frozen=True, slots=True)
class Part:
    """Some bytes of a file of `size` bytes: `length` from `offset` on."""

    offset: int
    length: int
    size: int

    @property
    def end(self) -> int:
        return self.offset + self.length

    @property
    def content_range(self) -> str:
        return f"bytes {self.offset}-{self.end - 1}/{self.size}"


def sent(headers: Mapping[str, str]) -> Part:
    """The part of a file that a request sends. Raises Problem."""
    length = headers.get("content-length")
    given = headers.get("content-range")
    if given is None:
        if length is None:
            raise Problem(411, "LENGTH_REQUIRED", "a body without content-length needs a content-range")
        return Part(0, int(length), int(length))
    if (match := _CONTENT_RANGE(given.strip())) is None:
        raise invalid("content-range", "must be `bytes FIRST-LAST/SIZE`")
    first, last, size = map(int, match.groups())
    if not first <= last < size <= _MOST:
        raise invalid("content-range", "must have FIRST <= LAST < SIZE <= 2^53 - 1")
    part = Part(first, last + 1 - first, size)
    if length is not None and int(length) != part.length:
        raise invalid("content-range", "must have as many bytes as the body")
    return part


def wanted(headers: Mapping[str, str], size: int, tag: str) -> Part | None:
    """The part that a request wants of a file; None: all of it, also where it asks for what may be ignored, such as
    several parts. Raises Problem where there is nothing of it."""
    match = _RANGE(headers.get("range", "").strip())
    if match is None or not any(match.groups()) or headers.get("if-range", tag).strip() != tag:
        return None
    first, last = match.groups()
    if not first:
        length = min(int(last), size)
        part = Part(size - length, length, size)
    else:
        if last and int(last) < int(first):
            return None
        end = min(int(last) + 1, size) if last else size
        part = Part(int(first), end - int(first), size)
    if part.length <= 0:
        text = f"the file has {size} bytes"
        raise Problem(416, "RANGE_NOT_SATISFIABLE", text, headers=[("content-range", f"bytes */{size}")])
    return part


def digest(headers: Mapping[str, str]) -> bytes:
    """The SHA-256 of the whole file, as a request declares it. Raises Problem."""
    found = _SHA256.findall(headers.get(DIGEST, ""))
    try:
        (text,) = found
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        rule = "must be `sha-256=:BASE64:`, the SHA-256 of the whole file"
        raise invalid(DIGEST, rule) from None


def digest_header(sha256: bytes) -> str:
    return f"sha-256=:{base64.b64encode(sha256).decode()}:"


def tag_of(sha256: bytes) -> str:
    """The entity tag of a file."""
    return f'"{sha256.hex()}"'


def check_match(headers: Mapping[str, str], tag: str) -> None:
    """Raises Problem if the client wants another file than the one of the tag."""
    given = headers.get("if-match", "*").strip()
    if given != "*" and tag not in (each.strip() for each in given.split(",")):
        raise Problem(412, "PRECONDITION_FAILED", "the file has another tag")


def is_known(headers: Mapping[str, str], tag: str) -> bool:
    """Whether the client says that it has what the tag names."""
    given = headers.get("if-none-match", "").strip()
    return given == "*" or tag in (each.strip().removeprefix("W/") for each in given.split(","))


def disposition(name: str) -> str:
    """Makes browsers save a file under its name, and never show it."""
    if not name:
        return "attachment"
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


_HARMLESS: Final = re.compile(
    r"(?:image/(?!svg)[a-z0-9.-]+|audio/[a-z0-9.-]+|video/[a-z0-9.-]+|text/plain|text/csv|text/markdown"
    r"|application/(?:pdf|json|zip|gzip|octet-stream))(?:\s*;\s*charset=[\w-]+)?",
    re.IGNORECASE | re.ASCII,
).fullmatch


def shown_type(media_type: str) -> str:
    """The content type with which a file is sent: its own, but one that a browser could run as a page or a program is
    `application/octet-stream`."""
    return media_type if _HARMLESS(media_type) else "application/octet-stream"
