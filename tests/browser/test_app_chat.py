"""The Chat tab in a browser, with a run of the tiny model."""

import json
import shutil

import pytest

from comigs_mlx.inference.trace import from_json

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(serving, trained, tiny_folder, tmp_path_factory):
    runs = tmp_path_factory.mktemp("chat")
    shutil.copytree(trained(), runs / "notes")
    return serving("app", "--runs", runs, "--model", tiny_folder())


@pytest.fixture
def chat(screen, address):
    page = screen(address)
    return page


def say(page, text, answers=1):
    page.locator("#message textarea").fill(text)
    page.locator("#message textarea").press("Enter")
    page.locator(".cm-reply .cm-note").nth(answers - 1).wait_for()


def shorten(page, tokens=24):
    page.get_by_text("Settings", exact=True).first.click()
    box = page.get_by_label("number input for Max tokens").first
    box.fill(str(tokens))
    box.press("Tab")


def test_an_answer_is_tinted_and_each_token_explained(chat):
    shorten(chat)
    say(chat, "hello")
    tokens = chat.locator(".cm-token")
    assert 1 <= tokens.count() <= 24
    note = chat.locator(".cm-note").inner_text()
    assert "% specialist" in note
    tokens.nth(0).click()
    panel = chat.locator(".cm-detail")
    assert "specialist, all layers" in panel.inner_text()
    assert panel.locator(".cm-chart g").count() == 2  # the tiny model's layers
    assert panel.locator(".cm-alternatives li").count() == 5
    if tokens.count() > 1:
        chat.keyboard.press("ArrowRight")
        assert tokens.nth(1).get_attribute("aria-selected") == "true"
        assert tokens.nth(0).get_attribute("aria-selected") is None


def test_a_conversation_fits_its_window(chat):
    shorten(chat)
    say(chat, "hello")
    chat.get_by_text("Settings", exact=True).first.click()
    chat.wait_for_function("document.documentElement.scrollHeight <= 900")


def test_the_layer_slider_changes_the_tint(chat):
    shorten(chat)
    say(chat, "hello")
    slider = chat.locator(".cm-layer input").first
    slider.focus()
    slider.press("ArrowRight")
    assert chat.locator(".cm-layer output").first.inner_text() == "layer 0"
    slider.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "layer 1"
    legend = chat.locator(".cm-legend").first.inner_text()
    assert "generalist (everyone)" in legend
    assert "specialist (me)" in legend


def test_who_speaks_can_be_switched(chat):
    shorten(chat)
    for name, note in [
        ("Specialist", "100 % specialist"),
        ("Generalist", "0 % specialist"),
        ("Base", "the base model alone"),
        ("Blend", "50 % specialist"),
    ]:
        chat.locator("#experts").get_by_label(name, exact=True).check()
        say(chat, "hello")
        assert chat.locator(".cm-note").inner_text().startswith(note)
        chat.locator("#clear").click()
        chat.locator(".cm-user").wait_for(state="detached")


def test_edit_retry_and_clear(chat):
    shorten(chat)
    say(chat, "first")
    say(chat, "second", 2)
    old = chat.locator(".cm-reply .cm-note").nth(1).element_handle()
    chat.get_by_role("button", name="Answer once more").click()
    old.wait_for_element_state("hidden")
    chat.locator(".cm-reply .cm-note").nth(1).wait_for()
    assert chat.locator(".cm-user").count() == 2
    chat.get_by_role("button", name="Edit this message").first.click()
    chat.get_by_role("textbox", name="Your message").fill("changed")
    chat.get_by_role("button", name="Answer the edited message").click()
    chat.locator(".cm-user").nth(1).wait_for(state="detached")
    chat.locator(".cm-reply .cm-note").wait_for()
    assert chat.locator(".cm-user .cm-text").inner_text() == "changed"
    chat.locator("#clear").click()
    chat.locator(".cm-user").wait_for(state="detached")


def test_a_reload_finds_the_conversation_again(chat):
    shorten(chat)
    say(chat, "remember me")
    said = chat.locator(".cm-tokens").inner_text()
    chat.reload()
    chat.locator(".cm-reply .cm-note").wait_for()
    assert chat.locator(".cm-user .cm-text").inner_text() == "remember me"
    assert chat.locator(".cm-tokens").inner_text() == said


def test_another_page_has_a_conversation_of_its_own(chat, screen, address):
    shorten(chat)
    say(chat, "mine alone")
    other = screen(address)
    assert other.locator(".cm-user").count() == 0


def test_the_conversation_is_saved_as_page_and_trace(chat, screen, tmp_path):
    shorten(chat)
    say(chat, "keep <b>this</b>")
    with chat.expect_download() as waiting:
        chat.locator("#save-json").click()
    waiting.value.save_as(tmp_path / "trace.json")
    trace = from_json(json.loads((tmp_path / "trace.json").read_text()))
    assert trace.tokens[0].text == "keep <b>this</b>"
    assert trace.experts == ["generalist", "specialist"]
    with chat.expect_download() as waiting:
        chat.locator("#save-html").click()
    waiting.value.save_as(tmp_path / "conversation.html")
    text = (tmp_path / "conversation.html").read_text()
    assert "keep <b>this</b>" not in text
    assert "default-src 'none'" in text
