"""The view Look at a text, which its script fills."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ..actions.look import LookActions
from ..frame import Frame
from . import views
from .parts import QUIET, element, to_the_chosen, with_warnings


def build(actions: LookActions, frame: Frame) -> None:
    """Put the view on the page.

    Args:
        actions: What it asks for.
        frame: The page around it.
    """
    served = {
        "changes": actions.changes,
        "token": actions.token,
        "runs": actions.runs,
    }
    with views.place(views.LOOK):
        view = element("look.mount", "", served, "cm-look")

    @with_warnings
    def order(session: Any, data: gr.EventData, run: Any) -> Any:
        return actions.order(session, data._data, run)

    view.select(order, [view, frame.run], [view], js=to_the_chosen(1), **QUIET)
