"""The page as a person uses it."""

import re

from playwright.async_api import Page, expect

from tests.service import Service


async def ask(page: Page, edbot: Service, question: str) -> None:
    await page.goto(edbot.base)
    await page.get_by_role("searchbox").or_(page.locator("#question")).first.fill(question)
    await page.keyboard.press("Enter")


async def test_a_question_typed_and_entered_is_answered_with_its_source(page, edbot):
    await ask(page, edbot, "what is the ED STEMI protocol")
    await expect(page.get_by_text("Source: ED Protocol Handbook (sample), section C-1")).to_be_visible()
    await expect(page.get_by_role("heading", name="ED STEMI protocol")).to_be_visible()
    await expect(page.get_by_text("SAMPLE, NOT FOR CLINICAL USE").first).to_be_visible()


async def test_who_is_on_call_is_a_table_with_whom_to_call_first(page, edbot):
    await page.goto(edbot.base)
    await page.get_by_role("button", name="who is on call for cardiology").click()
    first = page.get_by_role("row").nth(1)
    await expect(first).to_contain_text("Cardiologist on call")
    await expect(first).to_contain_text("ext. 5501")


async def test_nothing_found_is_said_plainly(page, edbot):
    await ask(page, edbot, "who won the football yesterday")
    await expect(page.locator("#result")).to_contain_text(re.compile("nothing found", re.IGNORECASE))


async def test_the_health_score_is_there_and_opens_its_parts(page, edbot):
    await page.goto(edbot.base)
    chip = page.locator("#health")
    await expect(chip).to_contain_text("Healthy")
    await expect(chip).to_contain_text("1.000")
    await chip.click()
    row = page.get_by_role("dialog").get_by_role("row").nth(1)
    await expect(row).to_contain_text(re.compile("database", re.IGNORECASE))
    await expect(row).to_contain_text("Database connection healthy")
