"""The tests of this folder once more, with clients that make all their calls through pipes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]


@pytest.mark.long
def test_client_passes_all_tests_over_pipes() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--ignore", __file__, str(FOLDER)]
    ran = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "SESSIOND_TEST_PIPE": "on"}, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout=1000, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-20_000:]
    passed = re.search(r"(\d+) passed", ran.stdout)
    assert passed is not None
    assert int(passed[1]) > 1000
