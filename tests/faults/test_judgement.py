"""How long a subscriber waited is counted from the fault to an event that was written after it."""

import pytest

from tests.faults.judgement import Heard, resumed
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
