"""What outlives a reload, a closed tab, a restart, an edit; how tokens look."""

import re
import shutil

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def runs(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    shutil.copytree(trained(), folder / "notes")
    shutil.copytree(trained(), folder / "other")
    return folder


@pytest.fixture(scope="module")
def address(serving, runs):
    return serving("tests.app.parrot_page", runs, 0.002)


def say(page, text, answers=1):
    page.locator("#message textarea").fill(text)
    page.locator("#message textarea").press("Enter")
    page.locator(".cm-reply .cm-note").nth(answers - 1).wait_for()


def texts(page):
    return page.locator(".cm-user .cm-text").all_inner_texts()


def test_what_was_chosen_is_chosen_after_a_reload(screen, address):
    page = screen(address)
    page.locator("#run input").click()
    page.get_by_role("option", name="other").click()
    page.get_by_text("Settings", exact=True).first.click()
    page.get_by_label("System prompt").first.fill("Answer in French.")
    page.locator("#experts").get_by_label("Blend", exact=True).check()
    page.locator("#message textarea").fill("a draft <b>")
    for name, tab in (("#uri", "Share"), ("#data-path", "Train")):
        page.get_by_role("tab", name=tab, exact=True).click()
        page.locator(f"{name} textarea, {name} input").first.fill("hf://me/notes"[5:])
    page.wait_for_timeout(500)
    page.reload()
    expect(page.locator("#message textarea")).to_have_value("a draft <b>")
    chosen = page.locator("#experts input:checked")
    assert chosen.evaluate("e => e.parentElement.innerText.trim()") == "Blend"
    expect(page.locator("#run input")).to_have_value(re.compile("other"))
    page.get_by_text("Settings", exact=True).first.click()
    expect(page.get_by_label("System prompt").first).to_have_value("Answer in French.")
    page.get_by_role("tab", name="Train", exact=True).click()
    box = page.locator("#data-path textarea, #data-path input").first
    expect(box).to_have_value("me/notes")
    page.get_by_role("tab", name="Share", exact=True).click()
    expect(page.locator("#uri textarea, #uri input").first).to_have_value("me/notes")


def test_a_restart_loses_nothing(restarted, screen, runs, tmp_path):
    address, again = restarted("tests.app.parrot_page", tmp_path / "none", 0.002)
    page = screen(address)
    say(page, "remember me")
    said = page.locator(".cm-tokens").inner_text()
    again()
    page.wait_for_timeout(3000)  # Gradio reloads the page by itself
    page.goto(address)
    page.locator(".cm-reply .cm-note").wait_for()
    assert texts(page) == ["remember me"]
    assert page.locator(".cm-tokens").inner_text() == said


def test_a_closed_tab_is_found_in_the_list(screen, address):
    page = screen(address, apart=True)
    say(page, "the first one")
    other = page.context.new_page()
    other.goto(address)
    other.locator("#message textarea").wait_for()
    assert texts(other) == []
    other.locator(".cm-kept select").focus()
    option = other.locator(".cm-kept option", has_text="the first one").first
    other.locator(".cm-kept select").select_option(option.get_attribute("value"))
    expect(other.locator(".cm-user .cm-text")).to_have_text("the first one")
    other.get_by_role("button", name="Begin a new conversation").click()
    expect(other.locator(".cm-user")).to_have_count(0)
    say(other, "the second one")
    expect(page.locator(".cm-user .cm-text")).to_have_text("the first one")
    other.on("dialog", lambda dialog: dialog.accept())
    other.get_by_role("button", name="Delete this conversation for good").click()
    expect(other.locator(".cm-user")).to_have_count(0)
    other.locator(".cm-kept select").focus()
    gone = other.locator(".cm-kept option", has_text="the second one")
    expect(gone).to_have_count(0)
    other.close()


def test_another_browser_lists_nothing_of_it(screen, address):
    say(screen(address), "mine alone")
    other = screen(address)
    other.locator(".cm-kept select").focus()
    assert other.locator(".cm-kept option", has_text="mine alone").count() == 0


def test_two_tabs_of_one_conversation_show_the_same(screen, address):
    page = screen(address, apart=True)
    say(page, "shared")
    twin = page.context.new_page()
    twin.goto(address)
    ours = "sessionStorage.getItem('comigs-chat')"
    twin.evaluate(
        "id => sessionStorage.setItem('comigs-chat', id)", page.evaluate(ours)
    )
    twin.reload()
    expect(twin.locator(".cm-user .cm-text")).to_have_text("shared")
    page.locator("#clear").click()
    expect(twin.locator(".cm-user")).to_have_count(0)
    twin.close()


def test_an_edit_and_a_clear_can_be_undone_by_keyboard_and_button(screen, address):
    page = screen(address)
    say(page, "one")
    say(page, "two", 2)
    undo = page.get_by_role("button", name="Undo the last edit, retry or clear")
    expect(undo).to_be_hidden()
    box = page.get_by_role("textbox", name="Your message")
    edit = page.get_by_role("button", name="Edit this message").first
    edit.click()
    box.press("Escape")
    expect(box).to_have_count(0)
    edit.click()
    box.fill("changed")
    box.press("Shift+Enter")
    expect(box).to_be_visible()
    box.press("Control+Enter")
    expect(page.locator(".cm-user")).to_have_count(1)
    undo.click()
    expect(page.locator(".cm-user")).to_have_count(2)
    assert texts(page) == ["one", "two"]
    page.locator("#clear").click()
    expect(page.locator(".cm-user")).to_have_count(0)
    undo.click()
    expect(page.locator(".cm-user")).to_have_count(2)


def test_a_huge_paste_is_no_tower(screen, address):
    page = screen(address)
    say(page, "line " * 900)
    height = page.locator(".cm-user .cm-text").evaluate("e => e.clientHeight")
    assert height < 400
    say(page, "still alive", 2)


def test_right_to_left_begins_at_the_right(screen, address):
    page = screen(address)
    say(page, "\u0645\u0631\u062d\u0628\u0627 \u0643\u064a\u0641")
    for name in (".cm-user .cm-text", ".cm-tokens"):
        found = page.locator(name)
        assert found.evaluate("e => getComputedStyle(e).direction") == "rtl"


SHOWN = """tokens => {
  const { Tints, TokenList } = window.comigs;
  const box = document.createElement("div");
  const list = new TokenList(box, new Tints(box), ["generalist", "specialist"],
    ["model.layers.0.mlp"], "x", () => {});
  list.extend(tokens);
  list.end();
  const gain = +list.box.style.getPropertyValue("--gain");
  return list.spans.map((span, i) => ({ text: span.textContent,
    parts: list.tokens[i].parts, w: list.tokens[i].w,
    tint: gain * +span.style.getPropertyValue("--lean") }));
}"""


def test_a_token_without_text_joins_its_neighbour(screen, address):
    page = screen(address)
    made = page.evaluate(
        SHOWN,
        [
            {"text": "5", "w": [1000, 0], "alt": []},
            {"text": "", "own": "<0xF0>", "w": [1000, 0], "alt": []},
            {"text": "", "own": "<0x9F>", "w": [0, 1000], "alt": []},
            {"text": "🌟", "own": "<0x8C><0x9F>", "w": [500, 500], "alt": []},
            {"text": "", "own": "<eos>", "w": [0, 1000], "alt": []},
        ],
    )
    assert [one["text"] for one in made] == ["5", "🌟"]
    assert made[1]["parts"] == ["<0xF0>", "<0x9F>", "<0x8C><0x9F>", "<eos>"]
    assert made[1]["w"] == [375, 625]  # means of four


def test_a_router_that_never_learnt_looks_neutral(screen, address):
    page = screen(address)
    noise = [
        {"text": t, "w": w, "alt": []}
        for t, w in (("a", [490, 510]), ("b", [505, 495]))
    ]
    assert max(one["tint"] for one in page.evaluate(SHOWN, noise)) < 0.05
    clear = [{"text": "a", "w": [100, 900], "alt": []}]
    assert page.evaluate(SHOWN, clear)[0]["tint"] > 0.4


def test_a_trained_run_is_chosen_when_it_is_there(restarted, screen, trained, tmp_path):
    address, _ = restarted("tests.app.parrot_page", tmp_path / "runs", 0.002)
    page = screen(address)
    expect(page.locator("#advice")).to_contain_text("No run yet")
    shutil.copytree(trained(), tmp_path / "runs" / "mine")
    expect(page.locator("#run input")).to_have_value("mine · step 6")
    expect(page.get_by_text("mine is trained: chosen now.").first).to_be_visible()
    expect(page.locator("#advice")).not_to_contain_text("No run yet")
