"""Ids: what is one, and what becomes of it in keys, payloads, positions and texts."""

import json
import logging
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sessiond.written import is_id
from sessiond_server import auth, errors
from sessiond_server.domain import ids, text
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.log import FeedPlace
from sessiond_server.domain.rows import Key
from sessiond_server.events.contract import FeedCursor
from sessiond_server.redis.cluster import slot_of
from sessiond_server.redis.entries import Names, tag
from sessiond_server.rpc import status
from sessiond_server.rpc.events.filters import FeedSelection
from sessiond_server.rpc.events.positions import LONGEST_POSITION, Positions
from sessiond_server.rpc.paging import PageTokens
from sessiond_server.telemetry import JsonFormatter, TextFormatter
from tests.support.odd_ids import BAD_IDS, ODD_IDS

EVENT = "0197a2b4-0000-7000-8000-000000000001"
METADATA_BYTES = 8 * 1024
"""What gRPC takes of metadata by default."""

some_ids = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=63).filter(
    lambda value: value == value.strip()
)


@pytest.mark.parametrize("value", ODD_IDS)
def test_an_id_of_any_printable_text_is_allowed(value: str) -> None:
    assert text.identifier(value) is None


@pytest.mark.parametrize("value", BAD_IDS)
def test_an_id_that_is_long_or_not_one_visible_line_is_refused(value: str) -> None:
    assert text.identifier(value) == text.ID_RULE


@given(st.text(max_size=300))
@example("\x1c")
@example("\ud800")
def test_client_keys_file_and_server_agree_on_what_an_id_is(value: str) -> None:
    if any(unicodedata.category(character) == "Cs" for character in value):
        assert not is_id(value)  # no surrogate gets into a protobuf string
        return
    assert is_id(value) == auth._is_user(value) == (text.identifier(value) is None)


@pytest.mark.parametrize("value", ODD_IDS)
def test_request_ids_keep_to_ascii(value: str) -> None:
    plain = value.isascii() and value.isalnum() and len(value) <= 128
    assert (text.request_identifier(value) is None) == (plain or value in ("..", "."))


@given(st.tuples(some_ids, some_ids))
@example(("}", "{"))
@example(("%7D", "}"))
@example(("a/acme}c", "a"))
def test_keys_of_two_sessions_in_redis_differ_and_those_of_one_share_a_slot(two: tuple[str, str]) -> None:
    names = Names(b"p:", b"1")
    keys: list[Key] = [(tenant, session_id) for tenant in ("acme", "a") for session_id in dict.fromkeys(two)]
    made = [names.of(key) for key in keys]
    assert len({name for pair in made for name in pair}) == 2 * len(keys)
    for key, pair in zip(keys, made, strict=True):
        # The first opening brace to the next closing one: what a cluster hashes.
        hashed = [name[name.index(b"{") + 1 :].partition(b"}")[0] for name in pair]
        assert hashed == [tag(key)] * 2
        assert tag(key)
        assert slot_of(hashed[0]) == slot_of(tag(key))


def test_keys_of_ids_that_were_always_allowed_are_as_before() -> None:
    assert tag(("acme", "A-z.0_9:~")) == b"A-z.0_9:~/acme"


@pytest.mark.parametrize("session_id", [*ODD_IDS, "s" * 128])
def test_a_position_of_a_feed_with_long_ids_is_within_its_bound(session_id: str) -> None:
    places = [FeedPlace(2**63 - 1 - number, session_id, 2**53) for number in range(12)]
    named = tuple((place, EVENT) for place in places)
    cursor = FeedCursor(FeedPlace(2**63 - 1, session_id, 2**53), named[:8], named[8:])
    positions = Positions(b"k" * 32).of_feed(Scope("acme"), FeedSelection())
    sealed = positions.seal(cursor)
    assert len(sealed) <= LONGEST_POSITION
    opened = positions.open(sealed)
    assert opened is not None
    assert opened.place == cursor.place
    assert len(opened.named) >= 3
    # Those of the newest transactions stay.
    assert tuple(opened.anchors) == named[:8][-len(opened.anchors) :]
    assert tuple(opened.late_commits) == named[8:][-len(opened.late_commits) :]
    if len(session_id.encode()) <= 128:
        assert opened == cursor


@pytest.mark.parametrize("name", ["\U0001f980" * 200, '"' * 200])
@pytest.mark.parametrize("session_id", ODD_IDS)
def test_a_page_token_of_a_long_id_and_a_long_name_is_opened(session_id: str, name: str) -> None:
    tokens = PageTokens(b"k" * 32).of(Scope("acme"), "ListSessions")
    assert tokens.open(tokens.seal([name, session_id])) == [name, session_id]


@pytest.mark.parametrize("value", ODD_IDS)
def test_an_error_with_long_ids_fits_into_the_metadata(value: str) -> None:
    for error in (
        errors.RunFenced(value, value, value),
        errors.RunFenced(value, value, ""),
        errors.RunInProgress(value, value),
        errors.IllegalToolCallTransition(value, value, "CANCELLED", "complete"),
        errors.ApprovalExpired(value, value, "REJECTED", "complete", "9999-12-31T23:59:59.999999Z"),
        errors.UploadOffsetMismatch(value, value, 2**53, 2**53),
        errors.SessionLocked(value),
    ):
        answer = status.answer(error)
        # gRPC escapes what is not ASCII in the text, and encodes the details in base64.
        escaped = sum(1 if " " <= character <= "~" and character != "%" else 3 for character in answer.text)
        details = sum(len(data) * 4 // 3 for _, data in answer.trailers)
        assert escaped + details < METADATA_BYTES - 1024
        assert answer.text.isascii()
        assert answer.text.isprintable()


@pytest.mark.parametrize("value", ODD_IDS)
def test_a_log_line_with_an_id_is_one_line_without_escapes_of_a_terminal(value: str) -> None:
    for template in ("the bytes of attachment %r are lost", "session %r: the database has lost events"):
        record = logging.LogRecord("sessiond", logging.ERROR, __file__, 1, template, (value,), None)
        line = TextFormatter().format(record)
        assert line.isprintable()
        assert len(line.splitlines()) == 1
        assert repr(value)[1:2] in json.loads(JsonFormatter().format(record))["message"]


def test_ids_are_logged_as_quoted_literals_only() -> None:
    """No template of a log record has an id in it bare."""
    source = Path(auth.__file__).parent
    for path in source.rglob("*.py"):
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if "log." in line and "_id" in line:
                assert "%s" not in line, f"{path.name}:{number}"


@given(some_ids, some_ids)
def test_ids_of_one_users_key_never_begin_like_those_of_another(one: str, other: str) -> None:
    if one != other:
        assert not ids.own_prefix(one).startswith(ids.own_prefix(other))
    assert len(ids.own_prefix(one).encode()) < 100
