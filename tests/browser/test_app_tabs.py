"""Routing, Compare, Train and Share in a browser, with runs of the tiny model."""

import shutil

import pytest

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


def test_a_training_is_started_found_again_and_stopped(
    tab, runs, tiny_folder, text_folder
):
    page = tab("Train")
    page.locator("#run-name textarea, #run-name input").first.fill("fresh")
    page.locator("#data-path textarea, #data-path input").first.fill(str(text_folder))
    page.locator("#option-steps input").fill("100000")
    page.locator("#option-seq_len input").fill("16")
    page.locator("#preview").click()
    page.locator("#found table").wait_for()
    assert "200" in page.locator("#found").inner_text()
    page.get_by_text("More options").click()
    page.locator("#option-report_every input").fill("2")
    page.locator("#start").click()
    page.locator("#state").get_by_text("Training. It goes on").wait_for()
    page.locator("#plots svg path.cm-line-a").first.wait_for(timeout=60_000)
    page.reload()
    page.get_by_role("tab", name="Train", exact=True).click()
    page.locator("#state").get_by_text("Training. It goes on").wait_for()
    page.locator("#stop-training").click()
    page.locator("#state").get_by_text("Not training.").wait_for(timeout=30_000)
    # For a moment after a reload the page may show an answer that was under way before.
    saved = runs / "fresh" / "specialist" / "experts.safetensors"
    for _ in range(300):
        if saved.is_file():
            break
        page.wait_for_timeout(100)
    assert saved.is_file()
    page.locator("#state").get_by_text("Not training.").wait_for(timeout=30_000)
