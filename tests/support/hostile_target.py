"""A server in a process of its own, with two tenants, whose memory can be measured."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import sessiond
from sessiond_server.auth import new_key
from tests.support.serve_process import Serving, serving


@dataclass(slots=True)
class Target:
    """A server, and who may call it."""

    server: Serving
    key: str
    """Of the tenant that misbehaves."""
    other_key: str

    @property
    def port(self) -> int:
        return self.server.port

    def resident_mib(self, highest: bool = False) -> float:
        status = Path(f"/proc/{self.server.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+)" if highest else r"VmRSS:\s+(\d+)", status)
        assert found
        return int(found[1]) / 1024

    def other(self) -> sessiond.Client:
        """A client of the tenant that does not misbehave."""
        return sessiond.Client(self.server.target, api_key=self.other_key, timeout=60)


@asynccontextmanager
async def serving_two_tenants(tmp_path: Path, *flags: str) -> AsyncIterator[Target]:
    keys = dict(new_key(name, name) for name in ("loud", "quiet"))
    file = tmp_path / "keys.toml"
    file.write_text("".join(keys.values()))
    loud, quiet = keys
    async with serving("--store", "memory", "--keys-file", file, *flags, "--metrics-listen", "127.0.0.1:0") as server:
        yield Target(server, loud, quiet)
