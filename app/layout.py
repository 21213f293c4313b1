"""The page: the sidebar, and the three tabs."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from . import sidebar
from .actions import runs
from .actions.chat import ChatActions
from .actions.compare import CompareActions
from .actions.lean import LeanActions
from .actions.look import LookActions
from .actions.share import ShareActions
from .actions.sidebar import SidebarActions
from .actions.train import TrainActions
from .frame import CHAT, SHARE, TRAIN, Frame
from .model_queue import ModelQueue
from .options import AppConfig
from .tabs import chat, compare, look, share, train, views
from .tabs.parts import QUIET, remembered, restoring

TITLE = "comigs_mlx"
ONE_DAY = 86400

EACH = 3.0
"""Seconds between two looks at the folder of runs."""


def build(
    config: AppConfig, model_queue: ModelQueue, drawn: Callable[[], object] = bool
) -> gr.Blocks:
    """The page, not yet served.

    Args:
        config: What it shows.
        model_queue: What it asks the model by.
        drawn: Called each time that a page, drawn by then, asks how the model stands.
    """
    folder = config.runs_folder
    talking = ChatActions(model_queue, folder, config.model)
    model_queue.before_end(talking.close)
    with gr.Blocks(
        title=TITLE,
        analytics_enabled=False,
        delete_cache=(3600, ONE_DAY),
        fill_width=True,
    ) as page:
        listed = runs.Recent(folder)
        told = (talking.store, standing(model_queue, drawn), listed)
        side = SidebarActions(folder, config.model, *told)
        run = sidebar.build(side, talking, runs.first(folder))
        with gr.Tabs(elem_id="tabs") as tabs:
            frame = Frame(page, run, tabs)
            with gr.Tab("Chat", id=CHAT):
                with views.place(views.TALK):
                    kept = chat.build(talking, LeanActions(model_queue, folder), frame)
                given = (model_queue, folder, config.model)
                drawing = [kept[name] for name in views.DRAWING]
                compare.build(CompareActions(*given), frame, drawing)
                look.build(LookActions(*given), frame)
            with gr.Tab("Train", id=TRAIN):
                training = TrainActions(folder, config.local, model_queue)
                trainings, form = train.build(training, config.model, frame)
            with gr.Tab("Share", id=SHARE):
                federation = share.build(ShareActions(folder), frame)
        train.announce(training)
        _remember(page, folder, run, {**kept, **form, **federation})
        _watch(page, listed, run, trainings, training.names)
    return page


def standing(
    model_queue: ModelQueue, asked: Callable[[], object]
) -> Callable[[], dict[str, str]]:
    """What tells how the model stands, `state` and `text`, and that this was asked."""

    def told() -> dict[str, str]:
        asked()
        now = model_queue.status
        return {"state": now.state, "text": now.text}

    return told


def _remember(
    page: gr.Blocks, folder: Path, run: gr.Textbox, kept: dict[str, Any]
) -> None:
    """Put back what the browser keeps when the page is opened.

    Args:
        page: Being built.
        folder: Holds the runs.
        run: Who is talked to.
        kept: Further widgets whose values the browser keeps, by name.
    """
    state = remembered(page, {"run": run, **kept})

    def opened(saved: Any, now: str) -> Any:
        last = saved.get("run") if isinstance(saved, dict) else None
        usable = runs.overview(folder).usable
        value = last if last in usable else now if now in usable else runs.first(folder)
        # Somebody may have chosen already: this answer must not take it back.
        return gr.skip() if value == now else value

    page.load(opened, [state, run], run, **QUIET)
    boxes = list(kept.values())
    page.load(None, [state, *boxes], boxes, js=restoring(kept), **QUIET)


def _watch(
    page: gr.Blocks,
    listed: Callable[[], Any],
    run: gr.Textbox,
    trainings: gr.Dropdown,
    names: Callable[[], Any],
) -> None:
    """Say what has become of runs, and choose the first one that can be talked to.

    Args:
        page: Being built.
        listed: Gives the runs.
        run: Who is talked to.
        trainings: The choice of a training.
        names: What it offers.
    """
    known = gr.State(None)

    def watch(before: Any, value: Any) -> Any:
        now = runs.overview_of(listed())
        if now.as_dict() == before:
            return [gr.skip()] * 3
        chosen, told = runs.news(before, now, value)
        for sentence in told:
            gr.Info(escape(sentence))
        offered = gr.update(choices=names())
        return gr.skip() if chosen == value else chosen, offered, now.as_dict()

    # From the moment that the page is opened: a run may come before the first look.
    page.load(lambda: runs.overview_of(listed()).as_dict(), None, known, **QUIET)
    gr.Timer(EACH).tick(watch, [known, run], [run, trainings, known], **QUIET)
