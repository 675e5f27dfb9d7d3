"""The check that a text is JSON."""

import json
import random
import re
from pathlib import Path
from typing import NoReturn

import pytest

from sessiond_server.domain import json_text
from sessiond_server.domain.json_text import LEVELS, NESTED, NOT_JSON, TOO_DEEP, TOO_MANY, Room, walk

ROOT = Path(__file__).parents[2]

GOOD = (
    "0",
    "-0",
    "1.5e+300",
    "9007199254740993",
    "1" * 5000,
    '""',
    '"\\ud800"',
    '"\\u00e9 \\" \\/ \u2028 \U0001f980"',
    " [ ] ",
    "{}",
    '{"a": {"b": [1, [], {}, null, true, false]}, "a": 1}\n',
    '["' + "x" * 300_000 + '"]',
    '"' + "\\n" * 5000 + '"',
    "[" + "1," * 1000 + "1]",
)
BAD = (
    "",
    " ",
    "\ufeff1",
    "\u00a01",
    "01",
    "+1",
    "1.",
    ".5",
    "1e",
    "-",
    "\u0661",
    "NaN",
    "Infinity",
    "nul",
    "truefalse",
    "1 2",
    "'a'",
    '"a',
    '"\\x"',
    '"\\u12g4"',
    '"a\nb"',
    '"a\0b"',
    '"' + "\\n" * 5000,
    "[1,]",
    "[,1]",
    "[1 2]",
    "[1",
    "]",
    "[}",
    "[1:2]",
    "{1: 2}",
    '{"a"}',
    '{"a": 1,}',
    '{"a":, "b": 1}',
    '{"a": 1 "b": 2}',
    '{"a": 1, 2}',
    '{"a": [}]',
    "{[]: 1}",
    "{" + '"a":1,' * 1000 + "1}",
    "// 1",
)


def pieces_and_fault(text: str, room: Room | None = None) -> tuple[int, str | None]:
    walking, count = walk(text, room or Room()), 1
    while True:
        try:
            next(walking)
        except StopIteration as end:
            return count, end.value
        count += 1


@pytest.mark.parametrize("text", GOOD, ids=range(len(GOOD)))
def test_json_is_taken(text: str) -> None:
    assert pieces_and_fault(text)[1] is None


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_text_that_is_not_json_is_refused(text: str) -> None:
    assert pieces_and_fault(text)[1] == NOT_JSON


@pytest.mark.parametrize(("opening", "inside", "closing"), [("[", "1", "]"), ('{"a":', "{}", "}")])
def test_levels_have_a_bound(opening: str, inside: str, closing: str) -> None:
    most = LEVELS - (inside == "{}")
    assert pieces_and_fault(opening * most + inside + closing * most)[1] is None
    assert pieces_and_fault(opening * (most + 1) + inside + closing * (most + 1))[1] == TOO_DEEP


def test_objects_and_lists_of_all_texts_have_a_bound() -> None:
    room = Room()
    for text, fault in (("[" + "[]," * (NESTED - 3) + "1]", None), ("[{}]", None), ("1", None), ("[]", TOO_MANY)):
        assert pieces_and_fault(text, room)[1] == fault


@pytest.mark.parametrize("unit", ["1,", '"",', '"' + "\\n" * 17 + '",', '"' + "x" * 5000 + '",'])
def test_long_text_is_walked_in_pieces(unit: str) -> None:
    count, fault = pieces_and_fault("[" + unit * (1024 * 1024 // len(unit)) + "1]")
    assert fault is None
    assert count >= 10


def test_it_agrees_with_the_parser_of_the_standard_library() -> None:
    randomness = random.Random(12)
    outcomes = {None: 0, NOT_JSON: 0}
    for _ in range(10_000):
        text = _damaged(_some_json(randomness, 0), randomness)
        fault = pieces_and_fault(text)[1]
        assert fault == _standard(text), text
        outcomes[fault] += 1
    assert min(outcomes.values()) > 1000


def _standard(text: str) -> str | None:
    def refuse(_: str) -> NoReturn:
        raise ValueError

    try:
        json.loads(text, parse_constant=refuse, parse_int=str, parse_float=str)
    except ValueError:
        return json_text.NOT_JSON
    return None


def _some_json(randomness: random.Random, level: int) -> str:
    kind = randomness.random()
    if level > 4 or kind < 0.5:
        return randomness.choice(["1", "-0", "1.5e9", '"a"', '"\\u00e9\\n"', "true", "null", '""', '"\u00e9"', "0.0"])
    space = randomness.choice(["", " ", "\n"])
    inner = [_some_json(randomness, level + 1) for _ in range(randomness.randrange(4))]
    if kind < 0.75:
        return f"[{space}{f'{space},'.join(inner)}{space}]"
    return "{" + f",{space}".join(f'"k{n}"{space}:{value}' for n, value in enumerate(inner)) + space + "}"


def _damaged(text: str, randomness: random.Random) -> str:
    alphabet = '[]{},:"\\u0aE1-+. tn\n\ttruefalsenull\x01\u00e9'
    for _ in range(randomness.randrange(3)):
        place = randomness.randrange(len(text) + 1)
        text = (
            text[:place]
            + randomness.choice([randomness.choice(alphabet), ""])
            + text[place + randomness.randrange(2) :]
        )
    return text


def test_no_pattern_repeats_a_group_possessively() -> None:
    """Python before 3.11.5 matches such patterns wrongly (python/cpython issue 106052)."""
    possessive = re.compile(r"\)[?*+]\+|\)\{[0-9,]+\}\+|\}\}\+|\(\?>")
    assert possessive.search(r"(?:ab)?+")
    sources = [path for room in ("server", "client") for path in (ROOT / room).rglob("*.py")]
    assert len(sources) > 100
    assert [str(path) for path in sources if possessive.search(path.read_text("utf-8"))] == []
