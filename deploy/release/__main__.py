"""Releases the version that pyproject.toml names: checks the tree, builds, tries what was built, tags.

    python -m deploy.release [--dry-run]

Wheel and source distribution lie in dist/ afterwards. Each is installed into an empty environment and tried there. A
dry run does all of it but the tag. Exit status 1: refused, or something that was tried has failed; nothing is tagged.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from deploy.release import checks

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path) -> None:
    """Runs it quietly; what it printed is shown where it fails."""
    ran = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if ran.returncode:
        raise checks.Refused(f"{' '.join(map(str, command))} has failed:\n{ran.stdout}")


def say(text: str) -> None:
    print(f"release: {text}", flush=True)


def check(root: Path, version: str) -> str:
    """Raises Refused unless the tree can be released; the changelog's section."""
    checks.clean(root)
    checks.untagged(root, version)
    changes = checks.section(root, version, datetime.now(UTC).date())
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.binpb"
        buf = Path(sys.executable).with_name("buf")
        run(buf, "build", "protos", "--exclude-source-info", "--output", image, cwd=root)
        checks.image(root, version, image)
    return changes


def build(root: Path) -> list[Path]:
    """Wheel and source distribution, in dist/."""
    shutil.rmtree(root / "dist", ignore_errors=True)
    run(sys.executable, "-m", "hatchling", "build", "--directory", root / "dist", cwd=root)
    return sorted((root / "dist").iterdir())


def attempt(root: Path, built: Path, version: str) -> None:
    """Installs it into an empty environment, with the pinned requirements, and tries it there."""
    requirements = root / "deploy" / "requirements"
    with tempfile.TemporaryDirectory(prefix="sessiond-release-") as folder:
        # Root runs the bundled Postgres as an account of its own, whose programs lie in the environment.
        os.chmod(folder, 0o711)
        python = Path(folder, "bin", "python")
        pip = (python, "-m", "pip", "--disable-pip-version-check", "install")
        run(sys.executable, "-m", "venv", folder, cwd=root)
        run(*pip, "--require-hashes", "-r", requirements / "embedded.txt", "-r", requirements / "build.txt", cwd=root)
        run(*pip, "--no-deps", "--no-index", "--no-build-isolation", built, cwd=root)
        run(python, "-I", root / "deploy" / "release" / "trial.py", version, cwd=Path(folder))


def tag(root: Path, version: str, changes: str) -> None:
    """Tags the commit that is checked out, with the changelog's section as the tag's text."""
    message = f"sessiond {version}\n\n{changes}\n"
    checks.git(root, "tag", "--annotate", f"v{version}", "--cleanup=verbatim", "--message", message)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="everything but the tag")
    parsed = parser.parse_args(arguments)
    try:
        version = checks.version(ROOT)
        changes = check(ROOT, version)
        say(f"{version}: the tree is clean, the changelog and the image of the interface are there")
        for built in build(ROOT):
            attempt(ROOT, built, version)
            say(f"{built.name} is built, installed and tried")
    except checks.Refused as error:
        print(f"release: refused: {error}", file=sys.stderr)
        return 1
    if parsed.dry_run:
        say(f"dry run: v{version} is not tagged")
        return 0
    tag(ROOT, version, changes)
    say(f"v{version} is tagged. What is left: git push origin v{version}, and upload dist/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
