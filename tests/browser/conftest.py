"""A page of headless Chromium; COMIGS_REQUIRE_BROWSER=1 makes its absence a failure."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


SHOTS = Path(os.environ.get("COMIGS_SHOTS", "build/screenshots"))
"""Where the last look of a failed test is kept."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call":
        item.failed = report.failed
    return report


@pytest.fixture(scope="session")
def browser():
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None and os.environ.get("COMIGS_REQUIRE_BROWSER"):
        pytest.fail(f"none of {', '.join(NAMES)} is installed")
    if path is None:
        pytest.skip("no Chromium installed (apt install chromium)")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=20_000)  # some machines are five times slower
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


@pytest.fixture
def screen(browser, request):
    """(address, options of a page) -> a page that asks loopback alone for anything.

    `ready=False` does not wait for the model, nor for the page itself.
    Fails on any script error; keeps a screenshot of a test that failed.
    """
    opened, problems = [], []

    def show(address, ready=True, apart=False, **options):
        given = {"viewport": {"width": 1440, "height": 900}, **options}
        if apart:  # a page whose browser can have others beside it
            page = browser.new_context(**given).new_page()
        else:
            page = browser.new_page(**given)
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda r: None if _ours(r.url) else problems.append(r.url))
        page.route(lambda url: not _ours(url), lambda route: route.abort())
        opened.append(page)
        page.goto(address)
        if ready:
            page.locator("#message textarea").wait_for()
            page.locator(".cm-standing[data-state=ready]").wait_for(timeout=60_000)
        return page

    yield show
    for i, page in enumerate(opened):
        if getattr(request.node, "failed", False):
            SHOTS.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=SHOTS / f"{request.node.name}-{i}.png", full_page=True)
        page.close()
    assert problems == []


def _ours(url):
    return url.startswith(("http://127.0.0.1:", "data:", "blob:"))


@pytest.fixture(scope="session")
def serving():
    """(module, arguments after the port) -> the address of a page served by it.

    `up=False` does not wait for Gradio; further named values go to its environment.
    """
    with contextlib.ExitStack() as stack:
        yield lambda module, *given, up=True, **environment: stack.enter_context(
            _served(module, given, up, environment)
        )


@pytest.fixture
def restarted(serving):
    """(module, arguments after the port) -> an address, and what ends and starts it."""
    with contextlib.ExitStack() as stack:

        def start(module, *given, ended=lambda: None):
            port, running = _free_port(), contextlib.ExitStack()
            stack.callback(lambda: running.close())

            def again():
                running.close()
                ended()
                running.enter_context(_served(module, given, True, {}, port))

            again()
            return f"http://127.0.0.1:{port}", again

        yield start


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def _served(module, given, up, environment, port=None):
    port = port or _free_port()
    first = ["--port", str(port)] if module == "app" else [str(port)]
    command = [sys.executable, "-m", module, *first, *map(str, given)]
    process = subprocess.Popen(command, env={**os.environ, **environment})
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(address, process, up)
        yield address
    finally:
        process.terminate()
        process.wait(20)


def _wait(address, process, up):
    for _ in range(1200):
        assert process.poll() is None, "the app ended before it was up"
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except urllib.error.HTTPError:  # the page that is there while Gradio is not
            if not up:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"nothing at {address}")
