"""The Dockerfile's steps, run without Docker: in a folder of their own, with an empty environment."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.serve_process import data_folder

ROOT = Path(__file__).parents[2]


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """(keyword, rest) of each instruction, lines joined."""
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"(?m)^\s*#.*\n", "", text))
    for line in joined.splitlines():
        keyword, _, rest = line.partition(" ")
        if keyword:
            yield keyword, rest.strip()


def stages(text: str) -> list[list[tuple[str, str]]]:
    """The instructions of each stage, its FROM first."""
    found: list[list[tuple[str, str]]] = []
    for keyword, rest in instructions(text):
        if keyword == "FROM":
            found.append([])
        if found:
            found[-1].append((keyword, rest))
    return found


BUILD, IMAGE = stages((ROOT / "Dockerfile").read_text())


def copy(sources: list[str], target: str, context: Path, work: Path) -> None:
    for source in sources:
        path = context / source
        if path.is_dir():
            shutil.copytree(path, work / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (work / target).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, work / target)


@pytest.mark.long
def test_the_steps_of_the_build_install_a_working_service(tmp_path: Path) -> None:
    work, opt = tmp_path / "src", tmp_path / "opt"
    work.mkdir()
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "python").symlink_to(sys._base_executable)  # type: ignore[attr-defined]
    # How this machine reaches its package index is not the image's business.
    index = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.endswith("_proxy")}
    clean = {"PATH": f"{binaries}:/usr/bin:/bin", "HOME": str(tmp_path / "home"), **index}
    for keyword, rest in BUILD:
        if keyword == "COPY":
            *sources, target = shlex.split(rest)
            copy(sources, target, ROOT, work)
        elif keyword == "RUN":
            done = subprocess.run(
                ["/bin/sh", "-c", rest.replace("/opt/", f"{opt}/")],
                cwd=work,
                env=clean,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
    command = opt / "sessiond" / "bin" / "sessiond"
    told = subprocess.run([command, "--version"], env={}, capture_output=True, text=True, check=True)
    assert told.stdout.startswith("sessiond ")
    # It stands on its own: nothing of the source tree is needed, and nothing but the server's needs is in it.
    shutil.rmtree(work)
    probe = subprocess.run(
        [command, "healthcheck", "--listen", "127.0.0.1:1"], env={}, capture_output=True, text=True, check=False
    )
    assert (probe.returncode, probe.stdout) == (1, "127.0.0.1:1: UNREACHABLE\n")
    migrations = "from sessiond_server.postgres.schema.migrate import migrations; print(len(migrations()))"
    listed = subprocess.run(
        [command.with_name("python"), "-c", migrations], env={}, capture_output=True, text=True, check=True
    )
    assert int(listed.stdout) >= 1
    with data_folder() as data:
        refused = subprocess.run(
            [command, "serve", "--listen", "127.0.0.1:0", "--data-dir", data],
            env={},
            capture_output=True,
            text=True,
            check=False,
        )
    assert refused.returncode == 1
    assert "SESSIOND_POSTGRES_DSN" in refused.stderr


def test_the_base_is_an_argument_that_names_one_version() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r"(?m)^ARG BASE=python:3\.\d+\.\d+-slim-\w+$", text)
    assert [rest.split()[0] for stage in stages(text) for keyword, rest in stage if keyword == "FROM"] == [
        "${BASE}"
    ] * 2


def test_image_runs_without_root_and_probes_itself() -> None:
    final = dict(IMAGE)
    assert int(final["USER"].split(":")[0]) > 0
    assert final["HEALTHCHECK"].endswith('CMD ["sessiond", "healthcheck"]')
    assert final["ENTRYPOINT"] == '["sessiond"]'


def test_the_image_listens_on_the_network_with_keys_only() -> None:
    variables = dict(re.findall(r"(\w+)=(\S+)", dict(IMAGE)["ENV"]))
    assert variables["SESSIOND_LISTEN"] == "0.0.0.0:50051"
    assert "SESSIOND_KEYS_FILE" in variables
    assert "SESSIOND_ALLOW_UNAUTHENTICATED_NETWORK" not in variables


@pytest.mark.parametrize("source", [s for k, r in BUILD if k == "COPY" for s in shlex.split(r)[:-1]])
def test_what_is_copied_is_let_through(source: str) -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert any(source == entry or source.startswith(entry + "/") for entry in allowed)
