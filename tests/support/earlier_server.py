"""Servers of earlier commits, run by this environment's Python with their own code."""

import os
import subprocess
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BEFORE_TAGS = "51e5875"
"""Stands for the last release until there is a tag: where the image of the API of 0.2.0 was made."""
MIGRATIONS = "server/sessiond_server/postgres/schema/migrations"


def of_last_release(folder: Path) -> Mapping[str, str]:
    """The environment of its servers, whose code is put into the folder. Skips the test in a clone without it."""
    tag = _git("describe", "--tags", "--abbrev=0", "--match", "v*", "HEAD~1")
    return _unpacked(tag or BEFORE_TAGS, folder)


def of_this_schema(folder: Path) -> Mapping[str, str]:
    """The same of the first commit that had all of today's migrations, which is an hour or years old."""
    newest = max((ROOT / MIGRATIONS).glob("*.sql"))
    found = _git("log", "--diff-filter=A", "--format=%H", "--", str(newest.relative_to(ROOT)))
    return _unpacked(found.split()[-1] if found else "", folder)


def migrations(environment: Mapping[str, str]) -> int:
    """How many they know."""
    code = Path(environment["PYTHONPATH"].split(os.pathsep)[0]).parent
    return len(list((code / MIGRATIONS).glob("*.sql")))


def _unpacked(commit: str, folder: Path) -> Mapping[str, str]:
    archive = subprocess.run(
        ["git", "archive", "--format=zip", commit, "server", "client"], cwd=ROOT, capture_output=True, check=False
    )
    if not commit or archive.returncode:
        pytest.skip(f"this clone lacks the history: {commit or 'no commit'} {archive.stderr.decode().strip()}")
    with zipfile.ZipFile(BytesIO(archive.stdout)) as files:
        files.extractall(folder)
    return {"PYTHONPATH": os.pathsep.join([str(folder / "server"), str(folder / "client")])}


def _git(*arguments: str) -> str:
    """What it printed; nothing where it failed."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
