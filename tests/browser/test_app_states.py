"""Train and Share from the first step to the last by keyboard alone, seen by axe.

Each state is reached once; then the window's width and the colours are switched.
"""

import json
import shutil

import pytest
from playwright.sync_api import expect

from comigs_mlx import sync
from tests.browser.test_app_page import FADED, WIDTHS

pytestmark = pytest.mark.browser

TOLD = """
window.told = [];
window.Notification = class extends window.Notification {
  constructor(title, options) { super(title, options); window.told.push(options.body); }
};
Object.defineProperty(document, "hidden", { get: () => Boolean(window.away) });
"""
"""What the browser shows is kept, and whether the page is in sight is the test's."""


@pytest.fixture(autouse=True)
def _patient():
    """Trainings take their time on a busy machine."""
    expect.set_options(timeout=60_000)
    yield
    expect.set_options(timeout=20_000)


SEEN = ["color-contrast", "scrollable-region-focusable", "target-size"]
"""Rules of axe whose answer depends on the window's width or the colours."""

ID = "0123456789abcdef" * 2


class Walk:
    """Somebody with a keyboard, and what axe finds on their way."""

    def __init__(self, page):
        self.page, self.found = page, {}
        page.locator("#side .toggle-button").click()  # it would cover a phone's page
        page.evaluate("document.activeElement.blur()")

    def to(self, selector, most=120):
        """Press Tab until something has the focus."""
        for _ in range(most):
            self.page.keyboard.press("Tab")
            here = "(selector) => document.activeElement.matches(selector)"
            if self.page.evaluate(here, selector):
                return
        raise AssertionError(f"Tab does not lead to {selector}")

    def press(self, selector, key="Enter"):
        self.to(selector)
        self.page.keyboard.press(key)

    def fill(self, selector, text):
        self.to(selector)
        self.page.keyboard.press("ControlOrMeta+a")
        self.page.keyboard.type(str(text))

    def kept(self):
        """The focus has not fallen out of the page with what was pressed."""
        self.page.wait_for_function("document.activeElement !== document.body")
        inside = "document.activeElement.closest('#tabs') !== null"
        assert self.page.evaluate(inside), self.page.evaluate(
            "document.activeElement.outerHTML.slice(0, 200)"
        )

    def see(self, state):
        """Look at a state at every width, light and dark."""
        self.kept()
        for scheme in ("light", "dark"):
            self.page.evaluate(
                "(dark) => document.body.classList.toggle('dark', dark)",
                scheme == "dark",
            )
            for width in WIDTHS:
                self.page.set_viewport_size({"width": width, "height": 844})
                self.page.evaluate(FADED)
                whole = (width, scheme) == (WIDTHS[0], "light")
                self._audit(f"{state}, {width}, {scheme}", whole)
        self.page.evaluate("document.body.classList.remove('dark')")
        self.page.set_viewport_size({"width": 1440, "height": 900})

    def _audit(self, where, whole):
        """What axe finds; once a state is known, what width and colours can change."""
        from axe_playwright_python.sync_playwright import Axe

        rest = {} if whole else {"runOnly": SEEN}
        over = "document.documentElement.scrollWidth - window.innerWidth"
        if (wide := self.page.evaluate(over)) > 0:
            self.found[f"{where}: too wide"] = wide
        options = {"resultTypes": ["violations"], **rest}
        for one in Axe().run(self.page, None, options).response["violations"]:
            nodes = [n["html"][:160] for n in one["nodes"]]
            self.found[f"{where}: {one['id']}"] = nodes

    def end(self):
        assert self.found == {}, json.dumps(self.found, indent=1)


@pytest.fixture
def walk(screen):
    def begin(address, tab):
        page = screen(address, apart=True)
        page.context.grant_permissions(["notifications"])
        page.add_init_script(TOLD)
        page.reload()
        page.locator(".cm-standing[data-state=ready]").wait_for(timeout=60_000)
        walk = Walk(page)
        walk.press(f"[data-tab-id={tab}]")
        return walk

    return begin


