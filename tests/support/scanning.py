"""Finds terms in texts by looking at every character of them: what searches must find, without their code."""

import json
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

DEMO = Path(__file__).parents[2] / "examples" / "demo" / "conversations.jsonl"
LONGEST = 4

_TOGETHER = [
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1100, 0x11FF), (0x1780, 0x17FF), (0x2E80, 0x2FDF), (0x3005, 0x3007),
    (0x3040, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA960, 0xA97F), (0xAC00, 0xD7FF), (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
]  # fmt: skip
"""Blocks of scripts that are written without spaces, or whose words are found by any part of them."""


def texts_of(path: Path) -> list[str]:
    """The contents of all messages of a file of conversations, a conversation in each line."""
    with path.open(encoding="utf-8") as lines:
        messages = [message for line in lines for message in json.loads(line)["messages"]]
    return [message["content"] for message in messages if isinstance(message.get("content"), str)]


def runs_of(text: str) -> list[tuple[str, bool]]:
    """The words of a text, and its rows of characters that stand for themselves: (run, whether it is such a row)."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    visible = "".join(
        each for each in folded if unicodedata.category(each) != "Cf" and not 0xFE00 <= ord(each) <= 0xFE0F
    )
    runs: list[tuple[str, bool]] = []
    before = ""
    for character in unicodedata.normalize("NFKC", visible):
        kind = _kind(character)
        if kind == before and kind:
            runs[-1] = (runs[-1][0] + character, kind == "together")
        elif kind:
            runs.append((character, kind == "together"))
        before = kind
    return runs


def _kind(character: str) -> str:
    category, code = unicodedata.category(character), ord(character)
    if category[0] == "S":
        return "together" if code >= 0x80 else ""
    if category[0] not in "LMN":
        return ""
    return "together" if any(first <= code <= last for first, last in _TOGETHER) else "word"


def occurrences(texts: Iterable[str]) -> Mapping[str, set[int]]:
    """Query -> numbers of the texts in which it occurs: every word and every row of at most LONGEST characters, and the
    beginnings of longer words."""
    found: dict[str, set[int]] = defaultdict(set)
    for number, text in enumerate(texts):
        for run, together in runs_of(text):
            if together:
                for start in range(len(run)):
                    for length in range(1, LONGEST + 1):
                        found[run[start : start + length]].add(number)
            elif len(run) <= LONGEST:
                found[run].add(number)
            for length in range(3, LONGEST + 1) if not together else ():
                if len(run) >= length:
                    found[f"{run[:length]}*"].add(number)
    return found
