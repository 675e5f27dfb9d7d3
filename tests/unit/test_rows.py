"""A table that is checked in one test shows every row that fails."""

import pytest

from tests.support.rows import table


def test_every_failing_row_is_shown_and_later_ones_are_checked() -> None:
    checked: list[int] = []

    def check() -> None:
        with table() as rows:
            for number in (1, 2, 3):
                with rows.row("number", number):
                    checked.append(number)
                    assert number == 2

    with pytest.raises(ExceptionGroup, match="2 of 3 rows failed") as caught:
        check()
    assert checked == [1, 2, 3]
    assert [failure.__notes__ for failure in caught.value.exceptions] == [["row: 'number', 1"], ["row: 'number', 3"]]


def test_an_error_in_a_row_is_a_failure() -> None:
    with pytest.raises(ExceptionGroup, match="1 of 1 rows failed") as caught, table() as rows, rows.row():
        raise KeyError("k")
    assert caught.group_contains(KeyError)


def test_a_table_without_rows_fails() -> None:
    with pytest.raises(AssertionError, match="no rows"), table():
        pass


def test_a_table_whose_rows_hold_passes() -> None:
    with table() as rows, rows.row("one"):
        assert rows.count == 1


def test_an_interrupt_is_no_failure_of_a_row() -> None:
    with pytest.raises(KeyboardInterrupt), table() as rows, rows.row():
        raise KeyboardInterrupt
