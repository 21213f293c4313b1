"""Widgets of the Chat tab: the conversation fills the window, above the message."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from .. import chat_settings
from ..actions.chat import ChatActions
from ..actions.lean import FIND, LeanActions, Sought
from ..frame import Frame
from .parts import QUIET, drawing, element, to_the_chosen, with_warnings

OFFERED = ("auto", "specialist", "generalist", "base")
"""Who can be chosen to speak, in this order."""

EACH = 1.0
"""Seconds between two looks at a search for the best lean."""

SPEAKS = "(run, experts) => window.comigs.speaks(run, experts)"
STOP = "() => window.comigs.talks.stop()"


def build(actions: ChatActions, leaning: LeanActions, frame: Frame) -> dict[str, Any]:
    """Put the Chat tab on the page.

    Args:
        actions: What its buttons do.
        leaning: What the button beside the lean does.
        frame: The page around it.

    Returns:
        The widgets whose values outlive a reload, by name.
    """
    with gr.Column(elem_id="chat-view"):
        view = _conversation(actions)
        with gr.Column(elem_id="composer"):
            text = _message()
            with gr.Row(elem_classes="cm-slim"):
                experts, lean = _speaker()
                _finding(leaning, lean, frame)
                element("tools", "", {}, "cm-tools")
            with gr.Column(elem_id="settings"):
                temperature, top_p, most, system = drawing()
    chosen = [frame.run, experts, lean, temperature, top_p, most, system]
    _wire(actions, view, text, chosen)
    who = [frame.run, experts]
    changes = [frame.run.change, experts.change, frame.page.load]
    gr.on(changes, None, who, None, js=SPEAKS)
    return {
        "experts": experts,
        "lean": lean,
        "temperature": temperature,
        "top_p": top_p,
        "max_tokens": most,
        "system": system,
        "message": text,
    }


def _conversation(actions: ChatActions) -> gr.HTML:
    served = ("changes", "whole", "marks", "token", "source", "stop", "rate", "show")
    functions = {name: getattr(actions, name) for name in (*served, "save")}
    return element("talk", "", functions, "cm-talk")


def _message() -> gr.Textbox:
    """The message, with one button: Send, or Stop while an answer comes."""
    return gr.Textbox(
        label="Message",
        show_label=False,
        container=False,
        placeholder="Message",
        lines=1,
        max_lines=10,
        autofocus=True,
        submit_btn=True,
        stop_btn=True,
        elem_id="message",
    )


def _speaker() -> tuple[gr.Radio, gr.Slider]:
    """Who speaks, and how far the mixture leans to one side."""
    experts = gr.Radio(
        [(chat_settings.NAMES[key], key) for key in OFFERED],
        value="auto",
        label="Who speaks",
        show_label=False,
        container=False,
        elem_id="experts",
    )
    most = chat_settings.MOST_LEAN
    lean = gr.Slider(
        -most,
        most,
        0,
        step=0.25,
        label="Lean: left to everyone, right to me",
        show_label=False,
        container=False,
        elem_id="lean",
        buttons=[],
    )
    return experts, lean


def _finding(leaning: LeanActions, lean: gr.Slider, frame: Frame) -> None:
    """The button that finds the best lean, and tells how far it is meanwhile."""
    find = gr.Button(
        FIND, size="sm", elem_id="find-lean", min_width=0, scale=0, visible=False
    )
    clock = gr.Timer(EACH, active=False)
    drawn = [find, clock, lean]

    def shown(run: Any, sought: Sought) -> Any:
        button = gr.update(value=sought.label, visible=leaning.allowed(run))
        found = gr.skip() if sought.lean is None else sought.lean
        return button, gr.Timer(active=sought.running), found

    @with_warnings
    def press(run: Any) -> Any:
        return shown(run, leaning.press(run))

    @with_warnings
    def follow(run: Any) -> Any:
        sought = leaning.sought(run)
        if sought.text:
            gr.Info(escape(sought.text), title="The best lean")
        return shown(run, sought)

    def opened(run: Any) -> Any:
        sought = leaning.sought(run)
        still = Sought() if not sought.running else sought
        return shown(run, still)

    find.click(press, frame.run, drawn, **QUIET)
    clock.tick(follow, frame.run, drawn, **QUIET)
    gr.on([frame.run.change, frame.page.load], opened, frame.run, drawn, **QUIET)


def _wire(
    actions: ChatActions, view: gr.HTML, text: gr.Textbox, chosen: list[Any]
) -> None:
    """Let the message, the conversation's own buttons and Stop do what they say."""

    @with_warnings
    def command(session: Any, data: gr.EventData, *values: Any) -> Any:
        return actions.command(session, data._data, *values)

    @with_warnings
    def say(session: Any, words: Any, *values: Any) -> Any:
        return actions.send(session, words, *values), ""

    given = [view, text, *chosen]
    text.submit(say, given, [view, text], js=to_the_chosen(2), **QUIET)
    text.stop(None, js=STOP)
    view.select(command, [view, *chosen], [view], js=to_the_chosen(1), **QUIET)
