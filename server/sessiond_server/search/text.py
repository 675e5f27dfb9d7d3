"""The canonical form of texts, in which queries and messages are compared, and its units.

A unit is a word (a run of letters, marks and digits), or one character of a script that sets no spaces between words,
or one symbol such as an emoji. The canonical form has the units of the normalised text (NFKC, full case folding,
without what Unicode calls default ignorable) in order: GAP stands for everything between two units, JOINT is put
between a word and a character that follow each other directly, and two characters that do so stand next to each other.
So a word begins and ends at GAP or JOINT, or at an end of the text.

Properties of characters are those of the package `regex`, which follows Unicode more closely than the standard library.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

import regex

GAP: Final = " "
JOINT: Final = "\x01"
EDGES: Final = frozenset((GAP, JOINT))
"""What stands at the ends of words."""

PREFIX_LENGTH: Final = 3
"""Characters of the beginnings of words that are indexed: the shortest `word*`."""

_SCRIPTS: Final = (
    "Han", "Hiragana", "Katakana", "Hangul", "Bopomofo", "Yi", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan",
    "Javanese", "Balinese", "Tai_Tham", "New_Tai_Lue", "Tai_Le", "Tai_Viet",
)  # fmt: skip
"""Scripts without spaces between words; and Korean, whose words have their particles at their ends."""
_CHARACTER: Final = (
    "[[" + "".join(rf"\p{{Script_Extensions={name}}}" for name in _SCRIPTS) + r"]&&[\p{L}\p{M}\p{N}]]"
)  # fmt: skip
_CHARACTERS: Final = rf"[{_CHARACTER}||[\p{{S}}--[\x00-\x7f]]]"
_WORDS: Final = rf"[[\p{{L}}\p{{M}}\p{{N}}]--{_CHARACTERS}]"

_is_unit = regex.compile(rf"{_WORDS}|{_CHARACTERS}", regex.V1).fullmatch
_is_character = regex.compile(_CHARACTERS, regex.V1).fullmatch
_ignorable = regex.compile(r"\p{Default_Ignorable_Code_Point}+", regex.V1)
_many_marks = regex.compile(r"([\p{M}\uff9e\uff9f]{30})[\p{M}\uff9e\uff9f]+", regex.V1)
"""Marks beyond the 30 in a row that Unicode's Stream-Safe Text Format allows, and the two characters that become marks.
Ordering n marks in a row takes n * n steps."""
_ascii_words = re.compile(r"[a-z0-9]+")
_ASCII_FORMS: Final = "".join(chr(code).lower() if chr(code).isalnum() else GAP for code in range(128)).encode() * 2
"""Of bytes; only the first half occurs."""
_gaps = re.compile(f"{GAP}{GAP}+")
_clusters = regex.compile(r"\X", regex.V1)


class _Forms(dict[int, str]):
    """What becomes of each character, by code point; filled as characters occur."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        form = JOINT + character + JOINT if _is_character(character) else character if _is_unit(character) else GAP
        self[code] = form
        return form


_forms = _Forms()


def normalised(text: str) -> str:
    """NFKC_Casefold: forms of a text that differ in case, width or composition become one. Of marks in a row, those
    beyond 30 are left out."""
    if text.isascii():
        return text.lower()
    folded = _nfkc(_nfkc(text).casefold())
    without = _ignorable.sub("", folded)
    return folded if len(without) == len(folded) else _nfkc(without)


def _nfkc(text: str) -> str:
    return unicodedata.normalize("NFKC", _many_marks.sub(r"\1", text))


def canonical(text: str) -> str:
    """The canonical form, without GAP at its ends; "" for a text without units."""
    if text.isascii():
        return b" ".join(text.encode("ascii").translate(_ASCII_FORMS).split()).decode("ascii")
    return _joined(normalised(text))


def _joined(normal: str) -> str:
    form = GAP.join(normal.translate(_forms).replace(JOINT + JOINT, "").split(GAP))
    form = _gaps.sub(GAP, form.replace(JOINT + GAP, GAP).replace(GAP + JOINT, GAP))
    return form.strip(GAP + JOINT)


def is_character(unit: str) -> bool:
    """Whether a unit, or the one that begins with this, is a character and no word."""
    return _forms[ord(unit[0])][0] == JOINT


def runs(form: str) -> list[str]:
    """The words of a canonical form, and its rows of characters that follow each other, in order."""
    return form.replace(JOINT, GAP).split(GAP) if form else []


def terms(forms: Iterable[str]) -> set[str]:
    """What an index has of texts in canonical form: their units, and the beginnings of their words."""
    words: set[str] = set()
    characters: set[str] = set()
    for form in forms:
        if form.isascii() and JOINT not in form:
            words.update(form.split(GAP))
            continue
        for run in set(runs(form)):
            if is_character(run):
                characters.update(run)
            else:
                words.add(run)
    words.discard("")
    return characters | words | {word[:PREFIX_LENGTH] for word in words if len(word) > PREFIX_LENGTH}


def aligned(text: str) -> tuple[str, list[int]] | None:
    """The canonical form, and for each of its characters where in `text` the one that it comes from begins; at its end
    the length of the text. GAP and JOINT have the place of what follows them.

    None if characters of the text combine beyond what people see as one; then no places are known. Slow: for short
    texts.
    """
    if text.isascii():
        return _aligned_ascii(text)
    normal: list[str] = []
    places: list[int] = []
    for cluster in _clusters.finditer(text):
        piece = normalised(cluster[0])
        normal.append(piece)
        places += [cluster.start()] * len(piece)
    whole = "".join(normal)
    if whole != normalised(text):
        return None
    form: list[str] = []
    origins: list[int] = []
    before = GAP
    for character, place in zip(whole, places, strict=True):
        made = _forms[ord(character)]
        if made == GAP:
            before = GAP
            continue
        if form and before == GAP:
            form.append(GAP)
            origins.append(place)
        elif form and (len(made) > 1) != (len(before) > 1):
            form.append(JOINT)
            origins.append(place)
        form.append(character)
        origins.append(place)
        before = made
    return "".join(form), [*origins, len(text)]


def first_cluster(text: str) -> str:
    """What people see as the first character of the text."""
    match = _clusters.match(text)
    return match[0] if match is not None else ""


def _aligned_ascii(text: str) -> tuple[str, list[int]]:
    origins: list[int] = []
    words: list[str] = []
    for word in _ascii_words.finditer(text.lower()):
        if words:
            origins.append(word.start())
        words.append(word[0])
        origins += range(word.start(), word.end())
    return GAP.join(words), [*origins, len(text)]
