"""Share in a browser: two people in one folder, each with an app of their own."""

import shutil

import pytest
from playwright.sync_api import expect

from comigs_mlx.federation import api

pytestmark = pytest.mark.browser


@pytest.fixture(autouse=True)
def _patient():
    """Two apps and a training take their time on a busy machine."""
    expect.set_options(timeout=60_000)
    yield
    expect.set_options(timeout=20_000)


@pytest.fixture
def person(serving, screen, trained, tmp_path):
    """(name) -> the Share tab of a page of somebody with a run of the tiny model."""

    def open_share(name):
        shutil.copytree(trained(), tmp_path / name / f"{name}-notes")
        address = serving("tests.app.parrot_page", tmp_path / name, 0)
        page = screen(address, apart=True)
        page.get_by_role("tab", name="Share", exact=True).click()
        return page

    return open_share


def box(page, name):
    return page.locator(f"{name} textarea, {name} input").first


def press(page, label, told):
    """Press the one button, which says `label`, and wait for what comes of it."""
    button = page.locator("#next")
    expect(button).to_have_text(label)
    expect(button).to_be_enabled()
    button.click()
    expect(page.locator("#done")).to_contain_text(told)


def learn_and_send(page, round):
    """From the newest generalist to a contribution, by the one button alone."""
    box(page, "#steps").fill("2")
    box(page, "#steps").press("Tab")
    press(page, "Learn on it", "is learning now")
    button = page.locator("#next")
    expect(button).to_have_text("Show what leaves", timeout=180_000)
    button.click()
    leaves = page.locator("#leaving")
    expect(leaves).to_contain_text("has learnt in 2 steps leaves this machine")
    expect(leaves).to_contain_text("can give passages of it away")
    leaves.get_by_text("Every byte of it").click()
    expect(leaves).to_contain_text("adapters.safetensors")
    expect(leaves).not_to_contain_text("specialist.")
    press(page, "Send", f"Sent to round {round} as")
    expect(leaves).to_be_empty()


def told_what_is_wrong(page, tmp_path):
    """Text that is no invitation, and an address without a federation."""
    box(page, "#paste").fill("hello <img src=x onerror=alert(1)>")
    expect(page.locator("#invited .cm-problem")).to_contain_text("no invitation")
    box(page, "#uri").fill(str(tmp_path / "nowhere"))
    box(page, "#participant").fill("ben")
    box(page, "#paste").fill("")
    expect(page.locator("#invited .cm-problem")).to_have_count(0)
    page.locator("#join").click()
    expect(page.locator(".toast-body")).to_contain_text("no federation at this address")


def test_two_people_in_one_folder(person, tmp_path):
    ann, pool = person("ann"), tmp_path / "pool"
    box(ann, "#new-address").fill(str(pool))
    box(ann, "#new-name").fill("Ann Lee")
    ann.locator("#look-new").click()
    expect(ann.locator("#leaving-new")).to_contain_text("leaves this machine")
    assert not pool.exists()
    ann.locator("#create").click()
    expect(ann.locator("#done")).to_contain_text("Your federation is there")
    ann.get_by_text("Invite somebody").click()
    line = box(ann, "#invitation").input_value()
    assert line.startswith(f"comigs invitation to {pool}, ")
    learn_and_send(ann, 1)
    expect(ann.locator("#round")).to_contain_text("You are in, waiting for one more.")

    ben = person("ben")
    told_what_is_wrong(ben, tmp_path)
    box(ben, "#paste").fill(f"Come in!\n> {line}")
    expect(ben.locator("#invited")).to_contain_text("ann-lee invites you to")
    expect(box(ben, "#uri")).to_have_value(str(pool))
    expect(ben.locator("#changes")).to_contain_text("one click brings it back")
    box(ben, "#participant").fill("ben")
    ben.locator("#join").click()
    expect(ben.locator("#done")).to_contain_text("“ben-notes” takes part now.")
    expect(ben.locator("#round")).to_contain_text("ann-lee is in, waiting for you.")
    learn_and_send(ben, 1)
    expect(ben.locator("#done")).to_contain_text("The round is finished now.")
    press(ben, "Get the newest", "has the newest now")
    expect(ben.locator("#round h3")).to_have_text("Round 2")
    ben.locator("#before").click()
    told = "has again what it had before joining, after 6 steps"
    expect(ben.locator("#done")).to_contain_text(told)
    expect(ben.locator("#before")).to_be_hidden()
    expect(ben.locator("#next")).to_have_text("Get the newest")

    expect(ann.locator("#next")).to_have_text("Get the newest")
    press(ann, "Get the newest", "has the newest now")
    ann.reload()
    ann.get_by_role("tab", name="Share", exact=True).click()
    expect(ann.locator("#next")).to_have_text("Learn on it")
    assert 1 in api.kept(tmp_path / "ann" / "ann-notes")
