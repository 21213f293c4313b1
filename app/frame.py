"""What every tab shares with the page around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

CHAT, TRAIN, SHARE = "chat", "train", "share"
"""The tabs, as the address's hash names them."""


@dataclass(frozen=True)
class Frame:
    """The page, while it is built.

    Attributes:
        page: The page itself, whose `load` is an event.
        run: The component whose value is the name of the run that is talked to; "" is
            the base model alone. It tells of its changes by `change`.
        tabs: The tabs; `gr.Tabs(selected=CHAT)` as its update opens the chat.
    """

    page: gr.Blocks
    run: Any
    tabs: gr.Tabs
