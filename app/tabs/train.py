"""Widgets of the Train tab."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from comigs_mlx.errors import ConfigError

from .. import words
from ..actions.train import ADVANCED, SIMPLE, TrainActions, defaults, names_of
from ..frame import Frame
from .parts import QUIET, SLOW, html, with_problem_html, with_warnings

EACH = 2.0
"""Seconds between two looks at a training."""

DEFAULTS = {name: default for name, default, _ in defaults()}
"""Of the options on the page."""


def build(
    actions: TrainActions, model: str, frame: Frame
) -> tuple[gr.Dropdown, dict[str, Any]]:
    """Put the Train tab on the page.

    Args:
        actions: What its buttons do.
        model: Base model to begin with.
        frame: The page around it.

    Returns:
        The choice of trainings, and the widgets whose values outlive a reload, by name.
    """
    with gr.Row(elem_classes="cm-halves"):
        with gr.Column():
            name, path, files = _text()
            me, redact = _reading()
            look = gr.Button("Preview the text", elem_id="preview", min_width=90)
            found = html("found")
            base, options = _options(model)
            start = gr.Button("Start training", variant="primary", elem_id="start")
            cost = html("cost")
        with gr.Column():
            run = _under_way(actions, frame.page)
    names = list(options)

    @with_warnings
    def begin(
        name: Any, path: Any, files: Any, me: Any, redact: Any, *values: Any
    ) -> Any:
        read_as = {"me": names_of(me), "redact": bool(redact)}
        options = {**chosen(model, names, values), **read_as}
        made = actions.start(name, path, files, options)
        gr.Info(f"{escape(made)} is being trained: see its progress under Training.")
        return gr.update(choices=actions.names(), value=made)

    @with_problem_html
    def estimated(*values: Any) -> str:
        return actions.estimate(chosen(model, names, values))

    widgets = [base, *options.values()]
    look.click(actions.waiting, None, found, **QUIET).then(
        with_problem_html(actions.preview), [path, files, me, redact], found, **SLOW
    ).then(estimated, widgets, cost, **QUIET)
    start.click(begin, [name, path, files, me, redact, *widgets], run, **SLOW)
    form = {f"option_{key}": box for key, box in options.items()}
    return run, {"run_name": name, "data": path, "base": base, **form}


def chosen(model: str, names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """The widgets' values as options of train.

    Args:
        model: Where the first value, the base model, is empty.
        names: Of the options after it.
        values: As widgets give them: whole numbers may be floats.

    Raises:
        ConfigError: If a number was left out.
    """
    base, *rest = values
    given: dict[str, Any] = {"model": str(base or "").strip() or model}
    for name, value in zip(names, rest, strict=True):
        if value is None and DEFAULTS[name] is not None:
            raise ConfigError(f"{words.label(name)}: fill in a number.")
        whole = isinstance(value, float) and value.is_integer()
        given[name] = int(value) if whole and name != "learning_rate" else value
    return given


def _under_way(actions: TrainActions, page: gr.Blocks) -> gr.Dropdown:
    """The trainings there are: choice, buttons, progress and curves."""
    run = gr.Dropdown([], label="Training", elem_id="training")
    with gr.Row(elem_classes="cm-buttons"):
        stop = gr.Button("Stop and save", elem_id="stop-training", min_width=90)
        resume = gr.Button("Resume", elem_id="resume-training", min_width=90)
    more = gr.Number(
        0, label="Steps in all when resumed (0: as planned)", precision=0, minimum=0
    )
    state, plots = html("state"), html("plots")
    before = gr.State(("", ""))

    def follow(name: Any, last: Any) -> Any:
        *parts, _ = actions.standing(name)
        if tuple(parts) == tuple(last):
            return gr.skip()
        return (*parts, tuple(parts))

    def opened() -> Any:
        return gr.update(choices=actions.names(), value=actions.current())

    stop.click(with_warnings(actions.stop), [run], **QUIET)
    resume.click(with_warnings(actions.resume), [run, more], **QUIET)
    for tick in (gr.Timer(EACH).tick, run.change):
        tick(with_warnings(follow), [run, before], [state, plots, before], **QUIET)
    page.load(opened, None, run, **QUIET)
    return run


def _text() -> tuple[gr.Textbox, gr.Textbox, gr.File]:
    """Name of the run, path and files of the text."""
    name = gr.Textbox(label="Name of the new run", value="mine", elem_id="run-name")
    path = gr.Textbox(
        label="Folder or file of your text",
        info="On this machine: notes, mail, chats, documents, code; or demo",
        placeholder="~/Notes",
        elem_id="data-path",
    )
    files = gr.File(label="or files", file_count="multiple", height=150)
    return name, path, files


def _reading() -> tuple[gr.Textbox, gr.Checkbox]:
    """Who the reader is in mail and chats, and whether secrets are replaced."""
    me = gr.Textbox(
        label=words.label("me"),
        info="Your names and addresses in mail and chats, with commas between them",
        placeholder="Ann Weber, ann@example.org",
        elem_id="option-me",
    )
    redact = gr.Checkbox(
        label=words.label("redact"),
        info="replace passwords, keys and card numbers before anything is learnt",
        elem_id="option-redact",
    )
    return me, redact


def _options(model: str) -> tuple[gr.Textbox, dict[str, Any]]:
    """Base model, and option name -> widget."""
    base = gr.Textbox(
        label="Base model", value=model, info="demo, a folder, or a Hugging Face id"
    )
    known = {key: (default, help) for key, default, help in defaults()}
    with gr.Row():
        options = {key: _widget(key, *known[key]) for key in SIMPLE}
    with gr.Accordion("More options", open=False), gr.Row():
        options |= {key: _widget(key, *known[key]) for key in ADVANCED}
    return base, options


def _widget(key: str, default: Any, help: str) -> Any:
    label = words.label(key)
    if isinstance(default, bool):
        return gr.Checkbox(
            default, label=label, info=help, elem_id=f"option-{key}", min_width=200
        )
    precision = None if isinstance(default, float) else 0
    return gr.Number(
        default,
        label=label,
        info=help,
        precision=precision,
        elem_id=f"option-{key}",
        min_width=150,
    )
