"""Metrics of several workers on one page."""

import re
from pathlib import Path

from sessiond_server.metrics.totals import GAUGES, Family, Page, counted, of_this_process, total

DOCUMENTED = Path(__file__).parents[2] / "docs" / "metrics.md"


def page(kind: str, name: str, *values: tuple[str, float]) -> Page:
    return [Family(name, "", kind, {(name, (("l", label),)): value for label, value in values})]


def values(found: Page) -> dict[str, float]:
    return {labels[0][1]: value for family in found for (_, labels), value in family.samples.items()}


def test_counts_are_added_up_and_of_measurements_the_worst_is_shown() -> None:
    for kind, name, expected in (
        ("counter", "sessiond_calls", 7.0),
        ("histogram", "sessiond_call_seconds", 7.0),
        ("gauge", "sessiond_watchers", 7.0),
        ("gauge", "sessiond_loop_lag_seconds", 4.0),
        ("gauge", "sessiond_store_reachable", 3.0),
    ):
        found = total([page(kind, name, ("a", 3), ("b", 1)), page(kind, name, ("a", 4), ("c", 2))])
        assert values(found) == {"a": expected, "b": 1, "c": 2}, name
    assert total([]) == []


def test_what_ended_workers_have_counted_stays_and_what_they_measured_does_not() -> None:
    seen = [*page("counter", "c", ("a", 1)), *page("gauge", "g", ("a", 1)), *page("histogram", "h", ("a", 1))]
    assert [family.name for family in counted(seen)] == ["c", "h"]


def test_it_is_decided_for_every_gauge_how_those_of_workers_become_one() -> None:
    documented = set(re.findall(r"(?m)^\| `(\w+)` \| gauge ", DOCUMENTED.read_text()))
    assert len(documented) > 30
    of_processes = {family.name for family in of_this_process() if family.kind == "gauge"}
    assert of_processes | documented - {"sessiond_workers"} == GAUGES.keys()
