"""What outlives a reload, a closed tab, a restart, an edit; how a talk goes."""

import re
import shutil

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

expect.set_options(timeout=20_000)


@pytest.fixture(scope="module")
def runs(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    shutil.copytree(trained(), folder / "notes")
    shutil.copytree(trained(), folder / "other")
    return folder


@pytest.fixture(scope="module")
def address(serving, runs):
    return serving("tests.app.parrot_page", runs, 0.002)


def send(page, text):
    page.locator("#message textarea").fill(text)
    page.locator("#message textarea").press("Enter")


def say(page, text, answers=1):
    send(page, text)
    expect(page.locator(".cm-reply:not(.cm-live)")).to_have_count(answers)


def short(page, tokens=16):
    """At most so many tokens an answer; the parrot says as many as it may."""
    page.get_by_role("button", name="Settings").click()
    box = page.get_by_label("number input for Max tokens").first
    box.fill(str(tokens))
    box.press("Tab")
    page.keyboard.press("Escape")


def texts(page):
    return page.locator(".cm-user .cm-text").all_inner_texts()


def test_what_was_chosen_is_chosen_after_a_reload(screen, address):
    page = screen(address)
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("System prompt").first.fill("Answer in French.")
    page.get_by_role("button", name="Settings").click()
    page.locator("#experts").get_by_text("Only me", exact=True).click()
    page.locator("#message textarea").fill("a draft <b>")
    for name, tab in (("#uri", "Share"), ("#data-path", "Train")):
        page.get_by_role("tab", name=tab, exact=True).click()
        page.locator(f"{name} textarea, {name} input").first.fill("hf://me/notes"[5:])
    page.wait_for_timeout(500)
    page.reload()
    page.get_by_role("tab", name="Chat", exact=True).click()
    expect(page.locator("#message textarea")).to_have_value("a draft <b>")
    expect(page.locator("#experts label.selected")).to_have_text("Only me")
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_label("System prompt").first).to_have_value("Answer in French.")
    page.get_by_role("tab", name="Train", exact=True).click()
    box = page.locator("#data-path textarea, #data-path input").first
    expect(box).to_have_value("me/notes")
    page.get_by_role("tab", name="Share", exact=True).click()
    expect(page.locator("#uri textarea, #uri input").first).to_have_value("me/notes")


def test_a_restart_loses_nothing(restarted, screen, runs, tmp_path):
    shutil.copytree(runs / "notes", tmp_path / "runs" / "notes")
    pages = []

    def gone():
        for page in pages:  # and no script has failed: see `screen`
            expect(page.locator(".cm-standing")).to_contain_text("does not answer")
            page.goto("about:blank")  # Gradio's own reload would cross the next one

    given = ("tests.app.parrot_page", tmp_path / "runs", 0.002)
    address, again = restarted(*given, ended=gone)
    page = screen(address)
    pages.append(page)
    short(page)
    say(page, "remember me")
    said = page.locator(".cm-prose").inner_text()
    again()
    page.goto(address)
    expect(page.locator(".cm-prose")).to_have_text(said)
    assert texts(page) == ["remember me"]
    page.locator(".cm-token").first.click()
    expect(page.locator(".cm-drawer")).to_contain_text("Token 1 of 16")


def test_a_closed_tab_is_opened_again_and_a_new_chat_is_empty(screen, address):
    page = screen(address, apart=True)
    short(page)
    say(page, "the first one")
    other = page.context.new_page()
    other.goto(address)
    expect(other.locator(".cm-welcome")).to_be_visible()
    name = page.evaluate("comigs.talks.id")
    told = other.evaluate_handle(
        "() => { const told = []; window.addEventListener('comigs:talk', "
        "(e) => told.push(e.detail)); return told; }"
    )
    other.evaluate("id => comigs.talks.open(id)", name)
    expect(other.locator(".cm-user .cm-text")).to_have_text("the first one")
    assert told.json_value()[-1] == {"id": name, "title": "the first one"}
    other.evaluate("comigs.talks.fresh()")
    expect(other.locator(".cm-user")).to_have_count(0)
    expect(other.locator("#message textarea")).to_be_focused()
    say(other, "the second one")
    assert texts(page) == ["the first one"]
    other.close()


def test_two_tabs_of_one_conversation_show_the_same(screen, address):
    page = screen(address, apart=True)
    short(page)
    say(page, "shared")
    twin = page.context.new_page()
    twin.goto(address)
    twin.locator(".cm-welcome").wait_for()
    twin.evaluate("id => comigs.talks.open(id)", page.evaluate("comigs.talks.id"))
    expect(twin.locator(".cm-user .cm-text")).to_have_text("shared")
    say(page, "and more", 2)
    expect(twin.locator(".cm-user")).to_have_count(2)
    twin.close()


