# ruff: noqa: RUF001 - full-width forms are what is tested
"""What texts and queries mean: canonical forms, terms, matches and snippets."""

import unicodedata
from collections.abc import Iterator

import regex
from hypothesis import given
from hypothesis import strategies as st

from sessiond.v1.message_pb2 import Message, Part
from sessiond_server.search import texts
from sessiond_server.search.matching import Text, match, snippet
from sessiond_server.search.query import QueryInvalid, parse
from sessiond_server.search.text import GAP, JOINT, aligned, canonical, normalised, terms
from tests.support.rows import table

FORMS = [
    ("", ""),
    ("...", ""),
    ("Hello, World!", "hello world"),
    ("money.py test_rounding", "money py test rounding"),
    ("使用Python编程，很好", f"使用{JOINT}python{JOINT}编程 很好"),
    ("ＦＵＬＬ ①㎏ Straße", "full 1kg strasse"),
    ("a\u200db \u00ad", "ab"),
    ("👍 ok👍", f"👍 ok{JOINT}👍"),
]


def test_canonical_forms() -> None:
    with table() as rows:
        for text, form in FORMS:
            with rows.row(text):
                assert canonical(text) == form


PIECES = st.sampled_from(
    [
        *"aB1 .-,",
        "é",
        "e\u0301",
        "语",
        "국",
        "ไ",
        "\u0e48",
        "👍🏽",
        "\u200d",
        "\u0345",
        "ﬁ",
        "ｶﾞ",
        "ß",
        "\u0316",
        "\u0301",
    ]
)
TEXTS = st.lists(PIECES, max_size=12).map("".join)


@given(TEXTS)
def test_canonical_form_of_a_canonical_form_is_itself(text: str) -> None:
    form = canonical(text)
    if JOINT not in form:
        assert canonical(form) == form
    assert not form.startswith((GAP, JOINT))
    assert GAP + GAP not in form


@given(TEXTS)
def test_places_lead_to_the_same_form(text: str) -> None:
    places = aligned(text)
    if places is not None:
        form, origins = places
        assert form == canonical(text)
        assert len(origins) == len(form) + 1
        assert origins == sorted(origins)


@given(TEXTS, TEXTS)
def test_index_has_a_term_for_whatever_occurs(text: str, query: str) -> None:
    """Otherwise the index would not name the text as a candidate."""
    try:
        parsed = parse(f'"{query}"')
    except QueryInvalid:
        return
    (term,) = parsed.required[0]
    if term.occurs_in(canonical(text)):
        assert term.indexed() <= terms([canonical(text)])


@given(TEXTS, TEXTS)
def test_term_occurs_where_it_has_a_place(text: str, query: str) -> None:
    for word in (query, f"{query.replace(' ', '')}*"):
        try:
            parsed = parse(word)
        except QueryInvalid:
            continue
        for term in parsed.terms:
            assert term.occurs_in(canonical(text)) == bool(list(term.places(canonical(text))))


def test_marks_beyond_thirty_in_a_row_are_left_out_of_all_that_is_compared() -> None:
    """Python orders n marks of different classes in n * n steps: a text of 65 536 of them would take seconds."""
    many = "a" + "\u0301\u0316" * 30_000
    assert len(normalised(many)) <= 31
    assert len(normalised("a" + "\u0301\u200d\u0316\u200d" * 15_000)) <= 31
    assert len(normalised("a" + "\uff9e\u0338" * 15_000)) <= 31
    few = "a" + "\u0316\u0301" * 15
    assert normalised(few) == unicodedata.normalize("NFKC", few)
    assert match(parse(many[:1000]), [Text("t", many)])


def test_no_other_character_becomes_a_mark() -> None:
    marks = regex.compile(r"[\p{M}\uff9e\uff9f]")
    for code in range(0x110000):
        if not 0xD800 <= code < 0xE000:
            form = unicodedata.normalize("NFKD", chr(code))
            assert not unicodedata.combining(form[0]) or marks.fullmatch(chr(code)), hex(code)


def test_words_within_others_are_dismissed_at_once() -> None:
    """A text of one letter has the word of two at every place, but never between edges."""
    (term,) = parse("aa").required[0]
    assert not term.occurs_in("a" * 65_536)
    assert list(term.places("aa b aa aaa")) == [(0, 2), (5, 7)]
    (beginning,) = parse("aaa*").required[0]
    assert list(beginning.places("aaab aab aaa")) == [(0, 4), (9, 12)]


def test_occurrences_are_counted_up_to_a_bound() -> None:
    few, many, more = (match(parse("a"), [Text("t", " ".join(["a"] * count))]) for count in (2, 64, 6400))
    assert few is not None
    assert many is not None
    assert more is not None
    assert few.score < many.score


def test_or_binds_more_tightly_than_the_space() -> None:
    query = parse('a b OR "c d" -e f*oo OR ggg*')
    assert [[(term.form, term.is_prefix) for term in each] for each in query.required] == [
        [("a", False)],
        [("b", False), ("c d", False)],
        [("f oo", False), ("ggg", True)],
    ]
    assert [term.form for term in query.without] == ["e"]
    assert query.size == 6


def searched(*lengths: int) -> list[int]:
    def given() -> Iterator[Text]:
        yield from (Text("t", "x" * length) for length in lengths)

    return [len(text.text) for text in texts.searched(given())]


def test_only_the_beginning_of_long_texts_is_searched() -> None:
    most = texts.SEARCHED_CHARACTERS
    assert searched(most) == [most]
    assert searched(most + 1) == [most]
    assert searched(most, 1) == [most]
    assert searched(10, most, 5) == [10, most - 10]
    long = Message(parts=[Part(text="x " * most), Part(text="needle")])
    assert match(parse("needle"), texts.searched(texts.of_message(long))) is None


def test_structures_are_read_as_far_as_is_searched() -> None:
    message = Message(parts=[Part()])
    message.parts[0].data.update({"a": ["word"] * texts.SEARCHED_CHARACTERS})
    ((_, text),) = [(each.path, each.text) for each in texts.of_message(message)]
    assert len(text) <= texts.SEARCHED_CHARACTERS + 10


def test_json_texts_are_searched_without_escapes_up_to_a_length() -> None:
    def text_of(json: str) -> str:
        ((_, text),) = [(each.path, each.text) for each in texts.of_message(Message(parts=[Part(json=json)]))]
        return text

    assert text_of('{"k": "\\u7f16", "n": 1.50}') == "k\n编\nn\n1.50"
    assert text_of('["\\ud800"]') == "?"
    assert text_of("\\not json") == "\\not json"
    deep = "[" * 100_000 + '"\\u7f16"' + "]" * 100_000
    assert text_of(deep) == deep
    long = '["' + "x" * (4 * texts.SEARCHED_CHARACTERS) + '\\u7f16"]'
    assert text_of(long) == long


def test_snippet_of_a_text_whose_characters_combine_is_its_beginning() -> None:
    text = Text("t", "\u1112\u1161\u11ab " * 3 + "국어")
    (term,) = parse("국어").required[0]
    cut = snippet(text, [term])
    assert "".join(each.text for each in cut.segments) == text.text
    assert [each.text for each in cut.segments if each.hit] == ["국어"]
