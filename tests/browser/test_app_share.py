"""Share in a browser, over the loopback Hub: what leaves, and the way back."""

import shutil

import pytest
from playwright.sync_api import expect

import tests.hub_server as hub_server
from comigs_mlx import sync
from tests.federation.conftest import TOKENS, reach

pytestmark = pytest.mark.browser

URI = "hf://ann/notes"


@pytest.fixture
def hub():
    with hub_server.Server() as server:
        yield server


@pytest.fixture
def runs(hub, trained, tmp_path, monkeypatch, cli):
    """The folder of a run whose base has a federation on the Hub."""
    reach(monkeypatch, hub.url, TOKENS["ann"])
    run = shutil.copytree(trained(), tmp_path / "runs" / "notes")
    given = {"federation": URI, "run": run, "quorum": 1}
    assert cli(sync.main, "init", **given)[0] == 0
    return run.parent


@pytest.fixture
def share(serving, screen, hub, runs, tiny_folder, tmp_path):
    token = TOKENS["ann"]
    address = serving(
        "app",
        *("--runs", runs, "--model", tiny_folder()),
        HF_ENDPOINT=hub.url,
        HF_TOKEN=token,
        HF_HUB_DISABLE_XET="1",
        HF_HOME=str(tmp_path / "hf"),
    )
    page = screen(address)
    page.get_by_role("tab", name="Share", exact=True).click()
    page.locator("#uri textarea, #uri input").first.fill(URI)
    page.locator("#participant textarea, #participant input").first.fill("ann")
    return page


def press(page, button, told):
    page.locator(button).click()
    expect(page.locator("#done")).to_contain_text(told)


def push(page, hub, round):
    """Look at what would leave, which sends nothing, and then send it."""
    button, before = page.locator("#push"), len(hub.requests)
    expect(button).to_be_disabled()
    page.locator("#dry-run").click()
    expect(button).to_be_enabled()
    assert not [r for r in hub.requests[before:] if "/commit/" in r.line]
    listed = page.locator("#leaving")
    expect(listed).to_contain_text("adapters.safetensors")
    expect(listed).not_to_contain_text("specialist")
    told = f"Contributed to round {round} as ann. The round is closed: pull."
    press(page, "#push", told)
    expect(button).to_be_disabled()


def test_dry_run_push_close_pull_and_back(share, hub):
    press(share, "#pull", "notes is up to date.")
    for round in (1, 2):
        push(share, hub, round)
        press(share, "#close", f"Round {round + 1} is not due yet.")
        press(share, "#pull", "notes has the newest generalist now")
    share.get_by_label("Kept generalist").click()
    share.get_by_role("option", name="round 1", exact=True).click()
    press(share, "#roll-back", "notes has the generalist of round 1 again.")
    sent = b"".join(r.body for r in hub.requests)
    for private in (b"specialist/", b"router/", b"metrics.jsonl", b"state/"):
        assert private not in sent
