"""Checks everything below deploy/ that tools can check; run by `make verify`.

    python -m deploy.verify [--golden]

`--golden` writes the golden files of the chart anew instead. A tool that could not be built, for want of Go, skips its
checks with that reason; with CI set, that is a failure. Exit status 1: a problem was found.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from deploy.verify import manifests, observability
from deploy.verify.tools import COMPOSE, HELM, MANIFESTS, PROMTOOL, ROOT

DEPLOY = ROOT / "deploy"
VALUES = ROOT / "tests" / "deploy" / "charts"
CHART, OBSERVABILITY = DEPLOY / "helm" / "sessiond", DEPLOY / "observability"


def checks() -> Sequence[tuple[str, Path | None, Callable[[], Iterable[str]]]]:
    """Name, the tool that it needs, and the check."""
    known = observability.documented((ROOT / "docs" / "metrics.md").read_text())
    kept = [manifests.golden(values) for values in manifests.value_sets(VALUES)]
    return (
        ("chart", HELM, lambda: manifests.chart(CHART, VALUES)),
        ("manifests", MANIFESTS, lambda: manifests.api(kept)),
        ("compose file", COMPOSE, lambda: manifests.compose(DEPLOY / "compose.yaml")),
        ("alerts and queries", PROMTOOL, lambda: observability.rules(OBSERVABILITY)),
        ("tests of alerts", None, lambda: observability.untested(OBSERVABILITY)),
        ("names of metrics", None, lambda: observability.metrics(OBSERVABILITY, known)),
    )


def main() -> int:
    assert __doc__
    parser = argparse.ArgumentParser(prog="deploy.verify", description=__doc__.splitlines()[0])
    parser.add_argument("--golden", action="store_true", help="write the golden files of the chart anew")
    if parser.parse_args().golden:
        for values in manifests.value_sets(VALUES):
            manifests.golden(values).write_text(manifests.rendered(CHART, values))
        return 0
    failed = False
    for name, tool, check in checks():
        if tool is not None and not tool.exists():
            print(f"deploy: {name}: skipped, since there is no {tool.name}; it is built with Go")
            failed |= bool(os.environ.get("CI"))
            continue
        problems = list(check())
        for problem in problems:
            print(f"deploy: {name}: {problem}")
        failed |= bool(problems)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
