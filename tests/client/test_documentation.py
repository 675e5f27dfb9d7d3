"""The examples of pages of docs and of README.md print what the pages say, against the real service."""

import ast
import asyncio
import re
import sys
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from tests.support.client_service import Service

ROOT = Path(__file__).parents[2]
PAGES = {page: ROOT / "docs" / f"{page}.md" for page in ("branches", "client", "context", "messages", "documents")}
EXAMPLE = re.compile(r"```python\n(.*?)```", re.DOTALL)
PRINTED = re.compile(r"print\(.*\)  # (.*)$", re.MULTILINE)


def compiled(source: str) -> CodeType:
    code = compile(source, "an example", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert isinstance(code, CodeType)
    return code


@pytest.mark.parametrize("page", PAGES)
async def test_the_examples(service: Service, page: str) -> None:
    printed: list[str] = []
    names: dict[str, Any] = {"print": lambda *values: printed.append(" ".join(map(str, values)))}
    examples = EXAMPLE.findall(PAGES[page].read_text(encoding="utf-8"))
    assert len(examples) > 2
    for example in examples:
        printed.clear()
        # With await at the top level the code is a coroutine function's; eval gives its coroutine, else None.
        running = eval(compiled(example.replace("127.0.0.1:50051", service.target)), names)
        if running is not None:
            await running
        assert " ".join(printed) == " ".join(PRINTED.findall(example)), example


async def test_the_program_of_the_readme(service: Service) -> None:
    (program,) = EXAMPLE.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    here = program.replace("127.0.0.1:50051", service.target)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", here, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    assert (process.returncode, said.decode().splitlines()) == (0, PRINTED.findall(program))
