"""The files by which others join the project: links that lead somewhere, hooks, CI, metadata."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from trove_classifiers import classifiers

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def tracked(pattern: str) -> list[Path]:
    """Files of the repository, those that are not committed yet included."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", pattern],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).exists()]


def prose(page: Path) -> str:
    """The page without its code, in which brackets are no links."""
    return re.sub(r"```.*?```|`[^`\n]*`", "``", page.read_text("utf-8"), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What a link to a heading of the page may name, as GitHub makes it."""
    titles = re.findall(r"(?m)^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken(page: Path) -> Iterator[str]:
    for link in _LINK.findall(prose(page)):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
            yield link


@pytest.mark.parametrize("page", tracked("*.md"), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert list(broken(page)) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A title\n[a](page.md#a-title) [b](page.md#b) [c](nowhere.md) [d](https://x.invalid) `[e](f)`\n")
    assert list(broken(page)) == ["page.md#b", "nowhere.md"]


def test_the_license_is_the_one_that_the_package_names() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    assert PROJECT["license-files"] == ["LICENSE"]
    assert re.match(r"\s+Apache License\n\s+Version 2\.0, January 2004\n", (ROOT / "LICENSE").read_text("utf-8"))


def test_every_classifier_exists() -> None:
    assert set(PROJECT["classifiers"]) <= classifiers
    assert "Development Status :: 4 - Beta" in PROJECT["classifiers"]


def test_ci_runs_the_script_that_every_machine_can_run() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    assert re.findall(r"(?m)^\s+- run: (.+)$", workflow) == [".ci/run"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_hooks_are_valid_and_local() -> None:
    config = ROOT / ".pre-commit-config.yaml"
    subprocess.run([sys.executable, "-m", "pre_commit", "validate-config", config], check=True)
    assert set(re.findall(r"(?m)^\s*- repo: (\S+)$", config.read_text("utf-8"))) == {"local"}
    assert "entry: make --silent quick" in config.read_text("utf-8")


@pytest.mark.parametrize(
    ("message", "accepted"),
    [
        ("store: refuse a batch that is too large\n\nBecause.\n", True),
        ("events, store: one name for one thing\n", True),
        ("Merge branch 'x'\n", True),
        (f"store: {'x' * 65}\n", True),
        (f"store: {'x' * 66}\n", False),
        ("Refuse a batch that is too large\n", False),
        ("store:no space\n", False),
        ("\nstore: not in the first line\n", False),
    ],
)
def test_the_hook_judges_the_subject_of_a_commit(tmp_path: Path, message: str, accepted: bool) -> None:
    # In a repository of its own: pre-commit sets aside what is not staged.
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    config = ROOT / ".pre-commit-config.yaml"
    (tmp_path / config.name).write_text(config.read_text("utf-8"))
    (tmp_path / "message").write_text(message)
    subprocess.run(["git", "add", config.name], cwd=tmp_path, check=True)
    hook = ("run", "--hook-stage", "commit-msg", "--commit-msg-filename", "message", "subject")
    ran = subprocess.run(
        [sys.executable, "-m", "pre_commit", *hook],
        cwd=tmp_path,
        env={**os.environ, "PRE_COMMIT_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode == 0) == accepted, ran.stdout + ran.stderr
    assert "Failed" in ran.stdout or accepted


def test_subjects_of_commits_since_the_release_are_checked(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=tester", "-c", "user.email=tester@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True)

    def check() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, ".ci/subjects"], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    (tmp_path / ".ci").mkdir()
    for name in (".ci/subjects", ".pre-commit-config.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text("utf-8"))
    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "-m", "A subject before the release")
    assert check().stdout.startswith("subjects: not checked")
    git("tag", "v1")
    git("commit", "--quiet", "--allow-empty", "-m", "store: refuse a batch that is too large")
    assert check().returncode == 0
    git("commit", "--quiet", "--allow-empty", "-m", f"store: {'x' * 66}")
    refused = check()
    assert refused.returncode == 1
    assert refused.stderr.count("subject of commit") == 1
    assert "x" * 66 in refused.stderr


def test_every_test_that_the_documentation_names_exists() -> None:
    defined = {
        name
        for path in tracked("tests/**/*.py")
        for name in [path.stem, *re.findall(r"(?m)^\s*(?:async )?def (test_\w+)", path.read_text("utf-8"))]
    }
    named = {name for page in tracked("*.md") for name in re.findall(r"`(test_\w+)`", page.read_text("utf-8"))}
    assert named
    assert sorted(named - defined) == []
