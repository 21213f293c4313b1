"""Widgets of the Chat tab."""

from __future__ import annotations

from typing import Any

import gradio as gr

from .. import chat_settings
from ..actions.chat import ChatActions
from ..frame import Frame
from .parts import QUIET, drawing, element, with_warnings

EMPTY = (
    "Say something. Every word of the answer is tinted by who spoke it: what everyone "
    "shares, or what only you have."
)


def build(actions: ChatActions, frame: Frame) -> dict[str, Any]:
    """Put the Chat tab on the page.

    Args:
        actions: What its buttons do.
        frame: The page around it.

    Returns:
        The widgets whose values outlive a reload, by name.
    """
    with gr.Row(elem_classes="cm-choices"):
        experts = gr.Radio(
            [(name, key) for key, name in chat_settings.NAMES.items()],
            value="auto",
            label="Who speaks",
            elem_id="experts",
        )
        blend = gr.Slider(
            0, 100, 50, step=5, label="Specialist share (%)", visible=False
        )
    view = element(
        "feed",
        f"name: 'chat', editable: true, empty: {EMPTY!r}",
        {
            "changes": actions.changes,
            "save": actions.save,
            "kept": actions.kept,
            "forget": actions.forget,
        },
        "cm-feed",
    )
    text = gr.Textbox(
        label="Message",
        placeholder="Enter sends, Shift+Enter makes a new line",
        lines=1,
        max_lines=8,
        elem_id="message",
    )
    with gr.Row(elem_classes="cm-buttons"):
        send = gr.Button("Send", variant="primary", elem_id="send", min_width=90)
        stop = gr.Button("Stop", elem_id="stop", min_width=90)
        clear = gr.Button("Clear", elem_id="clear", min_width=90)
        page_file = gr.Button("Save as HTML", elem_id="save-html", min_width=90)
        trace_file = gr.Button("Save as JSON", elem_id="save-json", min_width=90)
    with gr.Accordion("Settings", open=False):
        temperature, top_p, most, system = drawing()
    chosen = [frame.run, experts, blend, temperature, top_p, most, system]

    @with_warnings
    def command(session: Any, data: gr.EventData, *values: Any) -> Any:
        return actions.command(session, data._data, *values)

    @with_warnings
    def say(session: Any, words: Any, *values: Any) -> Any:
        return actions.send(session, words, *values), ""

    for sent in (send.click, text.submit):
        sent(say, [view, text, *chosen], [view, text], **QUIET)
    view.select(command, [view, *chosen], [view], **QUIET)
    stop.click(with_warnings(actions.stop), [view], **QUIET)
    clear.click(with_warnings(actions.clear), [view], [view], **QUIET)
    page_file.click(None, js="() => window.comigs.save('chat', 'html')")
    trace_file.click(None, js="() => window.comigs.save('chat', 'json')")
    experts.change(
        lambda name: gr.update(visible=name == "blend"), experts, blend, **QUIET
    )
    return {
        "experts": experts,
        "blend": blend,
        "temperature": temperature,
        "top_p": top_p,
        "max_tokens": most,
        "system": system,
        "message": text,
    }
