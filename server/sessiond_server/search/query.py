"""What a query means: words, "phrases", beginnings*, -not, OR."""

import itertools
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from sessiond_server.search.text import EDGES, GAP, JOINT, PREFIX_LENGTH, canonical, is_character, runs

MOST_TERMS: Final = 64
LONGEST: Final = 1024
"""Bounds of a query: its words, beginnings and phrases together, and its characters."""

_item = re.compile(r'(?P<without>-?)(?:["\u201c\u201d\u201e](?P<phrase>[^"\u201c\u201d\u201e]*)["\u201c\u201d\u201e]?|'
                   r'(?P<word>[^\s"\u201c\u201d\u201e]+))')  # fmt: skip


class QueryInvalid(Exception):
    """The query breaks a rule, which the text of the error names."""


@dataclass(frozen=True, slots=True)
class Term:
    """A word, a beginning of a word, or a phrase, in canonical form."""

    form: str
    is_prefix: bool
    """Whether the last word of the form may go on."""

    def indexed(self) -> set[str]:
        """Indexed terms that every text has in which this occurs."""
        keys: set[str] = set()
        found = runs(self.form)
        for run in found:
            if is_character(run):
                keys.update(run)
            else:
                keys.add(run)
        if self.is_prefix:
            keys.discard(found[-1])
            keys.add(found[-1][:PREFIX_LENGTH])
        return keys

    def places(self, form: str) -> Iterator[tuple[int, int]]:
        """Where it occurs in a canonical form: (start, end), ascending and apart."""
        if self.occurs_in(form):
            for found in _pattern(self.form, self.is_prefix).finditer(form):
                yield found.span()

    def occurs_in(self, form: str) -> bool:
        if _is_loose(self.form):
            return _pattern(self.form, self.is_prefix).search(form) is not None
        # Looked for with its edges: a word inside of long ones would be found, and dismissed, at every place of them.
        padded = GAP + form + GAP
        return any(needle in padded for needle in _needles(self.form, self.is_prefix))


@lru_cache(maxsize=4096)
def _needles(form: str, is_prefix: bool) -> tuple[str, ...]:
    before = ("",) if is_character(form[0]) else tuple(EDGES)
    after = ("",) if is_prefix or is_character(form[-1]) else tuple(EDGES)
    return tuple(first + form + last for first in before for last in after)


def _is_loose(form: str) -> bool:
    """Whether it is a phrase with characters: between one and what follows it, a text may have a gap or none."""
    return GAP in form and not form.isascii()


@lru_cache(maxsize=1024)
def _pattern(form: str, is_prefix: bool) -> "re.Pattern[str]":
    edges = "".join(sorted(EDGES))
    pattern = re.escape(form)
    if _is_loose(form):
        pieces = form.split(GAP)
        pattern = re.escape(pieces[0])
        for before, after in itertools.pairwise(pieces):
            first, second = is_character(before[-1]), is_character(after[0])
            joined = "" if first and second else JOINT
            pattern += (f"(?:{GAP}|{joined})" if first or second else GAP) + re.escape(after)
    if not is_character(form[0]):
        pattern = f"(?<![^{edges}]){pattern}"
    if is_prefix:
        pattern += f"[^{edges}]*"
    elif not is_character(form[-1]):
        pattern += f"(?![^{edges}])"
    return re.compile(pattern)


@dataclass(frozen=True, slots=True)
class Query:
    """A text matches if each of `required` has a term that occurs in it, and none of `without` does."""

    required: tuple[tuple[Term, ...], ...]
    without: tuple[Term, ...]

    @property
    def size(self) -> int:
        """How many terms a text is compared with."""
        return sum(map(len, self.required)) + len(self.without)

    @property
    def terms(self) -> Iterator[Term]:
        """The terms that may be hits."""
        for alternatives in self.required:
            yield from alternatives


def parse(text: str) -> Query:
    """Raises QueryInvalid."""
    if not 1 <= len(text) <= LONGEST:
        raise QueryInvalid(f"must be 1 to {LONGEST} characters")
    if "\0" in text:
        raise QueryInvalid("must not contain U+0000")
    required: list[tuple[Term, ...]] = []
    without: list[Term] = []
    joins = False
    count = 0
    for item in _item.finditer(text):
        if item[0] == "OR":
            joins = bool(required)
            continue
        term = _term(item["word"] if item["phrase"] is None else item["phrase"], item["phrase"] is None)
        if term is None:
            continue
        count += 1
        if count > MOST_TERMS:
            raise QueryInvalid(f"must have at most {MOST_TERMS} words, beginnings and phrases")
        if item["without"]:
            without.append(term)
        elif joins:
            required[-1] = (*required[-1], term)
        else:
            required.append((term,))
        joins = False
    if not required:
        raise QueryInvalid("must have a word that is to be found")
    return Query(tuple(required), tuple(without))


def _term(text: str, may_be_prefix: bool) -> Term | None:
    """None for a text without units."""
    form = canonical(text)
    if not form:
        return None
    last = runs(form)[-1]
    if not (may_be_prefix and text.endswith("*")) or is_character(last):
        return Term(form, is_prefix=False)
    if len(last) < PREFIX_LENGTH:
        raise QueryInvalid(f"a beginning of a word must have at least {PREFIX_LENGTH} characters before the *")
    return Term(form, is_prefix=True)


def key(term: str) -> int:
    """The number by which the index knows a term: 32 bits, signed. Terms may share one: what the index finds is
    compared with the text."""
    return zlib.crc32(term.encode()) - 2**31
