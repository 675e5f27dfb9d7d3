"""Estimates how many tokens a model makes of text. docs/decisions/0039-context.md has the measured errors."""

import string
from typing import Final

from sessiond.v1.message_pb2 import Part

MESSAGE_TOKENS: Final = 4
"""What providers add for each message: its role and the marks around it."""
FILE_TOKENS: Final = 1000
"""For an image or another file, of which only the provider knows how many tokens it makes."""
CALL_TOKENS: Final = 8
"""For the marks around a call of a tool or its result."""
FORM: Final = '{"sessiond.form":"'
"""How the part begins in which converters of the client keep what other parts cannot hold."""

_ASCII: Final = (
    (string.ascii_letters.encode(), 0.23),
    (b" \t\n\r\v\f", 0.05),
    (string.punctuation.encode(), 0.5),
    (string.digits.encode(), 0.5),
)
_BEYOND: Final = (
    (bytes(range(0xC2, 0xCE)), 2.0),  # Latin with marks, each of which splits a word
    (b"\xce\xcf", 0.64),  # Greek
    (b"\xd0\xd1\xd2\xd3", 0.36),  # Cyrillic
    (b"\xd6\xd7", 0.67),  # Hebrew
    (b"\xd8\xd9\xda\xdb", 0.54),  # Arabic
    (b"\xd4\xd5\xdc\xdd\xde\xdf", 1.0),  # Armenian, Syriac and others: not measured
    (b"\xe0", 0.64),  # scripts of India
    (b"\xe1", 2.4),  # Ethiopic; Georgian, Burmese, Khmer and others: not measured
    (bytes(range(0xE2, 0xF0)), 1.0),  # Han, kana, Hangul; symbols: not measured
    (bytes(range(0xF0, 0xF5)), 2.5),  # emoji, rare scripts: not measured
)
"""Bytes, and tokens for each. Beyond ASCII: first bytes of characters in UTF-8, which tell blocks of Unicode."""
_FINER: Final = (
    (b"\xe0\xa4", -0.09),
    (b"\xe0\xa5", -0.09),  # Devanagari
    (b"\xe0\xb8", 0.06),
    (b"\xe0\xb9", 0.06),  # Thai
)
"""First two bytes of characters, and what is added to the weight of their first byte."""
_WORDS: Final = bytes(byte if chr(byte).isalnum() or byte in b"+/" else 32 for byte in range(128)) + b" " * 128
"""Leaves letters and digits of ASCII, plus and slash, and makes spaces of all other bytes."""
_NO_WORD: Final = 32
"""Length from which on what has no gap is no word, but base64, a hexadecimal number or the like."""
_NO_WORD_WEIGHT: Final = 0.28
"""Added for each character of these."""


def of_text(text: str) -> int:
    """The estimate for text, rounded up. Takes tens of milliseconds for the longest text that a part may have."""
    if not text:
        return 0
    rest = data = text.encode("utf-8", "replace")
    total = 0.0
    if max(map(len, data.split()), default=0) >= _NO_WORD:
        total += _NO_WORD_WEIGHT * sum(len(word) for word in data.translate(_WORDS).split() if len(word) >= _NO_WORD)
    for counted, weight in _ASCII if text.isascii() else _ASCII + _BEYOND:
        left = rest.translate(None, counted)
        total += weight * (len(rest) - len(left))
        rest = left
    if not text.isascii():
        for beginning, weight in _FINER:
            total += weight * data.count(beginning)
    return int(total) + 1


def of_fixed(text: str) -> int:
    """The estimate for a system prompt or a summary, which providers take as a message or in its place; 0 without."""
    return MESSAGE_TOKENS + of_text(text) if text else 0


def of_part(kind: str | None, part: Part) -> int:
    """`kind`: which of its kinds is set."""
    match kind:
        case "text":
            return of_text(part.text)
        case "thinking":
            return of_text(part.thinking)
        case "json":
            return of_text(part.json)
        case "data":
            return part.data.ByteSize() // 3 + 1
        case "tool_call":
            call = part.tool_call
            given = of_text(call.arguments_json) + call.arguments_struct.ByteSize() // 3
            return CALL_TOKENS + of_text(call.name) + given
        case "tool_result":
            result = part.tool_result
            return CALL_TOKENS + of_text(result.text) + result.data.ByteSize() // 3
        case "file" | "blob":
            return FILE_TOKENS
    return 0
