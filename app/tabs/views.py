"""The views of the chat: what is shown in the place of the talk, one at a time.

All of them are on the page; `static/views.js` says which one is to be seen.
"""

from __future__ import annotations

import gradio as gr

TALK, COMPARE, LOOK = "chat", "compare", "look"
"""The views, as `comigs.view` names them."""

DRAWING = ("temperature", "top_p", "max_tokens", "system")
"""Settings of the talk that a comparison is drawn by, too."""


def place(name: str) -> gr.Column:
    """The column of a view, to be filled: `with place(COMPARE): ...`."""
    return gr.Column(elem_id=f"view-{name}", elem_classes="cm-view")
