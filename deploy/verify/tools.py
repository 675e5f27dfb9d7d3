"""The tools that the checks run, and where they are: build/deploy-tools, where `make deploy-check` builds them."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
BUILT: Final = ROOT / "build" / "deploy-tools"
HELM, PROMTOOL, COMPOSE = BUILT / "helm", BUILT / "promtool", BUILT / "compose-config"
"""Built with Go; not there on a machine without it."""
MANIFESTS: Final = BUILT / "manifests" / "bin" / "kubernetes-validate"
"""From PyPI, in an environment of its own: it holds the schemas of every version of Kubernetes."""


@dataclass(frozen=True, slots=True)
class Ran:
    code: int
    output: str
    """Standard output."""
    said: str
    """Standard output and error."""


def run(*command: str | Path, cwd: Path = ROOT, **variables: str) -> Ran:
    """Runs a tool to its end, without the environment of the caller but PATH and HOME."""
    ran = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "HOME": str(BUILT), **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return Ran(ran.returncode, ran.stdout, ran.stdout + ran.stderr)
