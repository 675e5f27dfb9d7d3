"""What make and CI promise without being run."""

import os
import re
import subprocess
from pathlib import Path

from sessiond_server.auth import load_keys

ROOT = Path(__file__).parents[2]


def test_help_is_the_default_and_names_every_target_of_the_readme() -> None:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MAKE") and key != "MFLAGS"}
    told = subprocess.run(["make", "-s"], cwd=ROOT, env=clean, capture_output=True, text=True, check=True).stdout
    for target in ("help", "run", "test", "test-long", "test-all", "verify", "fix", "protos", "demo", "clean"):
        assert re.search(rf"(?m)^  {target}  +\S", told), target


def test_ci_runs_what_a_person_runs() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    commands = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    set_up = ["set -eu", 'cd "$(dirname "$0")/.."', "export SESSIOND_REQUIRE_AGENTOS=1"]
    assert commands == [*set_up, "make verify", "make test-long", "make test"]


def test_the_example_of_a_keys_file_is_one() -> None:
    keys = load_keys(ROOT / "deploy" / "keys.example.toml")
    assert {principal.name for principal in keys.values()} == {"billing", "records office", "dashboard of u-17"}
