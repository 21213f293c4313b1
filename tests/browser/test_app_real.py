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
    page.get_by_text("Settings", exact=True).first.click()
    for name, value in (("Max tokens", "16"), ("Temperature", "0")):
        box = page.get_by_label(f"number input for {name}").first
        box.fill(value)
        box.press("Tab")
    page.locator("#experts").get_by_label("Base", exact=True).check()
    page.locator("#message textarea").fill("What is the capital of France?")
    page.locator("#message textarea").press("Enter")
    expect(page.locator(".cm-reply .cm-note")).to_contain_text("base", timeout=60_000)
    expect(page.locator(".cm-tokens")).to_contain_text("Paris")
    page.locator("#experts").get_by_label("Mixture", exact=True).check()
    page.get_by_role("button", name="Answer once more").click()
    expect(page.locator(".cm-reply .cm-note")).to_contain_text(
        "% specialist", timeout=60_000
    )
    page.locator(".cm-token").first.click()
    expect(page.locator(".cm-detail").first.locator(".cm-chart g")).to_have_count(8)
    expect(page.locator(".cm-alternatives li")).to_have_count(5)
