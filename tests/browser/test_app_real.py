"""The Chat tab with the demo model."""

import shutil

import pytest
from playwright.sync_api import expect

from tests.real.conftest import real_demo, real_run  # noqa: F401  (fixtures)

pytestmark = [pytest.mark.browser, pytest.mark.real]


def test_the_demo_model_answers_and_is_explained(
    serving,
    screen,
    real_run,  # noqa: F811
    tmp_path,
):
    shutil.copytree(real_run, tmp_path / "mill")
    page = screen(serving("app", "--runs", tmp_path))
    page.get_by_role("button", name="Settings").click()
    for name, value in (("Max tokens", "16"), ("Temperature", "0")):
        box = page.get_by_label(f"number input for {name}").first
        box.fill(value)
        box.press("Tab")
    page.keyboard.press("Escape")
    page.locator("#experts").get_by_text("Untrained", exact=True).click()
    page.locator("#message textarea").fill("What is the capital of France?")
    page.locator("#message textarea").press("Enter")
    answer = page.locator(".cm-reply:not(.cm-live)")
    expect(answer).to_contain_text("Paris", timeout=60_000)
    expect(answer.locator("h3")).to_contain_text("Untrained")
    page.locator("#experts").get_by_text("Together", exact=True).click()
    page.get_by_role("button", name="Answer once more").click()
    expect(page.get_by_label("answer 2 of 2")).to_be_visible(timeout=60_000)
    expect(answer.locator("h3")).to_contain_text("Together")
    if not page.locator("#show-who").is_checked():  # a short training may not show
        page.locator("#composer").get_by_text("Show who spoke").click()
    page.locator(".cm-token").first.click()
    expect(page.locator(".cm-drawer .cm-layers li")).to_have_count(8)
    expect(page.locator(".cm-drawer .cm-others li")).to_have_count(5)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Compare who would say what").click()
    cards = page.locator(".cm-answer-card[data-state=done]")
    expect(cards).to_have_count(4, timeout=120_000)
    expect(cards.first.locator("h3")).to_have_text("Untrained")
    expect(cards.first).to_contain_text("Paris")
