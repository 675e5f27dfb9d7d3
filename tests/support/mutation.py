"""A pytest plugin that breaks the service at one place at a time, and runs the tests that must see it.

`pytest -p tests.support.mutation --mutants FILE --outcomes FILE TEST...` collects the tests, imports the service and
starts servers once for all mutants. The mutants are a JSON object: name -> [place, tests]. A place is a file below
`server/sessiond_server`, the text that stands there once, and what replaces it. A test is a node id; without brackets,
all its cases. Each test also runs with nothing broken, before all mutants and after them.

A mutant gives the functions that it changes other code; the functions stay the same objects, so that every import of
them is changed too. In an `.sql` file it changes the statements that modules of `postgres` hold by name. What runs only
when a module is imported, such as a table, cannot be broken so.

Each line of the outcomes is a JSON list: the mutant, or "" for nothing broken; the test; "passed", or the phase in
which the first case failed, or why none ran; and the last line of the failure.
"""

import gc
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FunctionType
from typing import Final, TextIO

import pytest
from _pytest.runner import runtestprotocol  # what pytest-rerunfailures uses, too: there is no public way to run an item

Place = tuple[str, str, str]
Change = tuple[object, str, object, object]
"""An object, the name of its attribute, and the value before and after."""
SERVER: Final = Path(__file__).parents[2] / "server/sessiond_server"


def mutated(file: str, old: str, new: str) -> tuple[str, str]:
    """The source before and after. Raises ValueError unless the place is there once."""
    source = (SERVER / file).read_text("utf-8")
    if source.count(old) != 1:
        raise ValueError(f"{source.count(old)} places to mutate, not one: {old!r} in {file}")
    return source, source.replace(old, new)


@contextmanager
def broken(file: str, old: str, new: str) -> Iterator[None]:
    """Raises ValueError if nothing that is loaded changes."""
    before, after = mutated(file, old, new)
    is_sql = file.endswith(".sql")
    found = _changed_statements(old, new) if is_sql else _changed_functions(SERVER / file, before, after)
    changes = list(found)
    if not changes:
        raise ValueError(f"no function or statement changes: {old!r} in {file}")
    try:
        for owner, name, _, changed in changes:
            setattr(owner, name, changed)
        yield
    finally:
        for owner, name, kept, _ in changes:
            setattr(owner, name, kept)


def _changed_statements(old: str, new: str) -> Iterator[Change]:
    for module in list(sys.modules.values()):
        if module.__name__.startswith("sessiond_server.postgres"):
            for name, value in list(vars(module).items()):
                if isinstance(value, str) and old in value:
                    yield module, name, value, value.replace(old, new)


def _changed_functions(path: Path, before: str, after: str) -> Iterator[Change]:
    codes = [dict(_codes(compile(source, str(path), "exec"))) for source in (before, after)]
    changed = {name: code for name, code in codes[1].items() if codes[0].get(name) != code}
    for found in gc.get_objects():
        if isinstance(found, FunctionType) and found.__code__.co_filename == str(path):
            kept = found.__code__
            if kept.co_qualname in changed:
                yield found, "__code__", kept, changed[kept.co_qualname]


def _codes(code: CodeType) -> Iterator[tuple[str, CodeType]]:
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield inner.co_qualname, inner
            yield from _codes(inner)


def _run(cases: list[pytest.Item], session: pytest.Session) -> tuple[str, str]:
    """How the cases of a test went, up to the first that fails, and the last line of its failure."""
    outcome = ("not found", "")
    for case in cases:
        # The session as the next item: all fixtures but those of the session end.
        for report in runtestprotocol(case, log=False, nextitem=session):  # type: ignore[arg-type]
            if report.failed:
                return report.when or "", report.longreprtext.rpartition("\n")[2]
            if report.skipped:
                return "skipped", str(report.longrepr)
        outcome = ("passed", "")
    return outcome


def _run_all(session: pytest.Session, mutants: dict[str, tuple[Place, list[str]]], outcomes: TextIO) -> None:
    cases = {
        test: [item for item in session.items if item.nodeid.partition("[")[0] == test or item.nodeid == test]
        for _, tests in mutants.values()
        for test in tests
    }

    def run(mutant: str, tests: Iterable[str]) -> None:
        for test in tests:
            print(json.dumps([mutant, test, *_run(cases[test], session)]), file=outcomes, flush=True)

    run("", cases)
    for name, (place, tests) in mutants.items():
        with broken(*place):
            run(name, tests)
    run("", cases)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--mutants", type=Path, required=True)
    parser.addoption("--outcomes", type=Path, required=True)


def pytest_runtestloop(session: pytest.Session) -> bool:
    if session.testsfailed:
        raise session.Interrupted("a test could not be collected")
    gc.unfreeze()  # tests/conftest.py hides from the collector what was there; `_changed_functions` asks it
    mutants = json.loads(session.config.getoption("mutants").read_text("utf-8"))
    with session.config.getoption("outcomes").open("w", encoding="utf-8") as outcomes:
        _run_all(session, mutants, outcomes)
    return True
