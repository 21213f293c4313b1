"""The page: a title, how the model stands, the choice of run, and the tabs."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

import gradio as gr

from . import render
from .actions import runs
from .actions.chat import ChatActions, CompareActions
from .actions.routing import RoutingActions
from .actions.share import ShareActions
from .actions.train import TrainActions
from .frame import CHAT, SHARE, TRAIN, Frame
from .model_queue import ModelQueue
from .options import AppConfig
from .tabs import chat, compare, routing, share, train
from .tabs.parts import QUIET, element, html, remembered, restoring

TITLE = "comigs_mlx"
ONE_DAY = 86400

EACH = 3.0
"""Seconds between two looks at the folder of runs."""


def build(config: AppConfig, model_queue: ModelQueue) -> gr.Blocks:
    """The page, not yet served."""
    folder = config.runs_folder
    talking = ChatActions(model_queue, folder, config.model)
    model_queue.before_end(talking.close)
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=(3600, ONE_DAY)
    ) as page:
        run = _head(config, model_queue)
        advice = html("advice")
        with gr.Tabs(elem_id="tabs") as tabs:
            frame = Frame(page, run, tabs)
            with gr.Tab("Chat", id=CHAT):
                kept = chat.build(talking, frame)
            with gr.Tab("Routing", id="routing"):
                scoring = RoutingActions(model_queue, folder, config.model)
                other = routing.build(scoring, frame)
            with gr.Tab("Compare", id="compare"):
                compare.build(CompareActions(talking), frame)
            with gr.Tab("Train", id=TRAIN):
                training = TrainActions(folder, config.local, model_queue)
                trainings, form = train.build(training, config.model, frame)
            with gr.Tab("Share", id=SHARE):
                federation = share.build(ShareActions(folder), frame)
        train.announce(training)
        kept = {"run": run, **kept, **form, **federation}
        lists = [run, other, advice, trainings]
        _runs(config, page, kept, lists, training.names)
    return page


def _head(config: AppConfig, model_queue: ModelQueue) -> gr.Dropdown:
    """Title and standing of the model; returns the choice of run beside them."""

    def standing(question: Any) -> dict[str, str]:
        now = model_queue.status
        return {"state": now.state, "text": now.text}

    folder = config.runs_folder
    with gr.Row(elem_classes="cm-head"):
        with gr.Column(scale=3, min_width=300):
            gr.HTML(
                f"<h1>{TITLE}</h1><p>Your own language model. Nothing you type leaves "
                "this machine.</p>",
                apply_default_css=False,
            )
            element("standing", "", {"standing": standing}, "cm-standing")
        return gr.Dropdown(
            runs.choices(folder),
            value=runs.first(folder),
            label="Run",
            elem_id="run",
            scale=2,
            min_width=240,
        )


def _runs(
    config: AppConfig,
    page: gr.Blocks,
    kept: dict[str, Any],
    lists: list[Any],
    trainings: Callable[[], list[str]],
) -> None:
    """Fill the choices of runs when the page is opened, and whenever they change.

    Args:
        config: Knows the folder of runs.
        page: Being built.
        kept: Widgets whose values the browser keeps, by name.
        lists: The choice of run, that of a second one, the advice, and the trainings.
        trainings: Their names.
    """
    folder = config.runs_folder
    state, known = remembered(page, kept), gr.State(None)
    run, other, advice, training = lists
    others = {name: box for name, box in kept.items() if name != "run"}

    built = run.value

    def opened(saved: Any) -> Any:
        now, first = runs.overview(folder), runs.first(folder)
        last = saved.get("run") if isinstance(saved, dict) else None
        value = last if last in now.labels and last != runs.BASE else first
        # Somebody may have chosen already: this answer must not take it back.
        lists = _lists(now, None if value == built else value, _advice(folder))
        return [*lists, now.as_dict()]

    def watch(before: Any, value: Any) -> Any:
        now = runs.overview(folder)
        if now.as_dict() == before:
            return [gr.skip()] * 5
        value, told = runs.news(before, now, value)
        for sentence in told:
            gr.Info(escape(sentence))
        named = gr.update(choices=trainings())
        return [*_lists(now, value, _advice(folder)), named, now.as_dict()]

    page.load(opened, state, [run, other, advice, known], **QUIET)
    boxes = list(others.values())
    page.load(None, [state, *boxes], boxes, js=restoring(others), **QUIET)
    gr.Timer(EACH).tick(
        watch, [known, run], [run, other, advice, training, known], **QUIET
    )


def _lists(now: runs.Overview, value: str | None, advice: str) -> list[Any]:
    """Updates of the choice of run, of that of a second one, and of the advice.

    Args:
        now: The runs there are.
        value: The run to choose; None leaves the choice as it is.
        advice: HTML.
    """
    found = now.choices
    chosen: dict[str, Any] = {} if value is None else {"value": value}
    return [
        gr.update(choices=found, **chosen),
        gr.update(choices=[("the same run", ""), *found[1:]]),
        advice,
    ]


def _advice(folder: Any) -> str:
    text = runs.advice(folder)
    return render.note(text) if text else ""
