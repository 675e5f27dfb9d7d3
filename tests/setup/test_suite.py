"""What the tests keep to among themselves."""

import ast
import fnmatch
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
PROGRAMS = ("faults", "matrix")
"""Folders that are programs too, and import their own modules."""
MODULES = [path for path in sorted(TESTS.rglob("*.py")) if path.name != "__init__.py"]


def modules_imported(path: Path) -> set[str]:
    """Every `tests` module that a file imports, also `b` of `from a import b`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.split(".")[0] == "tests"}


def room(path: Path) -> str:
    """The folder below `tests`; empty for tests/conftest.py."""
    return path.relative_to(TESTS).parts[0] if path.parent != TESTS else ""


def test_only_support_and_campaigns_are_imported() -> None:
    wrong = []
    for path in MODULES:
        for name in modules_imported(path):
            package, _, module = name.removeprefix("tests").lstrip(".").partition(".")
            shared = package in ("", "support") or (package in PROGRAMS and room(path) == package)
            if not shared or module.startswith(("test_", "conftest")) or package == "conftest":
                wrong.append(f"{path.relative_to(TESTS)} imports {name}")
    assert wrong == [], "what tests share belongs in tests/support"


def test_helpers_lie_in_support() -> None:
    rooms = [path for path in MODULES if room(path) not in ("support", *PROGRAMS)]
    helpers = [path.relative_to(TESTS) for path in rooms if not path.name.startswith(("test_", "conftest"))]
    assert helpers == [], "what tests share belongs in tests/support"


def test_each_folder_of_tests_is_a_package() -> None:
    assert [str(path) for path in MODULES if not path.with_name("__init__.py").exists()] == []


def test_documentation_names_tests_that_exist() -> None:
    """In backticks: a function, a class or a file of tests; with a `*`, at least one that it stands for."""
    named = {path.name for path in MODULES}
    for path in MODULES:
        tree = ast.parse(path.read_text())
        functions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        named |= {node.name for node in ast.walk(tree) if isinstance(node, functions)}
    missing = [
        f"{page.name}: {pattern}"
        for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
        for pattern in re.findall(r"`((?:test_|Test[A-Z])[\w*]*(?:\.py)?)`", page.read_text())
        if not fnmatch.filter(named, pattern)
    ]
    assert missing == []


def test_each_decision_has_a_number_of_its_own() -> None:
    numbers = [
        (path.name[:4], path.read_text().split(".")[0]) for path in sorted((ROOT / "docs/decisions").glob("*.md"))
    ]
    # Not without gaps: several that are written at the same time get their numbers beforehand.
    assert numbers == [(number, f"# {int(number)}") for number in sorted({number for number, _ in numbers})]
