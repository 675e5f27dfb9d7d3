"""A server in a process of its own, with two tenants, whose memory can be measured."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sessiond_server.auth import new_key
from tests.support.hostile_target import Target
from tests.support.serve_process import serving


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[Target]:
    keys = dict(new_key(name, name) for name in ("loud", "quiet"))
    file = tmp_path / "keys.toml"
    file.write_text("".join(keys.values()))
    loud, quiet = keys
    flags = ("--store", "memory", "--keys-file", file, "--watch-write-timeout", "500ms")
    async with serving(*flags, "--metrics-listen", "127.0.0.1:0") as server:
        yield Target(server, loud, quiet)
