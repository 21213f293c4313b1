"""Compare, Look at a text and the drawer in a browser, on an engine of plain data."""

import json
import shutil

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

expect.set_options(timeout=20_000)

ATTACK = "<img/src=x/onerror=document.title='hacked'>"
SETTLED = (
    "() => Promise.allSettled(document.getAnimations().map((one) => one.finished))"
)


@pytest.fixture(scope="module")
def address(serving, trained, tmp_path_factory):
    runs = tmp_path_factory.mktemp("views")
    for name in ("letters", "notes"):
        shutil.copytree(trained(), runs / name)
    return serving("tests.app.parrot_page", runs, 0, 9)


@pytest.fixture
def page(screen, address):
    return screen(address)


def show(page, name):
    page.evaluate(f"window.comigs.view('{name}')")
    expect(page.locator(f"#view-{name}")).to_be_visible()


def reload(page):
    page.reload()
    expect(page.locator("#message textarea")).to_be_visible()


def compare(page, text):
    """Four answers to a text; the cards."""
    page.evaluate("text => window.comigs.compare.open(text)", text)
    cards = page.locator(".cm-answer-card[data-state=done]")
    expect(cards).to_have_count(4)
    return cards


def look(page, text):
    """A text that has been looked at; its box."""
    page.evaluate("text => window.comigs.look.open(text)", text)
    return page.locator(".cm-reading")


def test_compare_is_used_by_keyboard_and_leads_back(page):
    page.locator("#message textarea").focus()
    show(page, "compare")
    expect(page.locator("#view-chat")).to_be_hidden()
    expect(page.get_by_label("Question")).to_be_focused()
    page.keyboard.type("one two three")
    page.keyboard.press("Enter")
    cards = page.locator(".cm-answer-card[data-state=done]")
    expect(cards).to_have_count(4)
    names = ["Untrained", "Only everyone", "Only me", "Together"]
    assert cards.locator("h3").all_inner_texts() == names
    boxes = [card.bounding_box() for card in cards.all()]
    assert len({(box["width"], box["height"]) for box in boxes}) == 1
    page.locator(".cm-back").first.press("Enter")
    expect(page.locator("#message textarea")).to_be_focused()
    reload(page)
    show(page, "compare")
    expect(cards).to_have_count(4)
    expect(page.get_by_label("Question")).to_have_value("one two three")


def test_only_what_both_said_is_tinted_and_only_when_wanted(page):
    cards = compare(page, "one two three")
    tinted = page.locator(".cm-four :is(.cm-mine, .cm-theirs)")
    expect(cards.nth(3).locator(".cm-split")).to_contain_text("% yours")
    expect(tinted.first).to_be_visible()
    assert cards.nth(2).locator(".cm-mine").count() == 0
    page.locator(".cm-compare .cm-switch").click()
    expect(tinted).to_have_count(0)
    reload(page)
    show(page, "compare")
    expect(cards).to_have_count(4)
    assert tinted.count() == 0


def test_the_drawer_explains_a_token_and_gives_the_focus_back(page):
    cards = compare(page, "one two three")
    cards.nth(3).locator(".cm-token").nth(1).click()
    drawer = page.locator(".cm-drawer")
    expect(drawer).to_contain_text("Token 2 of ")
    expect(drawer).to_contain_text("25 % yours, 75 % everyone's")
    expect(drawer.locator(".cm-layers li")).to_have_count(4)
    assert drawer.locator(".cm-others code").all_inner_texts() == ["two", "<i>"]
    page.keyboard.press("ArrowRight")
    expect(drawer).to_contain_text("Token 3 of ")
    token = cards.nth(3).locator(".cm-token").nth(2)
    expect(token).to_be_focused()
    page.keyboard.press("Enter")
    expect(drawer).to_be_focused()
    drawer.get_by_label("The token before").click()
    expect(drawer).to_contain_text("Token 2 of ")
    expect(drawer.get_by_label("The token before")).to_be_focused()
    page.keyboard.press("Escape")
    expect(drawer).to_be_hidden()
    expect(token).to_be_focused()


def test_a_phone_has_the_drawer_below_what_it_explains(screen, address):
    page = screen(address, viewport={"width": 390, "height": 844})
    cards = compare(page, "one two three")
    cards.nth(3).locator(".cm-token").first.click()
    drawer = page.locator(".cm-drawer")
    expect(drawer).to_contain_text("Token 1 of ")
    page.evaluate(SETTLED)
    sheet = drawer.bounding_box()
    assert sheet["x"] == 0
    assert sheet["width"] == 390
    assert sheet["y"] > 844 / 3
    token = cards.nth(3).locator(".cm-token").first.bounding_box()
    assert 0 <= token["y"] <= sheet["y"] - token["height"]


