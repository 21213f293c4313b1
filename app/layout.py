"""The page: a title, how the model stands, the choice of run, and the tabs."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from app import render
from app.actions import runs
from app.actions.chat import ChatActions, CompareActions
from app.actions.routing import RoutingActions
from app.actions.share import ShareActions
from app.actions.train import TrainActions
from app.office import Office
from app.options import AppConfig
from app.tabs import chat, compare, routing, share, train
from app.tabs.parts import QUIET, element, html

TITLE = "comigs_mlx"
ONE_DAY = 86400
EACH = 3.0
"""Seconds between two looks at the runs."""

SAME = ("the same run", "")
"""A choice beside the runs."""


def build(config: AppConfig, office: Office) -> gr.Blocks:
    """The page, not yet served."""
    folder = config.runs_folder
    talking = ChatActions(office, folder, config.model)
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=(3600, ONE_DAY)
    ) as page:
        run = _head(config, office)
        advice = html("advice")
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Chat", id="chat"):
                chat.build(talking, run)
            with gr.Tab("Routing", id="routing"):
                scoring = RoutingActions(office, folder, config.model)
                other = routing.build(scoring, run)
            with gr.Tab("Compare", id="compare"):
                compare.build(CompareActions(talking), run)
            with gr.Tab("Train", id="train"):
                training = TrainActions(folder, config.local, office)
                train.build(training, config.model, page)
            with gr.Tab("Share", id="share"):
                share.build(ShareActions(folder), run, page)
        _runs(config, page, run, other, advice)
    return page


def _head(config: AppConfig, office: Office) -> gr.Dropdown:
    """Title and standing of the model; returns the choice of run beside them."""

    def standing(question: Any) -> dict[str, str]:
        now = office.standing
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
    config: AppConfig, page: gr.Blocks, run: Any, other: Any, advice: Any
) -> None:
    """Fill the choices of runs when the page is opened, and whenever they change."""
    folder = config.runs_folder
    before = gr.State(None)
    filled = [run, other, advice, before]

    def opened() -> Any:
        found = runs.choices(folder)
        return (
            gr.update(choices=found, value=runs.first(folder)),
            gr.update(choices=[SAME, *found[1:]], value=""),
            _advice(folder),
            runs.ready(folder),
        )

    def looked(chosen: Any, known: Any) -> Any:
        """A run that has become ready is offered, and chosen where there was none."""
        now = runs.ready(folder)
        if known is None or now == known:
            return gr.skip()
        found, new = runs.choices(folder), sorted(now.keys() - known.keys())
        if new:
            gr.Info(f"{new[-1]} can be talked to now.", title="Trained")
        value = new[-1] if new and chosen in (runs.BASE, None) else chosen
        return (
            gr.update(choices=found, value=value),
            gr.update(choices=[SAME, *found[1:]]),
            _advice(folder),
            now,
        )

    page.load(opened, None, filled, **QUIET)
    gr.Timer(EACH).tick(looked, [run, before], filled, **QUIET)
    listed = partial(runs.choices, folder)
    run.focus(lambda: gr.update(choices=listed()), None, run, **QUIET)


def _advice(folder: Any) -> str:
    text = runs.advice(folder)
    return render.note(text) if text else ""
