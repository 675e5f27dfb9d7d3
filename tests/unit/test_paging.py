"""Page tokens: what was sealed comes back, and nothing else is ever accepted."""

import base64
import random
import string

import pytest

from sessiond_server.domain.commands import Scope
from sessiond_server.errors import InvalidPageToken
from sessiond_server.rpc.paging import LONGEST_TOKEN, ListTokens, PageTokens, Position

KEY = b"k" * 32
SCOPE = Scope("acme", "alice")
SELECTION = (b"filter", 3, "view")


def tokens(
    key: bytes = KEY,
    scope: Scope = SCOPE,
    method: str = "/a/List",
    selection: tuple[str | bytes | int, ...] = SELECTION,
) -> ListTokens:
    return PageTokens(key).of(scope, method, *selection)


@pytest.mark.parametrize("position", [[1, "s"], ["", "s"], [2**53, "s"], ['名前 \u0001"\\', "~"], ["following", 7]])
def test_a_token_gives_its_position_back(position: Position) -> None:
    assert tokens().open(tokens().seal(position)) == position


def test_no_token_is_the_first_page() -> None:
    assert tokens().open("") is None


def test_the_longest_position_fits() -> None:
    token = tokens().seal(["\U0001f600" * 200, "s" * 255])
    assert len(token) <= LONGEST_TOKEN
    assert tokens().open(token) == ["\U0001f600" * 200, "s" * 255]


@pytest.mark.parametrize(
    "other",
    [
        tokens(key=b"x" * 32),
        tokens(scope=Scope("globex", "alice")),
        tokens(scope=Scope("acme", "bob")),
        tokens(scope=Scope("acme")),
        tokens(method="/a/Other"),
        tokens(selection=(b"filter", 4, "view")),
        tokens(selection=(b"filter", 3)),
        tokens(selection=(b"filter3", "", "view")),
        tokens(scope=Scope("acmealice", "")),
    ],
    ids=["key", "tenant", "user", "no user", "method", "order", "shorter", "shifted", "joined"],
)
def test_a_token_of_another_list_is_refused(other: ListTokens) -> None:
    with pytest.raises(InvalidPageToken):
        tokens().open(other.seal([1, "s"]))


def test_every_changed_character_is_noticed() -> None:
    token = tokens().seal([1_700_000_000_000_000, "session-1"])
    alphabet = string.ascii_letters + string.digits + "-_=+/ \n\u00e9"
    for index in range(len(token)):
        for character in alphabet:
            if character != token[index]:
                with pytest.raises(InvalidPageToken):
                    tokens().open(token[:index] + character + token[index + 1 :])


def test_cut_and_extended_tokens_are_refused() -> None:
    token = tokens().seal([1, "s"])
    for forged in [*(token[:end] for end in range(1, len(token))), token + "A", token + "=", "=" + token, token * 2]:
        with pytest.raises(InvalidPageToken):
            tokens().open(forged)


def test_anything_else_is_refused() -> None:
    source = random.Random(7)
    junk = [base64.urlsafe_b64encode(source.randbytes(source.randrange(1, 80))).decode() for _ in range(500)]
    junk += ["0", "null", "-", "\x00", "\ud800", "A" * (LONGEST_TOKEN + 1), "A" * 1_000_000]
    for token in junk:
        with pytest.raises(InvalidPageToken):
            tokens().open(token)
