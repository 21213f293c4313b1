"""A page of headless Chromium; COMIGS_REQUIRE_BROWSER=1 makes its absence a failure."""

import os
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="session")
def browser():
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None and os.environ.get("COMIGS_REQUIRE_BROWSER"):
        pytest.fail(f"none of {', '.join(NAMES)} is installed")
    if path is None:
        pytest.skip("no Chromium installed (apt install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def page(browser, tmp_path):
    """A page that fails the test on any script error or request to the network."""
    opened = browser.new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on(
        "request",
        lambda r: None if r.url.startswith("file:") else problems.append(r.url),
    )
    yield opened
    opened.close()
    assert problems == []
