"""Log records: their form, and what never gets into them."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from sessiond_server import telemetry
from sessiond_server.errors import StoreUnavailable

log = logging.getLogger("sessiond.test")


@pytest.fixture(autouse=True)
def _root_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def configured(form: str, level: str = "info", call_id: str = "") -> io.StringIO:
    stream = io.StringIO()
    telemetry.configure(level, form, lambda: call_id, stream)
    return stream


def test_json_is_one_object_a_line_with_the_records_fields() -> None:
    stream = configured("json", call_id="call-1")
    log.info("two\nlines %d\u2028", 7, extra={"code": "OK", "duration_ms": 1.5, "odd": "\udc80"})
    (line,) = stream.getvalue().splitlines()
    record = json.loads(line)
    assert record.pop("time").endswith("Z")
    assert record == {
        "level": "info",
        "logger": "sessiond.test",
        "message": "two\nlines 7\u2028",
        "request_id": "call-1",
        "code": "OK",
        "duration_ms": 1.5,
        "odd": "\udc80",
    }


def test_text_names_the_call() -> None:
    stream = configured("text", call_id="call-1")
    log.warning("careful")
    assert stream.getvalue().endswith("Z WARNING sessiond.test: careful request_id=call-1\n")


def test_records_of_a_worker_say_which() -> None:
    for form, expected in (("text", "careful worker=42\n"), ("json", '"worker": 42}\n')):
        stream = io.StringIO()
        telemetry.configure("info", form, str, stream, worker=42)
        log.warning("careful")
        assert stream.getvalue().endswith(expected)


def test_text_cannot_be_made_to_look_like_two_records() -> None:
    stream = configured("text")
    log.info("name: %s", "x\n2026-01-01T00:00:00.000Z INFO forged: \x1b[2J")
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("form", ["text", "json"])
def test_text_of_unknown_exceptions_is_not_logged(form: str) -> None:
    stream = configured(form)
    try:
        try:
            raise ValueError("dear diary")
        except ValueError as error:
            raise StoreUnavailable from error
    except StoreUnavailable as error:
        log.error("failed", exc_info=error)
    logged = stream.getvalue()
    assert "dear diary" not in logged
    assert "builtins.ValueError" in logged
    assert "StoreUnavailable: the database cannot be reached" in logged
    assert "test_telemetry.py" in logged


def test_below_the_level_nothing_is_logged() -> None:
    stream = configured("text", level="warning")
    log.info("chatter")
    assert stream.getvalue() == ""
