"""Makes the pictures of docs/app: one story of one person, in a real browser.

    python scripts/app_pictures.py --out docs/app

First visit, a folder of notes, the check, learning, talking, a token, a friend's
federation, sending, getting, did it help, going back, and everything still there after
a restart. The same page then at 390 pixels, dark. Needs Chromium and the extra `dev`,
and takes some minutes, as the demo model is really trained.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comigs_mlx import command
from comigs_mlx.config import option, parse
from comigs_mlx.data.splits import load_splits
from comigs_mlx.files import write_text

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
WIDE, NARROW = (1440, 900), (390, 844)

PATIENCE = 1_200_000
"""Milliseconds that the longest step may take: training on an old machine."""

QUESTION = "What happened in the night of the storm?"
NOTES = 100


@dataclass(frozen=True)
class PictureConfig:
    """Make the pictures of the app's documentation."""

    out: str = option("docs/app", "folder of the pictures", "DIR")
    model: str = option("demo", "base model", "ID|PATH")
    steps: int = option(40, "expert steps of the training", "N")


class Story:
    """One browser window, one app, and the pictures taken so far.

    Args:
        page: Of playwright.
        out: Folder of the pictures.
        address: Of the app.
    """

    def __init__(self, page: Any, out: Path, address: str):
        self.page, self.out, self.address = page, out, address
        page.set_default_timeout(PATIENCE)

    def take(self, name: str) -> None:
        """Take a picture, once nothing moves any more."""
        self.page.mouse.move(2, 2)
        self.page.wait_for_timeout(900)
        self.page.screenshot(path=self.out / f"{name}.png")
        command.say(f"{name}.png")

    def open(self, tab: str) -> None:
        """Open the page at a tab, and wait until it is up and the model is there."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.address}#{tab}")
        self.page.locator("#message textarea").wait_for(state="attached")
        self.page.locator(".cm-standing[data-state=ready]").wait_for(state="attached")
        self.page.wait_for_timeout(1500)

    def tab(self, name: str) -> None:
        """Change to a tab, as a reader does."""
        self.page.get_by_role("tab", name=name, exact=True).click()

    def fill(self, where: str, text: str) -> None:
        """Write into the box inside an element."""
        box = self.page.locator(f"{where} textarea, {where} input").first
        box.fill(text)
        box.press("Tab")

    def say(self, text: str) -> None:
        """Send a message, and wait for all of the answer."""
        self.page.locator("#message textarea").fill(text)
        self.page.keyboard.press("Enter")
        self.page.locator(".cm-reply.cm-live").last.wait_for()
        self.page.locator(".cm-reply:not(.cm-live) .cm-figures").last.wait_for()

    def see(self, where: str, text: str) -> None:
        """Wait until an element says something."""
        self.page.locator(where).get_by_text(text).first.wait_for()

    def next(self, label: str) -> None:
        """Press the one button of the Share tab, once it says this."""
        self.page.locator("#next", has_text=label).and_(
            self.page.locator("#next:enabled")
        ).click()


def first_visit(story: Story, notes: Path, steps: int) -> None:
    """From an empty page to a run that can be talked to."""
    page = story.page
    story.open("chat")
    story.take("01-first-visit")
    story.tab("Train")
    story.fill("#data-path", str(notes))
    page.locator("#check").click()
    page.locator("#to-model").wait_for()
    story.see("#found", "notes")
    story.take("02-check")
    page.locator("#to-model").click()
    page.locator("#base label.selected").wait_for()
    story.take("03-model")
    page.locator("#to-learn").click()
    page.locator("#plan label.selected").wait_for()
    page.get_by_text("More options").click()
    values = {"steps": steps, "seq_len": 128, "batch_size": 2, "router_every": 5}
    for name, value in values.items():
        story.fill(f"#option-{name}", str(value))
    page.get_by_text("More options").click()
    story.take("04-learn")
    page.locator("#start").click()
    story.see("#state", " left")
    story.take("05-learning")
    story.see("#state", "has learnt")
    page.locator("#answers").get_by_text("After").wait_for()
    story.take("06-learnt")
    page.locator("#talk-to-it").click()


def talking(story: Story) -> None:
    """An answer, one of its tokens, four voices, and a text looked at."""
    page = story.page
    story.say(QUESTION)
    story.take("07-talk")
    page.locator(".cm-reply .cm-token").nth(6).click()
    page.locator(".cm-drawer").wait_for()
    story.take("08-token")
    page.keyboard.press("Escape")
    page.evaluate(f"window.comigs.compare.open({QUESTION!r})")
    page.locator(".cm-answer-card[data-state=done]").nth(3).wait_for()
    story.take("09-compare")
    page.evaluate("window.comigs.view('look')")
    page.get_by_label("Text", exact=True).fill("The lamp burnt all night, and I slept.")
    page.get_by_role("button", name="Look", exact=True).click()
    page.locator(".cm-reading .cm-line").wait_for()
    story.take("10-look")
    page.evaluate("window.comigs.view('chat')")


def sharing(story: Story, invitation: str, help_out: Callable[[], None]) -> None:
    """Join a friend's federation, learn, send, get the newest, and go back.

    Args:
        story: Where it happens.
        invitation: The line that the friend has sent.
        help_out: What the friend does when both are in.
    """
    page = story.page
    story.tab("Share")
    story.fill("#paste", invitation)
    story.see("#invited", "nvite")
    story.fill("#participant", "ann")
    story.take("11-invited")
    page.locator("#join").click()
    story.see("#done", "takes part now")
    story.take("12-round")
    story.fill("#steps", "10")
    story.next("Learn on it")
    story.next("Show what leaves")
    story.see("#leaving", "leaves this machine")
    story.take("13-what-leaves")
    story.next("Send")
    story.see("#done", "Sent to round")
    help_out()
    story.next("Get the newest")
    story.see("#done", "has the newest now")
    page.locator("#measure").click()
    page.locator("#history svg, #history table").first.wait_for()
    story.take("14-did-it-help")
    page.locator("#before").click()
    story.see("#done", "has again what it had")
    story.take("15-back")


def small(story: Story) -> None:
    """The states that matter on a phone."""
    page = story.page
    story.open("chat")
    story.take("phone-1-new-chat")
    page.get_by_role("button", name="Toggle Sidebar").click()
    story.take("phone-2-sidebar")
    page.locator(".cm-chat").first.click()
    page.locator(".cm-reply .cm-token").first.wait_for()
    story.take("phone-3-talk")
    page.locator(".cm-reply .cm-token").nth(6).click()
    page.locator(".cm-drawer").wait_for()
    story.take("phone-4-token")
    for number, tab in ((5, "train"), (6, "share")):
        story.open(tab)
        story.take(f"phone-{number}-{tab}")


@contextlib.contextmanager
def served(runs: Path, model: str) -> Iterator[str]:
    """The app in a process of its own; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = ["--runs", str(runs), "--port", str(port), "--model", model]
    running = subprocess.Popen([sys.executable, "-m", "app", *given])
    address = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                with urllib.request.urlopen(address) as answer:
                    if answer.status == 200:
                        break
            time.sleep(0.2)
        yield address
    finally:
        running.terminate()
        running.wait()


