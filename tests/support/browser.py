"""The console in a real Chromium."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.async_api import Page, async_playwright

from tests.support.waiting import PATIENCE

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (Debian's package `chromium`)")


@dataclass
class Opened:
    """A page, and what went wrong in it."""

    page: Page
    base_url: str
    errors: list[str] = field(default_factory=list)
    """Uncaught exceptions, and what the policy refused."""
    asked: list[str] = field(default_factory=list)
    """Addresses of all requests."""

    async def go(self, address: str = "/") -> None:
        await self.page.goto(f"{self.base_url}{address}")

    async def texts(self, selector: str) -> list[str]:
        return await self.page.locator(selector).all_inner_texts()

    async def until(self, expression: str, argument: Any = None) -> None:
        """Waits for a condition of the page. `wait_for_function` makes code of texts, which the policy forbids."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not await self.page.evaluate(expression, argument):  # noqa: ASYNC110  another process
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"the page never became: {expression}") from None


@asynccontextmanager
async def opened_page(base_url: str, **options: Any) -> AsyncIterator[Opened]:
    """`options`: of the browser's context. Fails behind it if a script failed or the policy refused something."""
    async with async_playwright() as playwright:
        # Containers give no namespaces for the sandbox; the pages here are ours.
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            context = await browser.new_context(**{"locale": "en-GB", **options})
            context.set_default_timeout(PATIENCE * 1000)
            found = Opened(await context.new_page(), base_url)
            found.page.on("pageerror", lambda error: found.errors.append(str(error)))
            found.page.on(
                "console",
                lambda said: found.errors.append(said.text) if "Content Security Policy" in said.text else None,
            )
            found.page.on("request", lambda request: found.asked.append(request.url))
            yield found
            assert found.errors == []
            assert all(url.startswith((base_url, "blob:", "data:")) for url in found.asked), found.asked
        finally:
            await browser.close()
