"""Metrics of several databases in one."""

from dataclasses import replace

import pytest

from sessiond_server.app import totals
from sessiond_server.measures import Durations
from sessiond_server.store.condition import Growth, Pool, StoreCondition, Table

TABLE = Table("events", bytes=10.0, index_bytes=4.0, rows=3, dead_rows=1, vacuum_seconds=60.0)


def of(*growths: Growth | None) -> Growth | None:
    one = StoreCondition({}, 0, None, Pool(0, 0, 0, Durations()), None, None, {"optimistic": 3, "off": 1})
    return totals.of_stores([replace(one, growth=growth) for growth in growths]).growth


def test_tables_of_one_name_are_summed_up() -> None:
    found = of(
        Growth([TABLE], transaction_age=5, freeze_age=100),
        Growth([replace(TABLE, vacuum_seconds=90.0), replace(TABLE, name="runs")], transaction_age=7, freeze_age=90),
        None,
    )
    summed = Table("events", bytes=20.0, index_bytes=8.0, rows=6, dead_rows=2, vacuum_seconds=90.0)
    assert found == Growth([summed, replace(TABLE, name="runs")], transaction_age=7, freeze_age=90)
    assert of(None, None) is None


@pytest.mark.parametrize("never_first", [True, False])
def test_a_table_that_was_never_vacuumed_somewhere_has_no_time_of_it(never_first: bool) -> None:
    growths = [Growth([replace(TABLE, vacuum_seconds=each)], 5, 100) for each in (None, 60.0)]
    found = of(*(growths if never_first else growths[::-1]))
    assert found is not None
    assert found.tables[0].vacuum_seconds is None
