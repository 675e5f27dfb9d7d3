"""Reads SQLite files, which it never changes."""

import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sessiond_server.sources.values import Unfit

Row = Mapping[str, Any]


@contextmanager
def opened(path: Path, needed: Mapping[str, Collection[str]]) -> Iterator[sqlite3.Connection]:
    """Opens the file to read. `needed`: the tables and columns that it must have. Raises Unfit, FileNotFoundError."""
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            # Texts that are not UTF-8 become U+FFFD: one of them must not end the whole reading.
            connection.text_factory = lambda data: data.decode("utf-8", "replace")
            for table, columns in needed.items():
                there = {row["name"] for row in connection.execute("select name from pragma_table_info(?)", (table,))}
                if missing := sorted(set(columns) - there):
                    raise Unfit(f"the file must have a table {table} with {', '.join(missing)}")
            yield connection
    except sqlite3.DatabaseError as error:
        raise Unfit(f"the file must be a SQLite database that can be read: {error}") from None


def rows(connection: sqlite3.Connection, statement: str, *parameters: object) -> Iterator[Row]:
    for row in connection.execute(statement, parameters):
        yield dict(row)
