"""The public names of the package, and the modules that its import loads."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import sessiond

DOCUMENTED = Path(__file__).parents[2] / "docs" / "client.md"


def loaded_by(statement: str) -> set[str]:
    """Top-level packages that are loaded after the statement, in an interpreter of its own."""
    script = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    ran = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return set(ran.stdout.split())


def test_import_loads_neither_grpc_nor_protobuf() -> None:
    assert not loaded_by("import sessiond") & {"grpc", "google", "asyncio", "ssl"}


@pytest.mark.parametrize("module", ["session_pb2", "message_pb2", "session_service_pb2", "error_pb2", "event_pb2"])
def test_generated_types_load_no_grpc(module: str) -> None:
    loaded = loaded_by(f"import sessiond.v1.{module}")
    assert "google" in loaded
    assert "grpc" not in loaded


def test_messages_and_errors_load_no_grpc() -> None:
    assert "grpc" not in loaded_by("import sessiond; sessiond.user('hi'); sessiond.NotFound; sessiond.Retry")


def test_the_client_loads_grpc() -> None:
    assert "grpc" in loaded_by("import sessiond; sessiond.Client")


@pytest.mark.parametrize("name", sessiond.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(sessiond, name) is not None
    assert name in dir(sessiond)


def test_no_other_name_is() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        sessiond.no_such_name  # type: ignore[attr-defined]  # noqa: B018


def test_the_surface_is_the_documented_one() -> None:
    section = DOCUMENTED.read_text(encoding="utf-8").split("## Names\n")[1].split("\n## ")[0]
    names = re.findall(r"`(\w+)`", section)
    assert sorted(names) == sorted(sessiond.__all__)


def test_the_package_is_typed() -> None:
    assert (Path(sessiond.__file__).parent / "py.typed").is_file()
