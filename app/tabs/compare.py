"""Widgets of the Compare tab."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ..actions.chat import CompareActions
from ..frame import Frame
from .parts import QUIET, drawing, element, with_warnings

EMPTY = "One prompt, answered by the base model, each side alone, and the mixture."


def build(actions: CompareActions, frame: Frame) -> None:
    """Put the Compare tab on the page; see `tabs.chat.build`."""
    text = gr.Textbox(label="Prompt", lines=1, max_lines=8, elem_id="compare-prompt")
    with gr.Row(elem_classes="cm-buttons"):
        ask = gr.Button("Compare", variant="primary", elem_id="compare", min_width=90)
        stop = gr.Button("Stop", elem_id="compare-stop", min_width=90)
    with gr.Accordion("Settings", open=False):
        temperature, top_p, most, system = drawing(128)
    view = element(
        "feed",
        f"name: 'compare', editable: false, empty: {EMPTY!r}",
        {"changes": actions.changes},
        "cm-feed cm-columns",
    )
    chosen = [frame.run, temperature, top_p, most, system]

    @with_warnings
    def compare(session: Any, words: Any, *values: Any) -> Any:
        return actions.ask(session, words, *values)

    for event in (ask.click, text.submit):
        event(compare, [view, text, *chosen], [view], **QUIET)
    stop.click(with_warnings(actions.stop), [view], **QUIET)