def test_train_in_a_federation_from_a_text_to_somebody_to_talk_to(
    walk, serving, tiny_folder, text_folder, trained, tmp_path
):
    pool, runs = tmp_path / "pool", tmp_path / "runs"
    first = shutil.copytree(trained(), tmp_path / "first")
    sync.main(["init", "--run", str(first), "--federation", str(pool)])
    walk = walk(serving("app", "--runs", runs, "--model", tiny_folder()), "train")
    page = walk.page
    walk.fill("#data-path input, #data-path textarea", text_folder)
    walk.press("#check")
    page.locator("#found").get_by_text("250 notes, ").wait_for()
    walk.see("check")
    walk.press("#to-model")
    page.locator("#base label.selected").wait_for()
    walk.see("model")
    walk.press("#to-learn")
    page.locator("#plan label.selected").wait_for()
    walk.press("#with-others > button")
    walk.to("#with-whom input")
    page.keyboard.press("ArrowDown")
    page.locator("#learn-federation").wait_for()
    walk.fill("#learn-federation input, #learn-federation textarea", pool)
    walk.fill("#learn-participant input, #learn-participant textarea", "ann")
    walk.press("#more-options > button")
    for name, value in (("steps", 2000), ("seq_len", 16), ("report_every", 2)):
        walk.fill(f"#option-{name} input", value)
    walk.see("learn")
    walk.press("#start")
    state = page.locator("#state")
    state.get_by_text("mine is learning").wait_for()
    walk.see("running")
    expect(state).to_contain_text(" left", timeout=120_000)
    page.evaluate("window.away = true")
    walk.press("#stop-training")
    state.get_by_text("mine has learnt a part").wait_for(timeout=120_000)
    walk.kept()
    page.wait_for_function("window.told.length > 0")
    assert page.evaluate("window.told") == [
        "mine has learnt a part: you can talk to it."
    ]
    page.evaluate("window.away = false")
    page.locator("#answers").get_by_text("After").wait_for()
    walk.see("done")
    assert json.loads((pool / "round.json").read_text())["round"] > 0  # it was sent
    walk.press("#talk-to-it")
    expect(page.locator(".cm-card[aria-checked=true]")).to_contain_text("mine")
    walk.end()


def test_share_from_a_new_federation_to_did_it_help(walk, serving, trained, tmp_path):
    runs, pool = tmp_path / "ann", tmp_path / "pool"
    shutil.copytree(trained(), runs / "notes")
    walk = walk(serving("tests.app.parrot_page", runs, 0), "share")
    page = walk.page
    walk.see("start")
    walk.fill("#paste textarea", f"comigs invitation to {pool}, base model x, id {ID}")
    expect(page.locator("#invited")).to_contain_text("You are invited to")
    walk.fill("#new-address input, #new-address textarea", pool)
    walk.fill("#new-name input, #new-name textarea", "ann")
    walk.press("#look-new")
    expect(page.locator("#leaving-new")).to_contain_text("leaves this machine")
    walk.press("#leaving-new summary")
    walk.see("invited, and what leaves")
    walk.press("#create")
    expect(page.locator("#done")).to_contain_text("Your federation is there")
    walk.kept()
    expect(page.locator("#share-time")).to_contain_text("about ")
    walk.press("#noise > button")
    walk.press("#noisy input", " ")
    walk.press("#invite > button")
    walk.see("created")
    walk.fill("#steps input", "2")
    walk.press("#next")
    expect(page.locator("#done")).to_contain_text("is learning now")
    expect(page.locator("#next")).to_have_text("Show what leaves", timeout=180_000)
    walk.kept()
    walk.press("#next")
    expect(page.locator("#leaving")).to_contain_text("There is noise on what leaves")
    walk.press("#leaving summary")
    walk.see("what leaves")
    walk.press("#next")
    expect(page.locator("#done")).to_contain_text("Sent to round 1 as ann")
    walk.kept()
    kept = json.loads((runs / "notes" / "federation.json").read_text())
    assert kept["privacy"]["noise"] == 1.0
    walk.press("#measure")
    expect(page.locator("#measure")).to_have_text("Find out", timeout=180_000)
    expect(page.locator("#history")).to_contain_text("guessing your own held-out text")
    walk.see("history")
    walk.press("#history button[data-back]", " ")
    expect(page.locator("#done")).to_contain_text("has again what it had before")
    walk.kept()
    walk.end()
