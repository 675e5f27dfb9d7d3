"""Checks of what deploys the service: the chart, what it renders, the Compose file."""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from deploy.verify.tools import COMPOSE, HELM, MANIFESTS, run

VERSIONS: Final = ("1.29", "1.37")
"""Oldest version of Kubernetes that the chart allows, and the newest with a known schema."""


def rendered(chart: Path, values: Path) -> str:
    """What Kubernetes would get. Raises ValueError with what helm says."""
    ran = run(HELM, "template", "example", chart, "--namespace", "agents", "--values", values)
    if ran.code:
        raise ValueError(ran.said.strip())
    return ran.output


def golden(values: Path) -> Path:
    """The file that keeps what is rendered with the values."""
    return values.with_name(values.name.replace(".values.yaml", ".golden.yaml"))


def value_sets(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.values.yaml"))


def chart(chart: Path, values_folder: Path) -> Iterator[str]:
    """Problems of the chart: those that `helm lint` finds, and differences from the golden files."""
    sets = value_sets(values_folder)
    for values in sets:
        linted = run(HELM, "lint", "--strict", chart, "--values", values)
        if linted.code:
            yield f"helm lint with {values.name}:\n{linted.said.strip()}"
        try:
            now = rendered(chart, values)
        except ValueError as error:
            yield f"helm template with {values.name}:\n{error}"
            continue
        kept = golden(values).read_text() if golden(values).exists() else ""
        if now != kept:
            lines = difflib.unified_diff(kept.splitlines(), now.splitlines(), "kept", "rendered", lineterm="")
            yield f"{golden(values).name} is not what the chart renders; make golden, and look at it:\n" + "\n".join(
                lines
            )
    if not sets:
        yield f"{values_folder} holds no values"


def api(manifests: list[Path]) -> Iterator[str]:
    """Problems of manifests by the schemas of Kubernetes' API, fields that do not exist included."""
    for version in VERSIONS:
        ran = run(MANIFESTS, "--strict", "--quiet", "--kubernetes-version", version, *manifests)
        if ran.code or ran.said.strip():  # a kind without a schema is only a warning
            yield f"Kubernetes {version} refuses a manifest:\n{ran.said.strip()}"


def compose(file: Path) -> Iterator[str]:
    """Problems of a Compose file."""
    ran = run(COMPOSE, file.name, cwd=file.parent, POSTGRES_PASSWORD="any")
    if ran.code:
        yield f"{file.name}: {ran.said.strip()}"
