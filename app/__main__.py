"""`python -m app`: open the page on this machine."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from typing import Any

from comigs_mlx import command
from comigs_mlx.config import parse

from . import loading_page, local_only, quick_import
from .options import AppConfig

MODULE = "app" if __package__ == "app" else "comigs_mlx.app"
"""What opens the page: `python -m app` in a checkout alone."""

PATIENCE = 2.0
"""Seconds that loading the model waits for a first page to be drawn.

Both need the interpreter, and side by side the page is usable a second later, while
the model is not ready any sooner.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options, put the page up, and only then load the model."""
    local_only.keep()
    config = parse(AppConfig, MODULE, argv)
    config.password()
    command.check_installed("gradio")
    serve(config, block=True)


def serve(config: AppConfig, block: bool) -> tuple[Any, Any]:
    """Put the page up.

    Args:
        config: Where, and for whom.
        block: Wait until it is ended.

    Returns:
        The page and its model queue; the caller closes the queue.
    """
    with loading_page.page(config) as address:
        command.say(f"starting the page at {address}")
        from comigs_mlx.inference.chat_engine import ChatEngine

        with quick_import.quickly():
            from . import layout, server
        from .actions import runs
        from .model_queue import ModelQueue

        model_queue = ModelQueue(ChatEngine)
        drawn = threading.Event()
        page = layout.build(config, model_queue, drawn.set)
    address = server.launch(page, config, block=False)
    first = runs.find(config.runs_folder, runs.first(config.runs_folder))

    def load(engine: Any) -> None:
        drawn.wait(PATIENCE)
        engine.choose(first, config.model)

    model_queue.submit("Loading the model", load)
    command.say(f"open {address} (Ctrl-C ends it)")
    if block:
        _until_ended(page, model_queue)
    return page, model_queue


def _until_ended(page: Any, model_queue: Any) -> None:
    """Wait for Ctrl-C or a request to end; keep what is being said then."""

    def ended(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, ended)
    try:
        page.block_thread()
    finally:
        model_queue.close()


if __name__ == "__main__":
    command.run(main)
