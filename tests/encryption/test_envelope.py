"""Encrypted values: what they show, and what is refused."""

import base64

import pytest

from sessiond_server.encryption.columns import is_tokens, metadata_tokens
from sessiond_server.encryption.envelope import OVERHEAD, DataKey, Kind, NotAuthentic, is_sealed, sealed_by
from sessiond_server.encryption.wrapping import CannotUnwrap, LocalKeys, Wrapped, new_line, parsed
from tests.support.encryption import line, local_keys
from tests.support.rows import table

KEY = DataKey("acme", 7, b"k" * 32)


def test_a_value_is_opened_as_it_was_sealed() -> None:
    with table() as rows:
        for data in (b"x", b"\x00", "漢字😀\x00".encode(), bytes(2**20), b"\x07patch", b"\x06sd\x01" + bytes(60)):
            for item in (0, 1, -3, 2**63 - 1):
                with rows.row(f"{data[:9]!r} at {item}"):
                    sealed = KEY.seal(Kind.EVENT_CONTENT, "s", item, data)
                    assert is_sealed(sealed)
                    assert sealed_by(sealed) == 7
                    assert data not in sealed or len(data) == 1
                    assert len(sealed) == len(data) + OVERHEAD + (data[:1] == b"\x07")
                    assert KEY.opened(Kind.EVENT_CONTENT, "s", item, sealed) == data


def test_sql_tells_patches_from_whole_contents() -> None:
    assert KEY.seal(Kind.EVENT_CONTENT, "s", 1, b"\x07patch")[:1] == b"\x07"
    assert KEY.seal(Kind.EVENT_CONTENT, "s", 1, b"whole")[:1] != b"\x07"


def test_the_same_value_is_never_sealed_alike() -> None:
    assert len({KEY.seal(Kind.RUN, "s", 1, b"same") for _ in range(1000)}) == 1000


def test_a_value_of_another_place_is_refused() -> None:
    sealed = KEY.seal(Kind.EVENT_BODY, "s", 5, b"words")
    others = {
        "another column": (Kind.EVENT_HEAD, "s", 5),
        "another session": (Kind.EVENT_BODY, "t", 5),
        "another seq": (Kind.EVENT_BODY, "s", 6),
    }
    with table() as rows:
        for name, place in others.items():
            with rows.row(name), pytest.raises(NotAuthentic):
                KEY.opened(*place, sealed)


def test_a_changed_value_is_refused() -> None:
    sealed = KEY.seal(Kind.EVENT_BODY, "s", 5, b"words")
    with table() as rows:
        for place in range(12, len(sealed)):  # before it is the id of the key
            with rows.row(str(place)), pytest.raises(NotAuthentic):
                KEY.open(sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :])


def test_another_key_opens_nothing() -> None:
    sealed = KEY.seal(Kind.EVENT_BODY, "s", 5, b"words")
    with pytest.raises(NotAuthentic):
        DataKey("acme", 7, b"j" * 32).open(sealed)


def test_metadata_is_found_by_tokens_as_by_words() -> None:
    def tokens(text: str) -> str:
        return metadata_tokens(KEY, text)

    assert tokens('{"a": 1, "b": [true, null, "x"]}') == tokens('{"a": 1.0, "b": [true, null, "x"]}')
    assert tokens('{"a": -0.0}') == tokens('{"a": 0}')
    assert len({tokens(text) for text in ('{"a": 1}', '{"a": "1"}', '{"a": true}', '{"a": null}', '{"b": 1}')}) == 5
    assert "secret" not in metadata_tokens(KEY, '{"secret": {"secret": ["secret"]}}', stored=True)
    assert is_tokens(metadata_tokens(KEY, "{}", stored=True))
    assert not is_tokens(tokens('{"a": 1}'))


async def test_data_keys_are_unwrapped_by_the_key_that_has_wrapped_them() -> None:
    old = await local_keys("old").wrap(b"s" * 32, b"context")
    assert await local_keys("new", "old").unwrap(old, b"context") == b"s" * 32
    assert (await local_keys("new", "old").wrap(b"s" * 32, b"")).by == "new"
    wrong = {
        "unknown": (local_keys("new"), old, b"context", "old is not among"),
        "of another tenant": (local_keys("old"), old, b"other", "another one"),
        "of the same name": (local_keys("old"), Wrapped("old", old.data[:-1] + b"?"), b"context", "another one"),
        "too short": (local_keys("old"), Wrapped("old", b"x"), b"context", "another one"),
    }
    with table() as rows:
        for name, (keys, wrapped, context, text) in wrong.items():
            with rows.row(name), pytest.raises(CannotUnwrap, match=text):
                await keys.unwrap(wrapped, context)


async def test_a_text_of_keys_is_refused_by_its_line_and_not_quoted() -> None:
    good = line("a")
    texts = {
        "nothing": "",
        "a comment only": "# a:b",
        "no id": good[1:],
        "twice": f"{good}\n{good}",
        "short": "a:" + base64.b64encode(b"secret").decode(),
        "no base 64": "a:c2VjcmV0c2VjcmV0!",
    }
    with table() as rows:
        for name, text in texts.items():
            with rows.row(name):
                with pytest.raises(CannotUnwrap) as caught:
                    await LocalKeys(lambda text=text: text).current()  # type: ignore[misc]
                assert "c2Vj" not in str(caught.value)
                assert good[2:] not in str(caught.value)
    assert list(parsed(f"# first\n\n{good},{line('b')}\n")) == ["a", "b"]
    assert list(parsed(new_line("2026-11"))) == ["2026-11"]


async def test_keys_that_cannot_be_read_are_said_so() -> None:
    def unreadable() -> str:
        raise PermissionError(13, "Permission denied", "/run/keys")

    with pytest.raises(CannotUnwrap, match="Permission denied"):
        await LocalKeys(unreadable).current()
