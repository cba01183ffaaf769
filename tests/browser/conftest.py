"""A real Chromium, Debian's, on the real service; skipped by name where there is none."""

import os
import shutil
from collections.abc import AsyncIterator, Iterator

import pytest
from playwright.async_api import Browser, Page, async_playwright

from pulsepool.embedded import EmbeddedPostgres
from tests.service import Service

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip


@pytest.fixture(scope="module")
def edbot(pg_server: EmbeddedPostgres) -> Iterator[Service]:
    """The running service."""
    pg_server.create_database("browsed")
    service = Service(pg_server.url("browsed"))
    service.wait_until_it_listens()
    yield service
    service.stop()


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """A browser that asks nobody else for anything."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET), env={**os.environ})
        yield browser
        await browser.close()


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A page that fails the test when the browser complains about anything."""
    page = await browser.new_page()
    complaints: list[str] = []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    assert complaints == []
