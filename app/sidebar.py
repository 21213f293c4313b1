"""Widgets of the sidebar, and the choice of who is talked to."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from .actions import runs
from .actions.chat import ChatActions
from .actions.sidebar import SidebarActions
from .tabs.parts import QUIET, element

WIDTH = 300
"""Pixels."""


def build(actions: SidebarActions, chats: ChatActions, first: str) -> gr.Textbox:
    """Put the sidebar on the page.

    Args:
        actions: What it shows.
        chats: What can be done with conversations.
        first: The run to begin with.

    Returns:
        A box that nobody sees: its value is the name of the run that is talked to.
    """
    with gr.Sidebar(width=WIDTH, elem_id="side"):
        run = gr.Textbox(first, visible="hidden", elem_id="run")
        functions = {
            "state": actions.state,
            "rename": chats.rename,
            "forget": chats.forget,
            "restore": chats.restore,
            "keep": chats.keep,
            "save": chats.save,
        }
        panel = element("sidebar", f"run: {json.dumps(first)}", functions, "cm-side")

    def choose(data: gr.EventData) -> Any:
        return str(data._data.get("run") or runs.BASE)

    # Who is quick to choose another one must not be ignored.
    panel.select(choose, None, run, trigger_mode="multiple", **QUIET)
    run.change(None, run, None, js="(run) => window.comigs.chosen(run)")
    return run
