"""Train and Share in a browser, with runs of the tiny model."""

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
