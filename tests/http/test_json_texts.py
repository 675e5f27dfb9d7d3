"""JSON texts of bodies: how many values they have, in linear time and bounded memory."""

import json
import tracemalloc

import pytest

from sessiond_server.http import json_texts
from sessiond_server.http.door import LARGEST_BODY
from sessiond_server.http.problems import Problem
from tests.support.rows import table

MANY = b"," * (json_texts.MOST_ELEMENTS + 1)
HOSTILE = {
    "unterminated string of escaped quotes": (b'"' + b'\\"' * LARGEST_BODY, 413),
    "unterminated string of escaped backslashes": (b'"' + b"\\\\" * LARGEST_BODY, 413),
    "backslashes outside of strings": (b"\\" * LARGEST_BODY, 413),
    "empty strings": (b'""' * LARGEST_BODY, 413),
    "short strings": (b'"",,' * LARGEST_BODY, 413),
    "only quotes within a string": (b'"' + b'\\",[{' * LARGEST_BODY, 413),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_text_of_the_largest_size_is_refused_in_linear_time_and_bounded_memory(name: str) -> None:
    """A pattern that tries each quote as a beginning took an hour for the first one."""
    text, status = HOSTILE[name]
    text = (MANY + text)[:LARGEST_BODY]
    tracemalloc.start()
    try:
        with pytest.raises(Problem) as refused:
            json_texts.load(text)
        _, highest = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refused.value.status == status
    assert highest < 4 * LARGEST_BODY


def test_marks_within_strings_are_no_values() -> None:
    over = json_texts.WINDOW + 1
    with table() as rows:
        for value in (",[{" * 200_000, '"' * over, "\\" * over, '\\"' * over, "\\\\" + '"' * over, ",\\" * 200_000, ""):
            # So that windows end in different places of an escape.
            for shift in range(3):
                with rows.row(value[:4], shift):
                    found = [" " * (json_texts.WINDOW - shift), value, {value: [value, ","]}] + [",", 1] * 100_000
                    assert json_texts.load(json.dumps(found).encode()) == found
                    with pytest.raises(Problem) as refused:
                        json_texts.load(json.dumps([*found, *([value[:5]] * 60_000)]).encode())
                    assert refused.value.reason == "REQUEST_TOO_LARGE"
