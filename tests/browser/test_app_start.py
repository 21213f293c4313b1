"""The app from its first second on: waiting page, signing in, no run yet, busy."""

import pytest
from playwright.sync_api import expect

from app.options import USER

pytestmark = pytest.mark.browser

PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def alone(serving, tmp_path_factory):
    """A page without any run, whose answers take their time."""
    runs = tmp_path_factory.mktemp("alone") / "none"
    return serving("tests.app.parrot_page", runs, 0.02)


def test_a_page_is_there_at_once_and_gives_way(serving, screen, tiny_folder, tmp_path):
    address = serving("app", "--runs", tmp_path, "--model", tiny_folder(), up=False)
    page = screen(address, ready=False)
    expect(page).to_have_title("comigs_mlx is starting")
    expect(page.get_by_role("status")).to_contain_text("Starting")
    expect(page).to_have_title("comigs_mlx", timeout=60_000)
    expect(page.locator("#message textarea")).to_be_visible()


def test_with_a_password_nobody_else_comes_in(serving, screen, tiny_folder, tmp_path):
    secret = tmp_path / "password"
    secret.write_text(f"{PASSWORD}\n")
    given = ["--runs", tmp_path, "--model", tiny_folder(), "--password-file", secret]
    address = serving("app", *given)
    page = screen(address, ready=False)
    assert page.request.get(f"{address}/config").status == 401
    for word in ("wrong horse", PASSWORD):
        expect(page.locator("#message")).to_have_count(0)
        page.get_by_label("Username").fill(USER)
        page.get_by_label("Password").fill(word)
        page.get_by_role("button", name="Login").click()
        if word != PASSWORD:
            expect(page.get_by_text("Incorrect Credentials")).to_be_visible()
    expect(page.locator("#message textarea")).to_be_visible()


def test_without_a_run_there_is_somebody_to_talk_to(alone, screen):
    page = screen(alone)
    card = page.get_by_role("radio", name="Untrained model")
    expect(card).to_have_attribute("aria-checked", "true")
    page.evaluate("window.comigs.compare.open('hello')")
    told = page.get_by_text("choose who you talk to first")
    expect(told.first).to_be_visible()


def test_who_has_to_wait_is_told(alone, screen):
    first, second = screen(alone), screen(alone)
    first.locator("#message textarea").fill("a long answer")
    first.locator("#message textarea").press("Enter")
    expect(first.locator(".cm-prose")).to_contain_text("along")
    second.locator("#message textarea").fill("me too")
    second.locator("#message textarea").press("Enter")
    expect(second.locator(".cm-status")).to_contain_text("busy (1 before you)")
    for page, said in ((first, "along"), (second, "me")):
        expect(page.locator(".cm-prose")).to_contain_text(said)
        page.locator("#message .stop-button").click()
        expect(page.locator(".cm-remark")).to_contain_text("topped")
