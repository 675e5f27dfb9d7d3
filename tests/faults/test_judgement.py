"""How long a subscriber waited is counted from the fault to an event that was written after it; documents by the
versions that writers were told."""

import pytest

from tests.faults.judgement import Heard, resumed
from tests.faults.lives import Life
from tests.faults.lives_judgement import document_findings
from tests.faults.validators import Findings

HEARD = Heard(
    Findings(),
    moments=[1.0, 2.1, 2.5, 4.0, 9.0],
    written=[0.9, 1.9, 2.2, 3.9, 8.9],
    ends=[3.0, 8.0],
)


@pytest.mark.parametrize(
    ("kind", "fault", "until", "seconds"),
    [
        ("redis", 0.5, 99.0, 0.5),
        ("redis", 2.0, 99.0, 0.5),  # what came at 2.1 was written before
        ("restarts", 8.95, 99.0, None),
        ("kills", 2.0, 99.0, 2.0),  # its stream ended at 3.0
        ("kills", 2.0, 2.9, None),  # it did not, until then
        ("kills", 7.5, 99.0, 1.5),
        ("proxy", 8.5, 99.0, None),
    ],
)
def test_resumed(kind: str, fault: float, until: float, seconds: float | None) -> None:
    assert resumed(kind, fault, until, HEARD) == seconds


@pytest.mark.parametrize(
    ("versions", "doubled", "lost"),
    [
        ([[(1, 1), (2, 3)], [(1, 2)]], 0, 0),
        ([[(1, 1), (3, 2)]], 1, 0),  # the second append was done twice
        ([[(1, 1), (1, 2)]], 0, 1),  # the first one is gone
        ([[(1, 1)], [(1, 1)]], 0, 1),  # one of two writers of the shared document overwrote the other
    ],
)
def test_puts_are_counted_by_their_versions(versions: list[list[tuple[int, int]]], doubled: int, lost: int) -> None:
    lives = [Life(f"life-{number}", documents=told) for number, told in enumerate(versions)]
    assert document_findings(lives) == (doubled, lost)