def test_the_first_visit_says_what_can_be_said(screen, address):
    page = screen(address)
    expect(page.locator("#message textarea")).to_be_focused()
    expect(page.locator(".cm-welcome-lead mark")).to_have_text(
        ["everyone shares", "only you have"]
    )
    short(page)
    expect(page.locator(".cm-example")).to_have_count(3)
    page.locator(".cm-example").first.click()
    expect(page.locator(".cm-user")).to_have_count(1)
    expect(page.locator(".cm-welcome")).to_have_count(0)


def test_editing_by_keyboard_makes_a_branch_and_keeps_the_old(screen, address):
    page = screen(address)
    short(page)
    say(page, "one")
    say(page, "two", 2)
    message = page.locator("#message textarea")
    message.press("ArrowUp")  # the last message, as the box below is empty
    box = page.get_by_role("textbox", name="Your message")
    expect(box).to_have_value("two")
    box.press("Escape")
    expect(box).to_have_count(0)
    expect(message).to_be_focused()
    message.press("ArrowUp")
    box.fill("changed")
    box.press("Shift+Enter")
    expect(box).to_be_visible()
    box.press("Enter")
    expect(page.locator(".cm-user .cm-text").nth(1)).to_have_text("changed")
    expect(page.get_by_label("message 2 of 2")).to_be_visible()
    page.get_by_role("button", name="The message before").click()
    expect(page.locator(".cm-user .cm-text").nth(1)).to_have_text("two")
    expect(page.locator(".cm-reply")).to_have_count(2)


def test_a_retry_stands_beside_the_first_answer_and_both_are_rated(screen, address):
    page = screen(address)
    short(page)
    say(page, "one two")
    page.get_by_role("button", name="Answer once more").click()
    expect(page.get_by_label("answer 2 of 2")).to_be_visible()
    good = page.get_by_role("button", name="A good answer")
    good.click()
    expect(good).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="The answer before").click()
    expect(page.get_by_label("answer 1 of 2")).to_be_visible()
    expect(good).to_have_attribute("aria-pressed", "false")
    page.reload()
    page.get_by_role("button", name="The next answer").click()
    expect(good).to_have_attribute("aria-pressed", "true")


def test_one_button_sends_and_stops(screen, address):
    page = screen(address)
    short(page, 4096)
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    send(page, "on and on")
    stop = page.get_by_role("button", name="Stop")
    expect(stop).to_be_visible()
    expect(page.get_by_role("button", name="Send")).to_be_hidden()
    expect(page.locator(".cm-prose")).to_contain_text("on")
    send(page, "too early")  # told, and kept in the box
    expect(page.get_by_text("An answer is under way").first).to_be_visible()
    expect(page.locator("#message textarea")).to_have_value("too early")
    stop.click()
    expect(page.locator(".cm-remark")).to_have_text("stopped")
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_a_huge_paste_is_folded(screen, address):
    page = screen(address)
    short(page)
    say(page, "line " * 900)
    text = page.locator(".cm-user .cm-text")
    assert text.evaluate("e => e.clientHeight") < 200
    page.get_by_role("button", name="Show all 4,499 characters").click()
    assert text.evaluate("e => e.clientHeight") > 400
    page.get_by_role("button", name="Show less").click()
    assert text.evaluate("e => e.clientHeight") < 200


def test_right_to_left_begins_at_the_right(screen, address):
    page = screen(address)
    short(page)
    say(page, "\u0645\u0631\u062d\u0628\u0627 \u0643\u064a\u0641")
    for name in (".cm-user .cm-text", ".cm-block > p"):
        found = page.locator(name).first
        assert found.evaluate("e => getComputedStyle(e).direction") == "rtl"


def test_markdown_is_rendered_and_code_can_be_copied(screen, address):
    page = screen(address)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    short(page)
    say(page, "**bold**\n\n```python\nx=1<2\n```\n\n|a|b|\n|-|-|\n|1|2|\n\n\\\nend")
    answer = page.locator(".cm-prose")
    expect(answer.locator("strong").first).to_have_text("bold")
    expect(answer.locator("td").first).to_have_text("1")
    expect(answer.locator(".cm-code-head span").first).to_have_text("python")
    answer.get_by_role("button", name="Copy this code").first.click()
    expect(answer.get_by_role("button", name="Copied").first).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "x=1<2"
    page.get_by_role("button", name="Copy the answer").click()
    page.wait_for_function(
        "async () => (await navigator.clipboard.readText()).startsWith('**bold**')"
    )