def test_a_text_is_looked_at(page):
    show(page, "look")
    expect(page.get_by_label("Text", exact=True)).to_be_focused()
    page.keyboard.type("a b c d")
    page.get_by_role("button", name="Look", exact=True).click()
    box = page.locator(".cm-reading")
    expect(box.locator(".cm-line")).to_have_text(
        "Untrained 2.72, everyone 3.72, you 4.72, together 5.72: lower is better"
    )
    assert box.locator(".cm-token").all_inner_texts() == ["a", "b", "c", "d"]
    classes = [
        box.locator(f".cm-token.cm-{side}").count() for side in ("theirs", "mine")
    ]
    assert classes == [2, 1]  # the third is half and half
    box.locator(".cm-map").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    said = '"b", layer 1: 25 % you, 75 % everyone'
    expect(box.locator(".cm-readout")).to_have_text(said)
    page.keyboard.press("Enter")
    drawer = page.locator(".cm-drawer")
    expect(drawer.locator(".cm-told dt")).to_have_count(4)
    expect(drawer.locator(".cm-layers .cm-chosen")).to_contain_text("Layer 1")
    box.get_by_text("How good could it be?").click()
    expect(box.locator(".cm-oracle p")).to_contain_text(
        "the better of you and everyone"
    )
    box.get_by_text("Numbers").click()
    shares = box.locator("tbody td:nth-child(2)").all_inner_texts()
    numbers = [int(share.split()[0]) for share in shares]
    assert numbers == sorted(numbers, reverse=True)


def test_the_last_answer_of_the_talk_can_be_looked_at(page):
    page.locator("#message textarea").fill("one two three")
    page.locator("#message textarea").press("Enter")
    expect(page.locator(".cm-talk .cm-prose")).to_contain_text("onetwothree")
    show(page, "look")
    page.get_by_role("button", name="Take the last answer").click()
    box = page.get_by_label("Text", exact=True)
    expect(box).to_have_value("onetwothree" * 3)
    expect(box).to_be_focused()


def test_two_are_looked_at_side_by_side(page):
    show(page, "look")
    page.get_by_text("Beside another text").click()
    page.get_by_label("Second text").fill("h g")
    page.get_by_label("Read by").select_option("notes")
    box = look(page, "a b c")
    expect(box).to_have_count(1)  # what is handed over is looked at alone
    page.get_by_role("button", name="Look", exact=True).click()
    expect(box).to_have_count(2)
    assert box.nth(1).locator("h3").inner_text() == "notes"
    assert box.nth(1).locator(".cm-token").all_inner_texts() == ["h", "g"]


def test_what_is_said_and_looked_at_stays_text(page):
    cards = compare(
        page, f"{ATTACK} [x](javascript:alert(1)) ![y](http://z.example/a.png)"
    )
    cards.nth(3).locator(".cm-token").first.click()
    expect(page.locator(".cm-drawer .cm-word")).to_contain_text(ATTACK)
    assert page.locator(".cm-four :is(img, script, a[href^=javascript])").count() == 0
    box = look(page, f"{ATTACK} b")
    box.locator(".cm-token").first.click()
    expect(page.locator(".cm-drawer .cm-word")).to_contain_text(ATTACK)
    assert page.locator(".cm-look img, .cm-drawer img").count() == 0
    assert page.title() == "comigs_mlx"


@pytest.mark.parametrize(("scheme", "width"), [("light", 1440), ("dark", 390)])
def test_axe_finds_nothing_and_nothing_is_too_wide(screen, address, scheme, width):
    from axe_playwright_python.sync_playwright import Axe

    page = screen(
        address, color_scheme=scheme, viewport={"width": width, "height": 900}
    )
    found = {}

    def check(what):
        page.evaluate(SETTLED)
        wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert wide <= 0, f"{what} is {wide} pixels too wide"
        for one in Axe().run(page).response["violations"]:
            nodes = [node["html"][:160] for node in one["nodes"]]
            if any("cm-" in node for node in nodes):
                found[f"{what}: {one['id']}"] = nodes

    cards = compare(page, "# one\n\n* two\n\n```\nthree\n```")
    cards.nth(3).locator(".cm-token").nth(1).click()
    expect(page.locator(".cm-drawer .cm-layers")).to_be_visible()
    check("compare")
    box = look(page, " ".join("abcdefghij" * 12))
    box.locator(".cm-token").nth(1).click()
    box.get_by_text("Numbers").click()
    expect(page.locator(".cm-drawer .cm-told")).to_be_visible()
    check("look")
    assert found == {}, json.dumps(found, indent=1)
