"""`make pictures`: the README's picture, taken anew from the running service."""

import asyncio
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.async_api import async_playwright, expect

from pulsepool.embedded import EmbeddedPostgres
from tests.browser.conftest import CHROMIUM, QUIET
from tests.service import ROOT, Service


async def take(service: Service, folder: Path) -> None:
    """One picture of an answer, and one of whom to call, on a phone in the dark."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        page = await browser.new_page(viewport={"width": 900, "height": 900})
        await page.goto(service.base)
        await page.locator("#question").fill("what is the ED STEMI protocol")
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("Source: ED Protocol Handbook")).to_be_visible()
        await expect(page.locator("#health")).to_contain_text("1.000")
        await page.screenshot(path=folder / "page.png")
        phone = await browser.new_page(viewport={"width": 390, "height": 900}, color_scheme="dark")
        await phone.goto(service.base)
        await phone.locator("#question").fill("who is on call for cardiology")
        await phone.keyboard.press("Enter")
        await expect(phone.get_by_role("row").nth(1)).to_be_visible()
        await expect(phone.locator("#health")).to_contain_text("1.000")
        await phone.screenshot(path=folder / "page-phone.png")
        await browser.close()


def main() -> int:
    """Start the service on a server of its own and take the pictures; give the exit code."""
    if CHROMIUM is None:
        print("there is no Chromium: apt-get install chromium")
        return 1
    with TemporaryDirectory(prefix="pulsepool-") as folder:
        Path(folder).chmod(0o711)  # as root, the server runs as another user, who has to pass through
        return photograph(EmbeddedPostgres(Path(folder) / "pg", password="pictures", durable=False))


def photograph(server: EmbeddedPostgres) -> int:
    """Run the service on `server` and take its pictures."""
    with server:
        server.create_database("edbotv8")
        (ROOT / "docs/images").mkdir(parents=True, exist_ok=True)
        service = Service(server.url("edbotv8"))
        service.wait_until_it_listens()
        try:
            asyncio.run(take(service, ROOT / "docs/images"))
        finally:
            service.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
