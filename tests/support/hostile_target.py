"""A server in a process of its own, with two tenants, whose memory can be measured."""

import re
from dataclasses import dataclass
from pathlib import Path

import sessiond
from tests.support.serve_process import Serving


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
