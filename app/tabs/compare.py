"""The view Compare, which its script fills."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from ..actions.compare import CompareActions
from ..frame import Frame
from . import views
from .parts import QUIET, element, to_the_chosen, with_warnings


def build(actions: CompareActions, frame: Frame, drawing: Sequence[Any]) -> None:
    """Put the view on the page.

    Args:
        actions: What it asks for.
        frame: The page around it.
        drawing: The talk's temperature, top-p, longest answer and system prompt.
    """
    served = {"changes": actions.changes, "token": actions.token}
    with views.place(views.COMPARE):
        view = element("compare.mount", "", served, "cm-compare")

    @with_warnings
    def order(session: Any, data: gr.EventData, *values: Any) -> Any:
        return actions.order(session, data._data, *values)

    view.select(
        order, [view, frame.run, *drawing], [view], js=to_the_chosen(1), **QUIET
    )
