"""Checks many rows of a table in one test, and shows every row that fails."""

from collections.abc import Iterator
from contextlib import contextmanager


class Rows:
    """The rows that were checked so far, and what was wrong with them."""

    def __init__(self) -> None:
        self.count = 0
        self.failures: list[Exception] = []

    @contextmanager
    def row(self, *what: object) -> Iterator[None]:
        """Checks one row. A failure is kept, named by `what`, and the rows after it are checked too."""
        self.count += 1
        try:
            yield
        except Exception as failure:  # an assertion, or an error of what is tested
            failure.add_note(f"row: {', '.join(map(repr, what))}")
            self.failures.append(failure)


@contextmanager
def table() -> Iterator[Rows]:
    """Raises what was wrong with each row, in one group. A table without a row fails too: it would prove nothing."""
    rows = Rows()
    yield rows
    assert rows.count, "the table has no rows"
    if rows.failures:
        raise ExceptionGroup(f"{len(rows.failures)} of {rows.count} rows failed", rows.failures)