def run(*words: str) -> str:
    """Run a command of this package; what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", f"comigs_mlx.{words[0]}", *words[1:]],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr


def friend(work: Path, model: str) -> str:
    """A friend who has a run and makes a federation; the line of the invitation."""
    pool, mine = str(work / "pool"), str(work / "ole")
    options = "--steps 10 --batch-size 2 --seq-len 128 --rank 8".split()
    run("train", "--data", "demo:code", "--model", model, "--run", mine, *options)
    told = run("sync", "init", "--federation", pool, "--run", mine, "--quorum", "2")
    sync = ["--federation", pool, "--run", mine, "--participant", "ole"]
    run("sync", "pull", *sync)
    run("train", "--run", mine, "--resume", "--steps", "20")
    run("sync", "push", *sync)
    lines = [line for line in told.splitlines() if "comigs invitation to" in line]
    return lines[0][lines[0].index("comigs invitation to") :]


def main() -> None:
    """Make all pictures."""
    config = parse(PictureConfig, "scripts.app_pictures", None)
    command.check_installed("playwright")
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("*.png"):
        old.unlink()
    with tempfile.TemporaryDirectory() as folder:
        tell(config, out, Path(folder))


def tell(config: PictureConfig, out: Path, work: Path) -> None:
    """The whole story, in a folder of its own."""
    from playwright.sync_api import sync_playwright

    notes = work / "Notes"
    told = load_splits("demo:journal")
    # All three parts: documents are divided by their text, and would be again.
    for i, sample in enumerate([*told.train[:NOTES], *told.valid, *told.test]):
        notes.mkdir(exist_ok=True)
        write_text(notes / f"{i:03}.md", sample["text"])
    command.say("a friend trains and makes a federation")
    invitation = friend(work, config.model)
    path = next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        window = browser.new_context(viewport=_size(WIDE), color_scheme="light")
        page = window.new_page()
        with served(work / "runs", config.model) as address:
            story = Story(page, out, address)
            first_visit(story, notes, config.steps)
            talking(story)
            sharing(story, invitation, lambda: None)
        with served(work / "runs", config.model) as address:
            story = Story(page, out, address)
            story.open("chat")
            page.locator(".cm-chat").first.click()
            page.locator(".cm-reply .cm-figures").last.wait_for()
            story.take("16-still-there")
            phone = browser.new_context(viewport=_size(NARROW), color_scheme="dark")
            small(Story(phone.new_page(), out, address))
        browser.close()


def _size(pair: tuple[int, int]) -> dict[str, int]:
    return {"width": pair[0], "height": pair[1]}


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[1])
    command.run(main)
