"""Widgets of the Routing tab."""

from __future__ import annotations

import gradio as gr

from ..actions.routing import RoutingActions
from ..frame import Frame
from .parts import QUIET, SLOW, element, html, with_warnings


def build(actions: RoutingActions, frame: Frame) -> gr.Dropdown:
    """Put the Routing tab on the page.

    Args:
        actions: What its buttons do.
        frame: The page around it.

    Returns:
        Its second choice of run, to be filled like the first.
    """
    text = gr.Textbox(label="Text", lines=4, max_lines=12, elem_id="routing-text")
    with gr.Accordion("Side by side with another text or run", open=False):
        other = gr.Textbox(label="Second text", lines=3, placeholder="the same text")
        other_run = gr.Dropdown([], label="Second run", elem_id="other-run")
    score = gr.Button("Score", variant="primary", elem_id="score")
    told_wait = html("routing-wait")
    view = element("routing", "", {}, "cm-routing")
    score.click(actions.waiting, None, told_wait, **QUIET).then(
        with_warnings(actions.score),
        [text, frame.run, other, other_run],
        [view],
        **SLOW,
    ).then(lambda: "", None, told_wait, **QUIET)
    return other_run
