"""What the tabs share: elements of our own, and errors told as messages."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import gradio as gr

from .. import chat_settings, remedies, render
from ..model_queue import explain as explained

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""For events that are answered at once, or tell how they stand themselves."""

READ = 30.0
"""Seconds that a message with a button stays: time to reach it by keyboard."""

SLOW: dict[str, Any] = {"show_progress": "minimal", "api_visibility": "private"}
"""For events whose outcome takes a moment."""


def with_warnings(act: Callable[..., Any]) -> Callable[..., Any]:
    """`act` with its errors as a message; what it would have changed stays."""

    @functools.wraps(act)
    def safe(*values: Any) -> Any:
        try:
            return act(*values)
        except Exception as error:
            warn(error)
        return gr.skip()

    return safe


def warn(error: Exception) -> None:
    """Tell an error as a message, with the button that mends it."""
    text = explained(error)
    remedy = remedies.of(error, text)
    shown = escape(text) + remedies.button(remedy)
    gr.Warning(shown, title="Not done", duration=READ if remedy else 10)


def problem_html(error: Exception) -> str:
    """An error as HTML, with the button that mends it."""
    text = explained(error)
    return render.problem(text, remedies.of(error, text))


def with_problem_html(act: Callable[..., str]) -> Callable[..., str]:
    """`act`, which makes HTML, with its errors as HTML."""

    @functools.wraps(act)
    def safe(*values: Any) -> str:
        try:
            return act(*values)
        except Exception as error:
            return problem_html(error)

    return safe


def with_problem(act: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`act`, called by the page's scripts; errors are `problem` and `remedy`."""

    @functools.wraps(act)
    def safe(question: Any) -> Any:
        try:
            return act(question)
        except Exception as error:
            text = explained(error)
            remedy = remedies.named(remedies.of(error, text))
            return {"problem": text, "remedy": remedy}

    return safe


def element(
    kind: str, options: str, functions: Mapping[str, Callable[[Any], Any]], inner: str
) -> gr.HTML:
    """An element that a script of `static` fills.

    Args:
        kind: The function of `window.comigs` that fills it.
        options: Further options for that function, as JavaScript.
        functions: What it may ask the server, by name.
        inner: Class of the element inside.
    """
    served = []
    for name, act in functions.items():
        safe = with_problem(act)
        safe.__name__ = name
        served.append(safe)
    return gr.HTML(
        value=None,
        html_template=f'<div class="{inner}"></div>',
        js_on_load=(
            f"window.comigs.{kind}({{element, props, trigger, watch, "
            f"server: window.comigs.served(server), {options}}})"
        ),
        server_functions=served,
        apply_default_css=False,
    )


def to_the_chosen(place: int) -> str:
    """JavaScript for an order whose input number `place` is the run talked to.

    A card that was clicked at once before the order counts, although its name is still
    on its way to the page's box by way of the server.
    """
    own = f"given[{place}]"
    return f"(...given) => {{ {own} = window.comigs.talked({own}); return given; }}"


def remembered(page: gr.Blocks, kept: Mapping[str, Any]) -> gr.BrowserState:
    """What the browser keeps of what was chosen, across reloads and restarts.

    Args:
        page: Being built.
        kept: Name -> widget. Their changes are noted from the moment on that
            `restoring` has put them back: opening a page changes them, too.
    """
    # The secret hides nothing: with another one, what was kept could not be read.
    state = gr.BrowserState({}, storage_key="comigs_mlx", secret="comigs_mlx")
    names = json.dumps(list(kept))
    gr.on(
        [box.change for box in kept.values()],
        None,
        [state, *kept.values()],
        state,
        js=(
            "(saved, ...now) => window.comigs.restored ? [Object.fromEntries("
            f"{names}.map((name, i) => [name, now[i]]))] : [saved]"
        ),
        **QUIET,
    )
    return state


def restoring(kept: Mapping[str, Any]) -> str:
    """JavaScript that puts back what the browser kept, before anybody can change it.

    Its arguments are what was kept, then the widgets' values; what a widget cannot
    have stays as it is.
    """
    rules = json.dumps([{"name": name, **rule(box)} for name, box in kept.items()])
    return f"(saved, ...now) => window.comigs.restore({rules}, saved, now)"


def rule(box: Any) -> dict[str, Any]:
    """What values a widget can have, as JSON values."""
    if isinstance(box, gr.Checkbox):
        return {"kind": "boolean"}
    if isinstance(box, (gr.Slider, gr.Number)):
        return {"kind": "number", "low": box.minimum, "high": box.maximum}
    if isinstance(box, gr.Radio):
        return {"kind": "string", "choices": [value for _, value in box.choices]}
    return {"kind": "string"}


def html(name: str = "") -> gr.HTML:
    """A place for HTML made by `app.render`."""
    return gr.HTML("", apply_default_css=False, elem_id=name or None)


def drawing(tokens: int = 512) -> tuple[gr.Slider, gr.Slider, gr.Slider, gr.Textbox]:
    """Temperature, top-p, max tokens and system prompt."""
    temperature = gr.Slider(0, 2, 0.7, step=0.05, label="Temperature")
    top_p = gr.Slider(0.05, 1, 0.95, step=0.05, label="Top-p")
    most = gr.Slider(16, chat_settings.MOST_TOKENS, tokens, step=16, label="Max tokens")
    system = gr.Textbox(label="System prompt", lines=2, placeholder="none")
    return temperature, top_p, most, system