LAID = """([html, marks]) => {
  const box = document.createElement("div");
  box.innerHTML = html;
  const before = box.textContent;
  comigs.lay(box, marks);
  const tokens = Array.from(box.querySelectorAll(".cm-token"), (span) =>
    [span.textContent, +span.dataset.piece, span.className.split(" ")[1] || "",
      span.style.getPropertyValue("--tint")]);
  const same = box.textContent === before;
  comigs.strip(box);
  return { tokens, same, back: box.innerHTML === html };
}"""


def test_marks_are_laid_over_what_was_rendered(screen, address):
    page = screen(address)
    html = '<p dir="auto">It is <strong>hot</strong> 🌟 dry</p>'
    marks = [[0, 2, 0, 0], [2, 8, 1, 71], [8, 10, 2, -30], [10, 15, 3, 0]]
    laid = page.evaluate(LAID, [html, marks])
    assert laid["tokens"] == [
        ["It", 0, "", ""],
        [" is ", 1, "cm-mine", "71"],
        ["ho", 1, "cm-mine", "71"],
        ["t", 2, "cm-theirs", "30"],
        [" ", 2, "cm-theirs", "30"],
        ["🌟 dr", 3, "", ""],
    ]
    assert (laid["same"], laid["back"]) == (True, True)


def test_who_spoke_is_shown_or_not_and_by_layer(screen, address):
    page = screen(address)
    short(page)
    say(page, "one two three four five")
    expect(page.locator(".cm-mine").nth(1)).to_be_visible()  # the router has learnt
    label = page.locator("#composer").get_by_text("Show who spoke")
    label.click()
    expect(page.locator(".cm-token")).to_have_count(0)
    page.reload()
    expect(page.locator(".cm-reply")).to_have_count(1)
    expect(page.locator("#show-who")).not_to_be_checked()
    label.click()
    expect(page.locator(".cm-token").first).to_be_visible()
    page.get_by_role("button", name="Save this conversation").click()
    page.get_by_label("Tint by").select_option("layer 2")
    expect(page.locator(".cm-token").first).to_be_visible()


def test_a_long_conversation_is_drawn_where_it_is_seen(screen, address):
    page = screen(address)
    short(page)
    for i in range(1, 7):  # the first answer is far above the window
        say(page, f"word{i} and" + "\n\nso on" * 40, i)
    page.reload()
    expect(page.locator(".cm-reply")).to_have_count(6)
    expect(page.locator(".cm-reply").last.locator(".cm-token").first).to_be_visible()
    first = page.locator(".cm-reply").first
    assert first.locator(".cm-token").count() == 0
    page.locator(".cm-feed").evaluate("e => e.scrollTo(0, 0)")
    expect(first.locator(".cm-token").first).to_be_visible()
    expect(first).to_contain_text("word1")
    page.get_by_role("button", name="To the end of the conversation").click()
    expect(first.locator(".cm-token")).to_have_count(0)  # given back


def test_a_trained_run_is_chosen_when_it_is_there(restarted, screen, trained, tmp_path):
    address, _ = restarted("tests.app.parrot_page", tmp_path / "runs", 0.002)
    page = screen(address)
    expect(page.locator(".cm-welcome")).to_contain_text("This is the model as it came")
    expect(page.locator("#experts")).to_be_hidden()
    shutil.copytree(trained(), tmp_path / "runs" / "mine")
    expect(page.locator(".cm-welcome h2")).to_have_text("Talk to mine")
    expect(page.locator("#experts")).to_be_visible()
    expect(page.locator("#message textarea")).to_have_attribute(
        "placeholder", re.compile("mine")
    )


def test_a_full_context_asks_before_it_leaves_turns_out(serving, screen, runs):
    address = serving("tests.app.parrot_page", runs, 0, 4, 3)
    page = screen(address)
    say(page, "first question")
    say(page, "second question", 2)
    send(page, "third question")
    asks = page.locator(".cm-asks")
    expect(asks).to_contain_text("the oldest 2 turns, up to “first question”")
    expect(page.locator(".cm-reply:visible")).to_have_count(2)
    page.reload()  # what waits goes on waiting
    asks.get_by_role("button", name="Ask in a new chat").click()
    expect(page.locator(".cm-reply:not(.cm-live)")).to_have_count(1)
    assert texts(page) == ["third question"]
    expect(asks).not_to_be_visible()
    page.locator(".cm-chat", has_text="first question").first.click()
    asks.get_by_role("button", name="Leave out the oldest 2 turns").press("Enter")
    expect(page.locator(".cm-reply:visible:not(.cm-live)")).to_have_count(3)
    expect(page.locator("#message textarea")).to_be_focused()
    expect(asks).not_to_be_visible()
    say(page, "fourth question", 4)  # and it is not asked again
    expect(asks).not_to_be_visible()
