"""Finds a word of each language in the conversations that were stored a moment ago."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from examples.demo.chats import Conversation
from examples.demo.live import Patiently
from examples.demo.promises import FailedError
from examples.demo.terminal import Screen, clip, count, pad, printable, width

import sessiond

WORDS = {
    "English": ("en-failing-test", "remainder"),
    "German": ("de-nachtzug", "liegewagen"),
    "Spanish": ("es-paella", "socarrat"),
    "French": ("multi-dolmetscher", '"cahier des charges"'),
    "Chinese": ("zh-图书馆", "黑暗森林"),
    "Japanese": ("ja-予約", "蕎麦"),
    "Korean": ("ko-배송", "폭설"),
    "Arabic": ("ar-الطقس", "الثلوج"),
    "Hindi": ("hi-पढ़ाई", "गुणनखंड"),
    "Russian": ("ru-затмение", "солнце"),
}
"""By language: a conversation, and what to find in it."""
MOST = 10
"""Words to find in conversations of others."""
BEFORE = 16
"""Characters of a snippet before its first hit."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a conversation is stored."""

    conversation: Conversation
    session_id: str
    version: int
    """That the index must have seen."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to find, and where it is."""

    name: str
    query: str
    place: Place


class Search:
    """SearchMessages over the sessions of this run."""

    def __init__(
        self, client: sessiond.Client, screen: Screen, patiently: Patiently, patience: float, labels: Mapping[str, str]
    ) -> None:
        self._client = client
        self._screen = screen
        self._patiently = patiently
        self._patience = patience
        self._labels = labels

    async def show(self, places: Sequence[Place]) -> None:
        """Raises FailedError where something is not found in its conversation."""
        screen = self._screen
        wanted = words_of(places)
        if not wanted:
            return
        screen.title("Search", "a word of each, in all of these sessions, as soon as the index has seen them")
        for each in wanted:
            started = time.perf_counter()
            try:
                hits = await self._patiently(lambda _, each=each: self._find(each))  # type: ignore[misc]
            except sessiond.SearchOff:
                screen.line("  search is off here; the service has it with --search=true")
                return
            elapsed = f"{1000 * (time.perf_counter() - started):.0f} ms"
            hit = next((hit for hit in hits if hit.session_id == each.place.session_id), None)
            if hit is None or not any(segment.hit for segment in hit.snippets[0].segments):
                raise FailedError(f"{each.name}: what was stored is not found")
            name = pad(clip(printable(each.name), 12), 12)
            figures = f"{name}{pad(count(len(hits), 'message'), 11, right=True)}  {pad(elapsed, 7, right=True)}   "
            # The snippet comes last: whichever way its script runs, nothing follows it.
            screen.line(f"  {figures}{self._snippet(hit.snippets[0], screen.columns - width(figures) - 2)}")

    async def _find(self, wanted: Wanted) -> list[sessiond.MessageHit]:
        """The hits, once the index has seen the conversation."""
        place, loop = wanted.place, asyncio.get_running_loop()
        give_up = loop.time() + self._patience
        while True:
            found = self._client.search_messages(
                wanted.query, labels=self._labels, wait_for=(place.session_id, place.version), page_size=100
            )
            try:
                return [hit async for hit in found]
            except sessiond.VersionNotReached:  # an index that is far behind
                if loop.time() >= give_up:
                    raise

    def _snippet(self, snippet: sessiond.Snippet, columns: int) -> str:
        """From shortly before the first hit on, with the hits in brackets."""
        first = next(index for index, segment in enumerate(snippet.segments) if segment.hit)
        line, room = "", columns
        for index, segment in enumerate(snippet.segments):
            text = segment.text
            if index < first:
                text = text[-BEFORE:]
            text = one_line(text)
            shown = clip(f"[{text}]" if segment.hit else text, room)
            room -= width(shown)
            line += self._screen.paint(shown, "yellow") if segment.hit else shown
            if room < 1 or shown.endswith("…"):
                break
        return line


def one_line(text: str) -> str:
    """As printable, with a space where it begins or ends with one."""
    return f"{' ' * text[:1].isspace()}{printable(text)}{' ' * text[-1:].isspace()}"


def words_of(places: Sequence[Place]) -> list[Wanted]:
    """A word of each language; in conversations of others, the longest word of the first question of some."""
    named = {place.conversation.id: place for place in places}
    own = [Wanted(name, query, named[of]) for name, (of, query) in WORDS.items() if of in named]
    if own:
        return own
    asked = [(place, _longest(place.conversation)) for place in places]
    return [Wanted(place.conversation.id, f'"{word}"', place) for place, word in asked if word][:MOST]


def _longest(conversation: Conversation) -> str:
    question = next((m for m in conversation.messages if m.role == sessiond.Role.ROLE_USER), sessiond.Message())
    text = sessiond.text_of(question)
    words = text[:1000].split()
    if len(text) > 1000:
        words = words[:-1]  # which may be cut off
    return max((word for word in words if word.isalnum() and len(word) < 40), key=len, default="")
