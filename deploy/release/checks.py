"""What must be true of the tree before it is released. Each check raises Refused, whose text says what to do."""

import re
import subprocess
import tomllib
from datetime import date
from pathlib import Path


class Refused(Exception):
    """The tree cannot be released as it is."""


def version(root: Path) -> str:
    """The version of pyproject.toml: MAJOR.MINOR.PATCH."""
    found = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    if not re.fullmatch(r"\d+\.\d+\.\d+", found):
        raise Refused(f"pyproject.toml: version {found} is not MAJOR.MINOR.PATCH")
    return str(found)


def section(root: Path, version: str, today: date) -> str:
    """What the changelog says of the version. Its date may not be in the future, and nothing may be left unreleased."""
    sections = re.split(r"(?m)^## ", (root / "CHANGELOG.md").read_text("utf-8"))[1:]
    by_title = {title.strip(): body.strip() for title, _, body in (text.partition("\n") for text in sections)}
    if by_title.get("[Unreleased]"):
        raise Refused(f"CHANGELOG.md: move what stands under [Unreleased] to [{version}]")
    for title, body in by_title.items():
        found = re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - (\d{4}-\d{2}-\d{2})", title)
        if not found or found[1] != version:
            continue
        if not body:
            raise Refused(f"CHANGELOG.md: [{version}] is empty")
        if date.fromisoformat(found[2]) > today:
            raise Refused(f"CHANGELOG.md: {found[2]} is in the future")
        return body
    raise Refused(f"CHANGELOG.md: there is no section '## [{version}] - YYYY-MM-DD'")


def clean(root: Path) -> None:
    """Everything is committed, and nothing lies about that git does not know."""
    changed = git(root, "status", "--porcelain")
    if changed:
        raise Refused(f"the tree is not clean; commit or remove:\n{changed}")


def untagged(root: Path, version: str) -> None:
    """The version has not been released before."""
    if git(root, "tag", "--list", f"v{version}"):
        raise Refused(f"v{version} is released already: raise the version in pyproject.toml")


def image(root: Path, version: str, built: Path) -> None:
    """The committed image of the interface is what buf builds from protos/."""
    committed = root / "protos" / "releases" / f"{version}.binpb"
    if not committed.exists() or committed.read_bytes() != built.read_bytes():
        raise Refused(f"{committed.relative_to(root)} is not the interface of protos/: run make baseline and commit it")


def git(root: Path, *arguments: str) -> str:
    """What git prints; CalledProcessError where it fails."""
    ran = subprocess.run(["git", *arguments], cwd=root, check=True, stdout=subprocess.PIPE, text=True)
    return ran.stdout.strip()
