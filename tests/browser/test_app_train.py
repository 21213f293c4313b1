"""The Train tab in a browser: from a text to somebody to talk to."""

import shutil

import pytest
from playwright.sync_api import expect

import tests.hub_server as hub_server
from app.remedies import LABELS
from tests.hub_store import Stored

pytestmark = pytest.mark.browser

expect.set_options(timeout=20_000)

ATTACK = "<img/src=x/onerror=document.title='hacked'>"

DROP = """async ([names, name]) => {
  const files = names.map((n, i) => ({
    isFile: true, name: n,
    file: (done) => done(new File([`Note ${i} of the week.\\n`.repeat(20)], n)),
  }));
  const left = [files.slice(0, 100), files.slice(100), []];
  const folder = {
    isDirectory: true, name,
    createReader: () => ({ readEntries: (done) => done(left.shift()) }),
  };
  const event = new Event("drop", { bubbles: true, cancelable: true });
  Object.defineProperty(event, "dataTransfer", {
    value: { items: [{ webkitGetAsEntry: () => folder }] },
  });
  document.querySelector("#files button").dispatchEvent(event);
}"""
"""A folder that is dropped: no driver can drop a real one."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("train")


@pytest.fixture(scope="module")
def address(serving, runs, tiny_folder):
    return serving("app", "--runs", runs, "--model", tiny_folder())


@pytest.fixture(scope="module")
def parrot(serving, tmp_path_factory, trained):
    folder = tmp_path_factory.mktemp("talked")
    shutil.copytree(trained(), folder / "notes")
    (folder / "broken").mkdir()
    (folder / "broken" / "comigs.json").write_text("{}")
    return serving("tests.app.parrot_page", folder, 0.002)


@pytest.fixture
def tab(screen):
    def show(address, **options):
        page = screen(address, **options)
        page.get_by_role("tab", name="Train", exact=True).click()
        return page

    return show


def check(page, path):
    page.locator("#data-path textarea, #data-path input").first.fill(str(path))
    page.locator("#check").click()


def test_from_a_text_to_somebody_to_talk_to(tab, address, runs, text_folder):
    page = tab(address)
    check(page, text_folder)
    page.locator("#found").get_by_text("250 notes, ").wait_for()
    page.locator("#to-model").click()
    page.locator("#base label.selected").get_by_text("On this machine").wait_for()
    page.locator("#to-learn").click()
    expect(page.locator("#plan label.selected")).to_contain_text("Normal")
    expect(page.locator("#run-name input, #run-name textarea")).to_have_value("mine")
    page.locator("#more-options").get_by_text("More options").click()
    page.locator("#option-steps input").fill("4")
    page.locator("#option-seq_len input").fill("16")
    page.locator("#option-report_every input").fill("2")
    page.locator("#option-report_every input").press("Tab")
    page.locator("#cost").get_by_text("router will not be trained").wait_for()
    page.locator("#start").click()
    state = page.locator("#state")
    state.get_by_text("mine is learning").wait_for()
    state.get_by_text("mine has learnt").wait_for(timeout=60_000)
    page.locator("#answers").get_by_text("After").wait_for()
    page.get_by_text("Curves", exact=True).click()
    page.locator("#plots svg path.cm-line-a").first.wait_for()
    page.locator("#talk-to-it").click()
    expect(page.locator("#message textarea")).to_be_visible()
    chosen = page.locator(".cm-card[aria-checked=true]")
    expect(chosen).to_contain_text("mine")
    assert (runs / "mine" / "specialist" / "experts.safetensors").is_file()


def test_a_training_is_found_again_after_a_reload_and_stopped(
    tab, address, runs, text_folder
):
    page = tab(address)
    check(page, text_folder)
    page.locator("#to-model").click()
    page.locator("#base label.selected").wait_for()
    page.locator("#to-learn").click()
    page.locator("#plan label.selected").wait_for()
    page.locator("#run-name input, #run-name textarea").first.fill("long")
    page.locator("#more-options").get_by_text("More options").click()
    page.locator("#option-steps input").fill("100000")
    page.locator("#option-seq_len input").fill("16")
    page.locator("#option-seq_len input").press("Tab")
    page.locator("#start").click()
    page.locator("#state").get_by_text("long is learning").wait_for()
    page.locator("#state").get_by_text(" left").wait_for(timeout=60_000)
    page.reload()
    page.get_by_role("tab", name="Train", exact=True).click()
    page.locator("#state").get_by_text("long is learning").wait_for()
    page.locator("#stop-training").click()
    page.locator("#state").get_by_text("long has learnt a part").wait_for(
        timeout=30_000
    )
    expect(page.locator("#talk-to-it")).to_be_visible()
    assert (runs / "long" / "specialist" / "experts.safetensors").is_file()
    page.locator("#teach-another").click()
    expect(page.locator("#check")).to_be_visible()


def test_who_somebody_is_is_asked_where_nothing_tells(tab, parrot, tmp_path):
    days = [
        f"[{day:02}.03.26, 08:{minute}:00] {who}: {text} {day}\n"
        for day in range(1, 21)
        for minute, who, text in ((10, ATTACK, "Is the pump"), (11, "Ann", "It runs"))
    ]
    (tmp_path / "chat.txt").write_text("".join(days))
    page = tab(parrot)
    check(page, tmp_path / "chat.txt")
    who = page.locator("#option-me")
    who.get_by_label("Ann (20 messages)").check()
    assert ATTACK in who.inner_text()
    assert page.locator("#to-model").is_disabled()
    page.locator("#me").click()
    page.locator("#found").get_by_text("You are Ann, with 20 messages.").wait_for()
    expect(page.locator("#to-model")).to_be_enabled()
    assert page.locator("#steps img").count() == 0


def test_a_dropped_folder_is_read_with_all_its_files(tab, parrot):
    page = tab(parrot)
    page.locator("#files input[type=file]").wait_for(state="attached")
    names = [*(f"note{i}.txt" for i in range(118)), "note1.txt", ".hidden.txt"]
    page.evaluate(DROP, [names, "Notes"])
    expect(page.locator("#files .file")).to_have_count(119)
    page.locator("#check").click()
    page.locator("#found").get_by_text("119 notes, ").wait_for()


def test_a_text_that_cannot_be_read_is_told_where_it_was_named(tab, parrot, tmp_path):
    page = tab(parrot)
    page.locator("#check").click()
    page.get_by_text("Name a folder or file, or add files.").wait_for()
    expect(page.locator("#data-path")).to_be_visible()
    (tmp_path / "one.txt").write_text("word\n")
    check(page, tmp_path)
    page.locator("#found").get_by_text("too little to learn from").wait_for()
    assert page.locator("#to-model").is_disabled()


def test_an_error_has_a_button_that_mends_it(tab, parrot, tmp_path):
    page = tab(parrot)
    assert sorted(page.evaluate("window.comigs.remedies")) == sorted(LABELS)
    check(page, tmp_path / "nowhere")
    found = page.locator("#found .cm-problem")
    found.get_by_role("button", name="Choose another text").press("Enter")
    box = page.locator("#data-path textarea, #data-path input").first
    expect(box).to_be_focused()
    page.locator("#check").click()  # the same again: it is still told
    expect(found).to_be_visible()
    page.get_by_role("tab", name="Chat", exact=True).click()
    page.get_by_role("radio", name="broken").click()
    page.locator("#message textarea").fill("hello")
    page.locator("#message textarea").press("Enter")
    toast = page.locator(".toast-body")
    expect(toast).to_contain_text("broken cannot be used")
    toast.get_by_role("button", name="Choose who you talk to").click()
    expect(page.get_by_role("radio", name="broken")).to_be_focused()
    expect(toast).to_have_count(0)
    page.keyboard.press("ArrowUp")  # to another card, which is chosen then
    expect(page.get_by_role("radio", name="notes")).to_be_checked()


def test_a_model_of_the_hub_is_downloaded_before_the_page(
    tab, serving, tiny_folder, text_folder, tmp_path
):
    with hub_server.Server() as hub:
        files = {
            file.name: Stored(file.read_bytes(), file.suffix == ".safetensors")
            for file in tiny_folder().iterdir()
        }
        hub.store.create("ann/tiny", "ann").commit("main", "ann", "a", "", files)
        slow = hub_server.Fault("GET /ann/tiny/resolve/.*safetensors", "stall")
        slow.seconds = 5.0
        hub.faults.append(slow)
        address = serving(
            *("tests.app.parrot_page", tmp_path, 0),
            HF_ENDPOINT=hub.url,
            HF_HUB_CACHE=str(tmp_path / "cache"),
            HF_HUB_DISABLE_XET="1",
        )
        page = tab(address)
        check(page, text_folder)
        page.locator("#to-model:enabled").click()
        page.locator("#base label.selected").wait_for()
        page.locator("#another > button").click()
        page.locator("#named-model input, #named-model textarea").fill("ann/tiny")
        page.locator("#find-model").click()
        card = page.locator("#base label.selected")
        expect(card).to_contain_text("to download")
        page.locator("#to-learn").click()
        toast = page.locator(".toast-body")
        expect(toast).to_contain_text("is not here yet")
        toast.get_by_role("button", name="Download it").click()
        bar = page.locator("#fetching progress")
        expect(bar).to_be_visible()
        expect(page.locator("#fetching")).to_contain_text("of tiny")
        expect(page.locator("#cancel-fetch")).to_be_visible()
        expect(card).to_contain_text("On this machine", timeout=60_000)
        expect(page.locator("#fetching")).to_contain_text("tiny is here.")
        expect(page.locator("#fetch")).to_be_hidden()
        page.locator("#to-learn").click()
        expect(page.locator("#plan label.selected")).to_contain_text("Normal")


def test_a_training_that_is_there_is_shown_and_asked(tab, parrot):
    page = tab(parrot)
    page.locator("#show-trainings").click()
    page.locator("#training input").click()
    page.get_by_role("option", name="notes").click()
    page.locator("#state").get_by_text("notes has learnt").wait_for()
    page.locator("#sample-question textarea").fill("say <b>bold</b>")
    page.locator("#ask-sample").click()
    after = page.locator("#answers .cm-answer").nth(1)
    expect(after).to_contain_text("<b>bold</b>")
    assert page.locator("#answers b").count() == 0
