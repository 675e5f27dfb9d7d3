"""The summary without a model: sentences of the conversation that have most of its frequent words.

The method is SumBasic (Nenkova and Vanderwende, 2005): the sentence whose words are the most frequent ones on average
is taken, and these words count less from then on, so that the next sentence says something else. Words are the units of
searches (search/text.py), in every script; of scripts without spaces between words, pairs of characters.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Final

from sessiond.v1.message_pb2 import Message
from sessiond_server.search.text import canonical, is_character, runs
from sessiond_server.summaries.contract import Conversation, Written
from sessiond_server.summaries.transcript import NAMES, NOTHING, said_in_words

CHARACTERS: Final = 2000
"""Most characters of a summary."""
_SENTENCE_CHARACTERS: Final = 300
"""Of a longer sentence the beginning is taken."""
_READ: Final = 4000
"""Characters of a text that are looked at."""
_SENTENCES: Final = 500
"""Most sentences that are compared; of more, these are chosen at even distances. It bounds the time to tens of
milliseconds."""

_STOPS: Final = ".!?\u2026\u061f\u06d4\u0964\u0965\u1362\u104b\u17d4"
"""What ends a sentence before a space: in Latin, Arabic, Urdu, Devanagari, Ethiopic, Burmese, Khmer and others."""
_WIDE_STOPS: Final = "\u3002\uff01\uff1f\uff61"
"""What ends one in Chinese and Japanese, where no space follows."""
_ends = re.compile(rf"(?<=[{_STOPS}])\s+|(?<=[{_WIDE_STOPS}])\s*|\s*[\n\r\u2028\u2029]+\s*")


def summary(previous: str, messages: Sequence[Message]) -> str:
    """The sentences in the order of the conversation, a line each, behind the role of who said them. Those of the
    summary before are sentences like the others. The same input has the same summary."""
    lines = list(_lines(previous, messages))
    if len(lines) > _SENTENCES:
        lines = [lines[place * len(lines) // _SENTENCES] for place in range(_SENTENCES)]
    chosen = _choose(lines)
    return "\n".join(lines[place][0] for place in chosen) or NOTHING


@asynccontextmanager
async def opened() -> AsyncIterator["Extractive"]:
    yield Extractive()


class Extractive:
    """A Summariser that needs no network."""

    async def summarise(self, conversation: Conversation) -> Written:
        # In a thread, which leaves the loop its turns.
        return Written(await asyncio.to_thread(summary, conversation.previous, conversation.messages))


def _lines(previous: str, messages: Sequence[Message]) -> Iterator[tuple[str, Sequence[str]]]:
    """(line, units of its sentence) of all sentences."""
    for line in previous.splitlines():
        if line != NOTHING and (found := _units(line.partition(": ")[2] or line)):
            yield line[: _SENTENCE_CHARACTERS + 20], found
    for message in messages:
        name = NAMES.get(message.role, "other")
        for text in said_in_words(message):
            for sentence in _ends.split(text[:_READ]):
                shown = sentence.strip()[:_SENTENCE_CHARACTERS]
                if found := _units(shown):
                    yield f"{name}: {shown}", found


def _units(sentence: str) -> Sequence[str]:
    found: set[str] = set()
    for run in runs(canonical(sentence)):
        if not run:
            continue
        if is_character(run):
            found.update(first + second for first, second in pairwise(run))
            if len(run) == 1:
                found.add(run)
        else:
            found.add(run)
    return sorted(found)


def _choose(lines: Sequence[tuple[str, Sequence[str]]]) -> list[int]:
    """Places of the lines of the summary, ascending."""
    counts = Counter(unit for _, units in lines for unit in units)
    # What is in every fourth sentence, such as an article, says nothing about what the conversation is about.
    common = max(4, len(lines) // 4)
    weights = {unit: count / len(lines) if count <= common else 0.0 for unit, count in counts.items()}
    left, chosen = CHARACTERS, set[int]()
    seen = set[str]()
    while len(chosen) < len(lines):
        best, best_score = -1, -1.0
        for place, (line, units) in enumerate(lines):
            if place in chosen or len(line) >= left or line in seen:
                continue
            score = sum(weights[unit] for unit in units) / (len(units) + 2)
            if score > best_score:
                best, best_score = place, score
        if best < 0:
            break
        line, units = lines[best]
        chosen.add(best)
        seen.add(line)
        left -= len(line) + 1
        for unit in units:
            weights[unit] **= 2
    return sorted(chosen)
