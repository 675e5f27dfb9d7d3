"""Compares texts with queries, and cuts snippets out of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from sessiond.v1.search_service_pb2 import Snippet, SnippetSegment
from sessiond_server.search.query import Query, Term
from sessiond_server.search.text import aligned, canonical, first_cluster

MOST_SNIPPETS: Final = 3
SNIPPET: Final = 240
"""Characters of a snippet."""
BEFORE: Final = 60
"""Most characters of it before the first hit."""
_COUNTED: Final = 64
"""Occurrences of a term in a text that are counted: more change the score by less than a percent."""
_BLOCK: Final = 256
"""Characters of a text that are aligned at a time."""
_USUAL: Final = 1200
"""Characters of texts of usual length, in which a word that occurs once counts for less than a half."""


@dataclass(frozen=True, slots=True)
class Text:
    """One of the texts that a resource has."""

    path: str
    """The field."""
    text: str


@dataclass(frozen=True, slots=True)
class Match:
    """A resource that matches."""

    score: int
    """Relevance, in millionths."""
    found: Sequence[tuple[Text, Sequence[Term]]]
    """Texts in which terms occur."""


def match(query: Query, texts: Iterable[Text]) -> Match | None:
    """None: the texts of a resource do not match together."""
    forms = [(text, canonical(text.text)) for text in texts]
    if any(term.occurs_in(form) for term in query.without for _, form in forms):
        return None
    length = sum(len(form) for _, form in forms)
    found: dict[int, list[Term]] = {}
    score = 0.0
    for alternatives in query.required:
        occurred = False
        for term in alternatives:
            count = 0
            for number, (_, form) in enumerate(forms):
                here = sum(1 for _ in islice(term.places(form), _COUNTED))
                if here:
                    count += here
                    found.setdefault(number, []).append(term)
            if count:
                occurred = True
                score += count / (count + 0.3 + 0.9 * length / _USUAL)
        if not occurred:
            return None
    return Match(round(score * 1_000_000), [(forms[number][0], found[number]) for number in sorted(found)])


def snippets(found: Match) -> list[Snippet]:
    return [snippet(text, terms) for text, terms in found.found[:MOST_SNIPPETS]]


def snippet(text: Text, terms: Sequence[Term]) -> Snippet:
    """The piece of the text around the first place where one of the terms occurs."""
    whole = text.text
    for start, end in _windows(whole):
        spans = _spans(whole[start:end], terms)
        if spans:
            return _cut(text, [(start + begin, start + stop) for begin, stop in spans])
    cut = Snippet(path=text.path, ends_within=len(whole) > SNIPPET)
    cut.segments.append(SnippetSegment(text=whole[:SNIPPET]))
    return cut


def _windows(text: str) -> Iterable[tuple[int, int]]:
    """Overlapping parts of the text, cut at white space where there is some nearby, and all of it in the end."""
    cuts = [0]
    while len(text) - cuts[-1] > 2 * _BLOCK:
        cut = cuts[-1] + _BLOCK
        space = text.find(" ", cut, cut + 64)
        cuts.append(space if space >= 0 else cut)
    if len(cuts) > 1:
        for number, start in enumerate(cuts):
            yield start, cuts[number + 2] if number + 2 < len(cuts) else len(text)
    if len(text) <= 16 * _BLOCK or len(cuts) == 1:
        yield 0, len(text)


def _spans(part: str, terms: Sequence[Term]) -> list[tuple[int, int]]:
    """Where terms occur in a part of a text, in its own characters; ascending and apart."""
    form = canonical(part)
    if not any(term.occurs_in(form) for term in terms):
        return []
    places = aligned(part)
    if places is None:
        return []
    form, origins = places
    found = sorted({place for term in terms for place in islice(term.places(form), _COUNTED)})
    spans: list[tuple[int, int]] = []
    for start, end in found:
        begin = origins[start]
        stop = _end(part, origins[end - 1])
        if spans and begin < spans[-1][1]:
            spans[-1] = (spans[-1][0], max(stop, spans[-1][1]))
        else:
            spans.append((begin, stop))
    return spans


def _end(part: str, place: int) -> int:
    """The end of the character that people see at the place."""
    return place + len(first_cluster(part[place : place + 64]))


def _cut(text: Text, spans: Sequence[tuple[int, int]]) -> Snippet:
    whole = text.text
    start = max(0, spans[0][0] - BEFORE)
    if start:
        space = whole.find(" ", start, spans[0][0])
        start = space + 1 if space >= 0 else start
    end = max(min(len(whole), start + SNIPPET), spans[0][1])
    cut = Snippet(path=text.path, begins_within=start > 0, ends_within=end < len(whole))
    place = start
    for begin, stop in spans:
        if stop > end:
            break
        if begin > place:
            cut.segments.append(SnippetSegment(text=whole[place:begin]))
        cut.segments.append(SnippetSegment(text=whole[begin:stop], hit=True))
        place = stop
    if place < end:
        cut.segments.append(SnippetSegment(text=whole[place:end]))
    return cut
