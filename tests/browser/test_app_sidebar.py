"""The sidebar in a browser: who is talked to, the chats, tabs with addresses."""

import shutil

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def runs(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sidebar")
    for name in ("notes", "letters"):
        shutil.copytree(trained(), folder / name)
    return folder


@pytest.fixture(scope="module")
def address(serving, runs):
    return serving("tests.app.parrot_page", runs, 0.0)


@pytest.fixture
def page(screen, address):
    return screen(address)


def say(page, text):
    page.locator("#message textarea").fill(text)
    page.locator("#message textarea").press("Enter")
    page.locator(".cm-reply:not(.cm-live) .cm-figures").last.wait_for()


def entry(page, title):
    return page.locator(".cm-days li").filter(has_text=title)


def more(page, title, act):
    entry(page, title).hover()
    entry(page, title).get_by_label(f"More for {title}").click()
    entry(page, title).get_by_role("button", name=act, exact=True).click()


def test_the_chosen_card_answers_and_a_reload_keeps_it(page):
    for name in ("letters", "notes"):
        page.get_by_role("radio", name=name).click()
        expect(page.locator("#message textarea")).to_have_attribute(
            "placeholder", f"Message {name}"
        )
    page.get_by_role("radio", name="letters").click()
    say(page, f"who are you {page.url}")
    expect(page.locator(".cm-reply").last).to_have_attribute(
        "aria-label", "Together · letters"
    )
    page.reload()
    card = page.get_by_role("radio", name="letters")
    expect(card).to_have_attribute("aria-checked", "true")


AT_ONCE = """async (words) => {
  const box = document.querySelector("#message textarea");
  box.value = words;
  box.dispatchEvent(new Event("input", { bubbles: true }));
  await new Promise(requestAnimationFrame); // the message is the box's now
  document.querySelector('.cm-card[data-name="notes"]').click();
  const init = { key: "Enter", code: "Enter", bubbles: true, cancelable: true };
  box.dispatchEvent(new KeyboardEvent("keypress", init));
}"""


def test_who_was_chosen_the_moment_before_answers(page):
    page.get_by_role("radio", name="letters").click()
    placeholder = page.locator("#message textarea[placeholder='Message letters']")
    expect(placeholder).to_be_visible()
    page.evaluate(AT_ONCE, f"and you {page.url}")
    expect(page.locator(".cm-reply").last).to_have_attribute(
        "aria-label", "Together · notes"
    )
    expect(page.get_by_role("radio", name="notes")).to_be_checked()


def test_cards_are_chosen_by_arrows(page):
    cards = page.locator(".cm-card")
    page.get_by_role("radio", name="Untrained model").click()
    page.keyboard.press("ArrowDown")  # round to the first
    expect(cards.first).to_be_focused()
    expect(cards.first).to_have_attribute("aria-checked", "true")


def test_a_chat_is_named_found_saved_deleted_and_had_back(page):
    say(page, "plans for the boat")
    page.get_by_role("button", name="New chat").click()
    expect(page.locator(".cm-user")).to_have_count(0)
    say(page, "a letter to Ann")
    more(page, "plans for the boat", "Rename")
    page.get_by_label("Name of the chat").fill("<b>Boat</b>")
    page.keyboard.press("Enter")
    expect(entry(page, "<b>Boat</b>")).to_have_count(1)
    page.get_by_label("Search chats").fill("plans for")
    expect(page.locator(".cm-days li")).to_have_count(1)
    hit = page.locator(".cm-hit")
    expect(hit).to_contain_text("plans for the boat")
    assert hit.locator("mark").all_inner_texts() == ["plans", "for"]
    with page.expect_download() as waiting:
        more(page, "<b>Boat</b>", "Save as Markdown")
    assert waiting.value.suggested_filename.endswith(".md")
    more(page, "<b>Boat</b>", "Delete")
    expect(entry(page, "<b>Boat</b>")).to_have_count(0)
    page.locator(".cm-undo").get_by_role("button", name="Undo").click()
    entry(page, "<b>Boat</b>").get_by_role("button", name="<b>Boat</b>").first.click()
    expect(page.locator(".cm-user")).to_contain_text("plans for the boat")


def test_tabs_have_addresses_that_back_knows(page):
    page.get_by_role("tab", name="Train", exact=True).click()
    page.get_by_role("tab", name="Share", exact=True).click()
    assert page.url.endswith("#share")
    page.go_back()
    chosen = page.locator("#tabs > .tab-wrapper [aria-selected=true]")
    expect(chosen).to_have_text("Train")
    page.reload()
    expect(chosen).to_have_text("Train")


def test_on_a_phone_it_opens_and_goes_when_somebody_is_chosen(screen, address):
    page = screen(address, viewport={"width": 390, "height": 844})
    side = page.locator("#side")
    expect(side).not_to_have_class("open")
    expect(page.locator("#message textarea")).to_be_in_viewport()
    page.get_by_role("button", name="Toggle Sidebar").click()
    page.get_by_role("radio", name="notes").click()
    expect(page.locator("#side.open")).to_have_count(0)


def test_with_keep_nothing_a_chat_is_no_file(page, runs):
    page.get_by_label("Keep nothing").check()
    say(page, "do not write this down")
    expect(entry(page, "do not write this down")).to_contain_text("not kept")
    page.get_by_role("button", name="New chat").click()
    page.get_by_label("Keep nothing").uncheck()
    say(page, "this may be written")
    expect(entry(page, "this may be written")).not_to_contain_text("not kept")
    texts = [f.read_text() for f in runs.glob(".conversations/*/conversation.json")]
    assert any("this may be written" in text for text in texts)
    assert not any("do not write" in text for text in texts)
