"""Routing, Compare, Train and Share in a browser, with runs of the tiny model."""

import shutil

import pytest

from comigs_mlx import sync

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def runs(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tabs")
    shutil.copytree(trained(), folder / "notes")
    return folder


@pytest.fixture(scope="module")
def address(serving, runs, tiny_folder):
    return serving("app", "--runs", runs, "--model", tiny_folder())


@pytest.fixture
def tab(screen, address):
    def show(name):
        page = screen(address)
        page.get_by_role("tab", name=name, exact=True).click()
        return page

    return show


def test_routing_shows_where_each_token_went(tab):
    page = tab("Routing")
    page.locator("#routing-text textarea").fill("abc <i>")
    page.locator("#score").click()
    panel = page.locator(".cm-panel")
    panel.wait_for()
    assert panel.locator("tbody tr").count() == len("abc <i>")  # tokens are bytes
    assert "generalist" in panel.locator(".cm-soft").inner_text()
    panel.locator(".cm-map").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert panel.locator(".cm-readout").inner_text().startswith('"b", layer 1: ')
    shares = panel.locator("tbody td:nth-child(2)").all_inner_texts()
    numbers = [float(share.split()[0]) for share in shares]
    assert numbers == sorted(numbers, reverse=True)


def test_two_texts_side_by_side(tab):
    page = tab("Routing")
    page.locator("#routing-text textarea").fill("abc")
    page.get_by_text("Side by side with another text or run").click()
    page.get_by_label("Second text").fill("hgf")
    page.locator("#score").click()
    page.locator(".cm-panel").nth(1).wait_for()
    first = page.locator(".cm-panel").nth(1).locator("tbody code").all_inner_texts()
    assert sorted(first) == ['"f"', '"g"', '"h"']


def test_compare_answers_four_times(tab):
    page = tab("Compare")
    page.locator("#compare-prompt textarea").fill("hello")
    page.locator("#compare").click()
    view = page.locator(".cm-columns")
    view.locator(".cm-reply .cm-note").nth(3).wait_for()
    titles = view.locator(".cm-reply h3").all_inner_texts()
    assert [t.split(" ·")[0] for t in titles] == [
        "Base",
        "Generalist",
        "Specialist",
        "Mixture",
    ]
    tint = "node => getComputedStyle(node).getPropertyValue('--gain')"
    gains = view.locator(".cm-tokens").evaluate_all(
        "lists => lists.map(" + tint + ").map(Number)"
    )
    assert gains[1] == gains[2] == 0.5  # one side alone: the faintest scale
    assert gains[3] > 0.5  # the mixture's small leans are seen beside them
    assert (
        "full tint of each answer: 100 %, " in view.locator(".cm-legend").inner_text()
    )


def test_sharing_shows_what_would_leave_before_it_can(tab, runs, tmp_path, cli):
    uri = str(tmp_path / "federation")
    where = {"federation": uri, "run": runs / "notes"}
    assert cli(sync.main, "init", **where)[0] == 0
    page = tab("Share")
    page.locator("#uri textarea, #uri input").first.fill(uri)
    page.locator("#participant textarea, #participant input").first.fill("ann")
    push = page.locator("#push")
    assert push.is_disabled()
    page.locator("#status").click()
    page.locator("#federation dl").wait_for()
    assert "mean" in page.locator("#federation").inner_text()
    page.locator("#dry-run").click()
    page.locator("#leaving table").nth(2).wait_for()
    listed = page.locator("#leaving").inner_text()
    assert "adapters.safetensors" in listed
    assert "specialist" not in listed
    page.wait_for_function("!document.querySelector('#push').disabled")
    push.click()
    page.locator("#done").get_by_text("Contributed to round 1 as ann").wait_for()
    page.wait_for_function("document.querySelector('#push').disabled")


def test_sharing_explains_a_wrong_address(tab):
    page = tab("Share")
    page.locator("#uri textarea, #uri input").first.fill("/nowhere/at/all")
    page.locator("#status").click()
    page.locator("#federation .cm-problem").wait_for()
