"""What README.md and docs/http.md do with curl works as it is written."""

import asyncio
import re
import shutil
from pathlib import Path

import pytest

from tests.support.rows import table
from tests.support.serve_process import serving
from tests.support.web import MEMORY, url_of

ROOT = Path(__file__).parents[2]
COMMAND = re.compile(r"(?m)^\$ ((?:[A-Z]+=|.*\bcurl )(?:.*\\\n)*.*)$")
"""An assignment, which those after it use, or something with curl."""
STOPPED = 28
"""curl's exit code when its time is over, which is how the test ends a stream."""


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("page", ["README.md", "docs/http.md"])
async def test_commands_of_the_page_work_one_after_the_other(page: str, tmp_path: Path) -> None:
    (tmp_path / "report.pdf").write_bytes(bytes(250_000))
    commands = COMMAND.findall((ROOT / page).read_text("utf-8"))
    assert len(commands) >= 5
    assignments = ""
    async with serving(*MEMORY) as server:
        with table() as rows:
            for command in commands:
                if re.match("[A-Z]+=", command):
                    assignments += f"{command}\n"
                    continue
                with rows.row(command):
                    stream = command.startswith("curl -N")
                    limit = "--max-time 1 " if stream else ""
                    program = command.replace("curl ", f"curl --noproxy '*' -sS --fail-with-body {limit}", 1)
                    program = (assignments + program).replace("localhost:50080", url_of(server).removeprefix("http://"))
                    ran = await asyncio.create_subprocess_shell(
                        program, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=tmp_path
                    )
                    said, _ = await ran.communicate()
                    assert ran.returncode == (STOPPED if stream else 0), said.decode()
                    assert not stream or b"\nid: " in said
