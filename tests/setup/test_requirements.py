"""The pinned requirements are in step with pyproject.toml and with each other, and name no registry."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "requirements"
FILES = sorted(FOLDER.glob("*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]


def pins(name: str) -> dict[str, str]:
    """Version by package, of one file."""
    text = (FOLDER / f"{name}.txt").read_text()
    return {canonicalize_name(package): version for package, version in re.findall(r"(?m)^([\w.-]+)==([\w.!+]+)", text)}


def asked(extra: str) -> list[Requirement]:
    """What an extra needs, the extras it builds upon included."""
    found = [Requirement(text) for text in PROJECT["project"]["dependencies"]]
    for text in EXTRAS[extra]:
        requirement = Requirement(text)
        if requirement.name == "sessiond":
            for inner in requirement.extras:
                found += asked(inner)
        else:
            found.append(requirement)
    return found


@pytest.mark.parametrize("extra", ["server", "embedded", "dev"])
def test_every_requirement_is_pinned_to_a_version_that_it_allows(extra: str) -> None:
    versions = pins(extra)
    for requirement in asked(extra):
        name = canonicalize_name(requirement.name)
        assert name in versions, f"run make requirements: {name}"
        assert requirement.specifier.contains(versions[name], prereleases=True), f"run make requirements: {name}"


def test_what_builds_the_package_is_pinned() -> None:
    for text in PROJECT["build-system"]["requires"]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins("build")[canonicalize_name(requirement.name)])


@pytest.mark.parametrize("name", ["server", "embedded", "build"])
def test_testing_uses_the_versions_that_running_uses(name: str) -> None:
    # make run and make test share one environment.
    assert pins(name).items() <= pins("dev").items()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_pin_has_hashes_and_no_line_names_a_registry(path: Path) -> None:
    text = path.read_text()
    entries = re.split(r"(?m)^(?=\S)", text)[1:]
    assert len(entries) == len(pins(path.stem))
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)
    assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host", text)


def test_the_oldest_generator_is_the_one_that_is_used() -> None:
    generator = pins("protos")
    lowest = {
        requirement.name: str(next(s.version for s in requirement.specifier if s.operator == ">="))
        for requirement in map(Requirement, PROJECT["project"]["dependencies"])
    }
    assert generator["grpcio-tools"] == lowest["grpcio"]
    assert generator["protobuf"] == lowest["protobuf"]
