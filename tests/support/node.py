"""Published npm packages, and programs of ours that use them, below `build`."""

import fcntl
import json
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILT = ROOT / "build" / "http-node"
"""Where the programs lie once they are installed."""
_PROGRAMS = (ROOT / "tests" / "http" / "node", ROOT / "tests" / "faults" / "node")
SECONDS = 240
"""That npm may take."""


def missing() -> str:
    """What is missing to run such programs, as a reason to skip a test; empty if nothing is."""
    return "" if shutil.which("npm") and shutil.which("node") else "needs npm and Node"


def install() -> None:
    """Copies the programs, and installs the packages unless these versions are there. Takes seconds the first time."""
    BUILT.mkdir(parents=True, exist_ok=True)
    with (BUILT / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests of several processes, and campaigns, share the folder
        for folder in _PROGRAMS:
            for file in folder.iterdir():
                shutil.copy2(file, BUILT)
        wanted = json.loads((BUILT / "package.json").read_text())["dependencies"]
        if any(_installed(name) != version for name, version in wanted.items()):
            command = ("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--silent")
            subprocess.run(command, cwd=BUILT, check=True, timeout=SECONDS)


def _installed(name: str) -> str:
    """The version; empty if there is none."""
    described = BUILT / "node_modules" / name / "package.json"
    return str(json.loads(described.read_text())["version"]) if described.exists() else ""
