"""`make release`: what it refuses, and what it builds, tries and tags."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from deploy.release import checks
from deploy.release.__main__ import tag

ROOT = Path(__file__).parents[2]
VERSION = checks.version(ROOT)
TODAY = date(2026, 11, 29)
WHO = {f"GIT_{role}_{what}": "test@test.invalid" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def git(root: Path, *arguments: str) -> str:
    ran = subprocess.run(
        ["git", *arguments], cwd=root, env={**os.environ, **WHO}, check=True, capture_output=True, text=True
    )
    return ran.stdout.strip()


def buf(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    program = Path(sys.executable).with_name("buf")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of its own with all files of this one, ready to be released."""
    copy = tmp_path_factory.mktemp("release") / "ready"
    for name in git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        if name and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    # What is to be released may not be finished where the tests run.
    (copy / "CHANGELOG.md").write_text(
        f"# Changelog\n\n## [Unreleased]\n\n## [{VERSION}] - 2026-11-29\n\n- All of it.\n"
    )
    image = copy / "protos" / "releases" / f"{VERSION}.binpb"
    assert buf("build", copy / "protos", "--exclude-source-info", "--output", image).returncode == 0
    git(copy, "init", "--quiet")
    commit(copy)
    return copy


@pytest.fixture
def tree(ready: Path, tmp_path: Path) -> Path:
    """A copy of it, which the test may change."""
    copy = tmp_path / "copy"
    shutil.copytree(ready, copy)
    return copy


def commit(root: Path) -> None:
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--allow-empty", "--message", "test: a tree")


def release(root: Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "deploy.release", *flags],
        cwd=root,
        env={**os.environ, **WHO},
        capture_output=True,
        text=True,
        check=False,
    )


def edit(path: str, old: str, new: str) -> Callable[[Path], None]:
    """Replaces a text in a file of the tree, and commits."""

    def change(root: Path) -> None:
        text = (root / path).read_text("utf-8")
        assert old in text
        (root / path).write_text(text.replace(old, new, 1))
        commit(root)

    return change


def release_before(root: Path) -> None:
    git(root, "tag", f"v{VERSION}")


def leave_a_file(root: Path) -> None:
    (root / "note.txt").write_text("to do")


@pytest.mark.long
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (leave_a_file, "the tree is not clean; commit or remove:\n?? note.txt"),
        (release_before, f"v{VERSION} is released already"),
        (edit("pyproject.toml", f'version = "{VERSION}"', 'version = "1.0"'), "version 1.0 is not MAJOR.MINOR.PATCH"),
        (edit("CHANGELOG.md", f"[{VERSION}]", "[0.1.0]"), f"there is no section '## [{VERSION}] - YYYY-MM-DD'"),
        (edit("CHANGELOG.md", "- All of it.\n", ""), f"[{VERSION}] is empty"),
        (edit("CHANGELOG.md", "[Unreleased]\n", "[Unreleased]\n\n- More.\n"), "move what stands under [Unreleased]"),
        (edit("protos/sessiond/v1/run.proto", "string run_id = ", "string run_name = "), "run make baseline"),
    ],
)
def test_a_tree_that_is_not_ready_is_refused(tree: Path, change: Callable[[Path], None], reason: str) -> None:
    change(tree)
    tags = git(tree, "tag")
    refused = release(tree)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("release: refused: ")
    assert reason in refused.stderr
    assert git(tree, "tag") == tags
    assert not (tree / "dist").exists()


def test_a_section_of_the_changelog_is_of_today_at_the_latest(tmp_path: Path) -> None:
    for day, accepted in (("2026-11-29", True), ("2026-11-30", False)):
        (tmp_path / "CHANGELOG.md").write_text(
            f"# Changelog\n\n## [1.2.3] - {day}\n\n### Added\n\n- It.\n\n## [1.2.2]\n"
        )
        if accepted:
            assert checks.section(tmp_path, "1.2.3", TODAY) == "### Added\n\n- It."
        else:
            with pytest.raises(checks.Refused, match="in the future"):
                checks.section(tmp_path, "1.2.3", TODAY)


def test_the_interface_is_guarded_against_the_image_of_the_release(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    image = ROOT / "protos" / "releases" / f"{VERSION}.binpb"
    assert buf("breaking", tmp_path / "protos", "--against", image).stdout == ""
    path = tmp_path / "protos" / "sessiond" / "v1" / "run.proto"
    path.write_text(path.read_text("utf-8").replace("string run_id = ", "string run_name = ", 1))
    broken = buf("breaking", tmp_path / "protos", "--against", image)
    assert broken.returncode != 0
    assert '"run_id" to "run_name"' in broken.stdout


@pytest.mark.long
def test_a_release_is_built_and_tried_and_then_tagged(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = release(tree, "--dry-run")
    assert tried.returncode == 0, tried.stderr
    names = (f"sessiond-{VERSION}-py3-none-any.whl", f"sessiond-{VERSION}.tar.gz")
    assert sorted(path.name for path in (tree / "dist").iterdir()) == sorted(names)
    for name in names:
        assert f"{name} is built, installed and tried" in tried.stdout
    assert git(tree, "tag") == ""
    for name, value in WHO.items():
        monkeypatch.setenv(name, value)
    tag(tree, VERSION, "- All of it.")
    assert git(tree, "tag", "--list", "--format=%(contents)") == f"sessiond {VERSION}\n\n- All of it."
    assert "released already" in release(tree).stderr
