"""The chart and the Compose file: what they render is kept and valid, and a planted mistake is found."""

import json
import re
import shutil
from pathlib import Path

import pytest
from deploy.verify import manifests
from deploy.verify.__main__ import CHART, VALUES
from deploy.verify.tools import COMPOSE, HELM, MANIFESTS, ROOT

from sessiond_server.settings import SETTINGS

SETS = manifests.value_sets(VALUES)
needs_helm = pytest.mark.skipif(not HELM.exists(), reason="make deploy-check builds helm, with Go")
needs_compose = pytest.mark.skipif(not COMPOSE.exists(), reason="make deploy-check builds compose-config, with Go")
needs_schemas = pytest.mark.skipif(not MANIFESTS.exists(), reason="make deploy-check installs the schemas")

DECIDED_BY_THE_CHART = {
    "allow_unauthenticated_network", "console", "data_dir", "databases", "default_database", "drain_pause",
    "failpoints", "grace", "http_listen", "keys_file", "listen", "metrics_listen", "postgres_dsn", "redis_url", "store",
    "summary_key_file", "tls_cert_file", "tls_client_ca_file", "tls_key_file",
}  # fmt: skip


def test_settings_of_the_chart_are_those_of_the_service() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    allowed = schema["properties"]["settings"]["propertyNames"]["enum"]
    assert allowed == sorted(setting.name for setting in SETTINGS if setting.name not in DECIDED_BY_THE_CHART)


def test_version_of_the_chart_is_that_of_the_service() -> None:
    version = re.search(r'(?m)^version = "(.+)"$', (ROOT / "pyproject.toml").read_text())
    assert version
    chart = (CHART / "Chart.yaml").read_text()
    assert f'\nversion: {version[1]}\nappVersion: "{version[1]}"\n' in chart


@pytest.mark.parametrize("values", SETS, ids=lambda path: path.name)
def test_stop_fits_the_time_that_kubernetes_gives(values: Path) -> None:
    kept = manifests.golden(values).read_text()
    given = re.search(r"terminationGracePeriodSeconds: (\d+)", kept)
    times = dict(re.findall(r"name: SESSIOND_(DRAIN_PAUSE|GRACE)\n +value: (\d+)s", kept))
    assert given
    # Beside these the service takes at most 5 s, for the last writes and for its connections.
    assert int(times["DRAIN_PAUSE"]) + int(times["GRACE"]) + 5 <= int(given[1])


@pytest.mark.parametrize("values", SETS, ids=lambda path: path.name)
def test_containers_may_do_nothing_that_they_need_not(values: Path) -> None:
    kept = manifests.golden(values).read_text()
    containers = kept.count("image: ")
    for line in ("readOnlyRootFilesystem: true", "allowPrivilegeEscalation: false", "runAsNonRoot: true"):
        assert kept.count(line) == containers, line
    assert kept.count("drop: [ALL]") == containers
    assert kept.count("automountServiceAccountToken: false") >= containers


@pytest.mark.long
@needs_helm
def test_chart_renders_what_is_kept() -> None:
    assert list(manifests.chart(CHART, VALUES)) == []


def planted(tmp_path: Path, file: str, old: str, new: str) -> Path:
    """A copy of the chart with a mistake in it."""
    chart = tmp_path / "sessiond"
    shutil.copytree(CHART, chart)
    text = (chart / file).read_text()
    assert old in text
    (chart / file).write_text(text.replace(old, new, 1))
    return chart


@pytest.mark.long
@needs_helm
@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        ("templates/deployment.yaml", "maxUnavailable: 0", "maxUnavailable: 1", "is not what the chart renders"),
        ("templates/deployment.yaml", "{{- end }}", "", "helm"),
        ("values.yaml", "replicas: 2", "replicas: two", "replicas"),
        ("values.yaml", "graceSeconds", "gracePeriod", "gracePeriod"),
        ("Chart.yaml", "version: 0.2.0", "version: next", "version"),
    ],
)
def test_mistake_in_the_chart_is_found(tmp_path: Path, file: str, old: str, new: str, problem: str) -> None:
    problems = list(manifests.chart(planted(tmp_path, file, old, new), VALUES))
    assert any(problem in found for found in problems), problems


@pytest.mark.long
@needs_helm
@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ("keys: {secret: k}", "postgres"),
        ("postgres: {secret: p}", "keys"),
        ("postgres: {secret: p}\nkeys: {secret: k}\nsettings: {listen: '0.0.0.0:1'}", "listen"),
        ("postgres: {secret: p}\nkeys: {secret: k}\nsettings: {pool_size: 20}", "pool_size"),
        ("postgres: {secret: p}\nkeys: {secret: k}\nreplica: 3", "replica"),
        ("databases: {secret: d}\nkeys: {secret: k}", "default"),
        ("databases: {default: main}\nkeys: {secret: k}", "secret"),
        ("databases: {secret: d, default: Main}\nkeys: {secret: k}", "default"),
        ("postgres: {secret: p}\ndatabases: {secret: d, default: main}\nkeys: {secret: k}", "oneOf"),
        ("postgres: {secret: p}\nkeys: {secret: k}\ntls: {clientCA: {secret: ca}}", "tls"),
        ("postgres: {secret: p}\nkeys: {secret: k}\nmetrics: {port: 50051}", "port"),
    ],
)
def test_wrong_values_are_refused(tmp_path: Path, values: str, problem: str) -> None:
    (tmp_path / "x.values.yaml").write_text(values)
    with pytest.raises(ValueError, match=problem):
        manifests.rendered(CHART, tmp_path / "x.values.yaml")


@pytest.mark.long
@needs_schemas
def test_what_is_rendered_is_valid_for_every_version_of_kubernetes() -> None:
    assert list(manifests.api([manifests.golden(values) for values in SETS])) == []


@pytest.mark.long
@needs_schemas
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("readinessProbe:", "readyProbe:"),
        ("replicas: 2", 'replicas: "two"'),
        ("containerPort: 50051", "containerPort: grpc"),
        ("apiVersion: policy/v1\n", "apiVersion: policy/v1beta1\n"),
        ("policyTypes:", "types:"),
    ],
)
def test_field_that_kubernetes_does_not_have_is_found(tmp_path: Path, old: str, new: str) -> None:
    kept = (VALUES / "least.golden.yaml").read_text()
    assert old in kept
    (tmp_path / "wrong.yaml").write_text(kept.replace(old, new, 1))
    assert len(list(manifests.api([tmp_path / "wrong.yaml"]))) == len(manifests.VERSIONS)


@pytest.mark.long
@needs_compose
@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("", "", ""),
        ("depends_on:", "dependson:", "dependson"),
        ("      valkey:\n", "      valky:\n", "undefined service"),
        ("${POSTGRES_PASSWORD:?set it}", "${PASSWORD_OF_NOBODY:?set it}", "set it"),
    ],
)
def test_compose_file_is_valid_and_a_mistake_in_it_is_found(tmp_path: Path, old: str, new: str, problem: str) -> None:
    text = (ROOT / "deploy" / "compose.yaml").read_text()
    assert old in text
    (tmp_path / "compose.yaml").write_text(text.replace(old, new, 1))
    problems = list(manifests.compose(tmp_path / "compose.yaml"))
    assert [problem in found for found in problems] == ([True] if problem else [])
