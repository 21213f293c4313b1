"""The Chat tab in a browser, with a run of the tiny model."""

import json
import re
import shutil

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

expect.set_options(timeout=20_000)


@pytest.fixture(scope="module")
def address(serving, trained, tiny_folder, tmp_path_factory):
    runs = tmp_path_factory.mktemp("chat")
    shutil.copytree(trained(), runs / "notes")
    return serving("app", "--runs", runs, "--model", tiny_folder())


@pytest.fixture
def chat(screen, address):
    page = screen(address)
    page.get_by_role("button", name="Settings").click()
    box = page.get_by_label("number input for Max tokens").first
    box.fill("16")
    box.press("Tab")
    page.keyboard.press("Escape")
    return page


def say(page, text, answers=1):
    page.locator("#message textarea").fill(text)
    page.locator("#message textarea").press("Enter")
    expect(page.locator(".cm-reply:not(.cm-live)")).to_have_count(answers)


def test_an_answer_is_tinted_and_each_token_explained(chat):
    say(chat, "hello")
    figures = chat.locator(".cm-figures")
    expect(figures).to_contain_text("tokens")
    tokens, told = chat.locator(".cm-token"), figures.inner_text()
    # After six steps a token may lean to a side or none does, as the draw has it.
    assert ("the router has not learnt yet" in told) != ("% yours" in told)
    if "% yours" not in told:
        expect(tokens).to_have_count(0)
        chat.locator("#composer").get_by_text("Show who spoke").click()
    expect(tokens.first).to_be_visible()
    assert tokens.count() <= 16
    tokens.first.click()
    drawer = chat.locator(".cm-drawer")
    expect(drawer).to_contain_text(re.compile(r"Token 1 of \d+"))
    expect(drawer.locator(".cm-layers li")).to_have_count(2)  # the tiny model's
    expect(drawer.locator(".cm-others li")).to_have_count(5)
    if tokens.count() > 1:
        chat.keyboard.press("ArrowRight")
        expect(tokens.nth(1)).to_be_focused()
        expect(drawer).not_to_contain_text("Token 1 of")
    chat.keyboard.press("Escape")
    expect(drawer).not_to_be_visible()


def test_each_voice_can_be_asked_and_has_a_name(chat):
    for i, (name, share) in enumerate(
        [("Only me", "100 % yours"), ("Only everyone", "0 % yours"), ("Untrained", "")],
        1,
    ):
        chat.locator("#experts").get_by_text(name, exact=True).click()
        say(chat, "hello", i)
        answer = chat.locator(".cm-reply").last
        expect(answer.locator("h3")).to_have_text(f"{name} · notes")
        expect(answer.locator(".cm-figures")).to_contain_text(share)
    expect(answer.locator(".cm-yours")).to_have_count(0)


def test_an_answer_that_was_cut_goes_on(chat):
    go_on = chat.get_by_role("button", name="Go on with this answer").last
    count = chat.locator(".cm-count").last
    for answers in range(1, 9):  # now and then the tiny model ends by itself
        say(chat, "hello", answers)
        expect(count).to_contain_text("tokens")
        if count.inner_text().startswith("16 "):
            break
    go_on.click()
    expect(count).not_to_contain_text("16 tokens")
    assert int(count.inner_text().split()[0]) > 16


def test_the_conversation_is_saved_as_page_and_for_the_terminal(chat, tmp_path):
    say(chat, "keep <b>this</b>")
    saved = {}
    for kind in ("markdown", "html", "json"):
        chat.get_by_role("button", name="Save this conversation").click()
        with chat.expect_download() as waiting:
            chat.locator(f"#save-{kind}").click()
        saved[kind] = tmp_path / waiting.value.suggested_filename
        waiting.value.save_as(saved[kind])
    messages = json.loads(saved["json"].read_text())["messages"]
    assert messages[0] == {"role": "user", "content": "keep <b>this</b>"}
    page = saved["html"].read_text()
    assert "<b>this</b>" not in page
    assert "default-src 'none'" in page
    assert saved["markdown"].read_text().startswith("# keep")
