"""What mends an error, as a button of the page beside the words for it.

An error names its remedy itself (`Mendable`), or what it is about decides
(`comigs_mlx.errors.kind_of`). `static/remedies.js` does what a button says.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from comigs_mlx.errors import ConfigError, kind_of

from . import words

LABELS = {
    "retry": "Try again",
    "edit": "Edit the message",
    "reload": "Reload the page",
    "fresh": "Begin a new chat",
    "who": "Choose who you talk to",
    "training": "Show my trainings",
    "text": "Choose another text",
    "name": "Choose another name",
    "model": "Choose another model",
    "smaller": "Take a smaller model",
    "fetch": "Download it",
    "again": "Try again",
    "next": "Try again",
    "where": "Say where it is",
    "fit": "Teach one that fits",
    "chat": "Open Chat",
    "train": "Open Train",
    "share": "Open Share",
}
"""Every remedy and what its button says; `static/remedies.js` has one for each."""

OF_KIND = {
    "memory": "smaller",
    "text": "text",
    "model": "model",
    "run": "training",
    "full": "fresh",
    "nowhere": "where",
    "misfit": "fit",
}
"""What mends an error of a kind (`errors.kind_of`), where it does not say so itself."""

IN_A_TRAINING = {kind: OF_KIND[kind] for kind in ("memory", "text", "model")}
"""The same for a training that has ended: whatever else it was, it can go on."""

IN_AN_ANSWER = {
    **dict.fromkeys(("text", "model", ""), "retry"),
    "memory": "fresh",
    "length": "edit",
    "run": "who",
}
"""The same where an answer has failed."""

IN_A_VIEW = {**dict.fromkeys(OF_KIND, ""), "run": "who"}
"""The same in Compare and Look at a text, which stand beside the chat."""

IN_A_ROUND = {"unreachable": "next", "moved": "next"}
"""The same for the one button of the Share tab."""


class Mendable(ConfigError):
    """An error that says what mends it.

    Attributes:
        remedy: A key of `LABELS`.
    """

    def __init__(self, text: str, remedy: str):
        super().__init__(text)
        self.remedy = remedy


def outdated() -> Mendable:
    """What a page is told that asks for what this version does not know."""
    return Mendable("This page is out of date: reload it.", "reload")


def of(error: BaseException, text: str, here: Mapping[str, str] | None = None) -> str:
    """The remedy for an error; empty where words say it all.

    Args:
        error: Which may have been raised from another one that names a remedy.
        text: What the page says of it: it may send its reader to a tab.
        here: Kind -> remedy, where it is another than elsewhere.
    """
    known = {**OF_KIND, **(here or {})}
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, Mendable):
            return cause.remedy
        cause = cause.__cause__
    return known.get(kind_of(error)) or (words.tab(text) or "").lower()


def button(remedy: str) -> str:
    """A remedy as HTML; empty for none, and for one that this version does not know."""
    if remedy not in LABELS:
        return ""
    label = escape(LABELS[remedy])
    # Gradio takes any attribute of our own out of its messages; a value stays.
    return f' <button type="button" class="cm-remedy" value="{remedy}">{label}</button>'


def named(remedy: str) -> dict[str, str] | None:
    """A remedy for the page's scripts: its name and what its button says."""
    known = remedy in LABELS
    return {"name": remedy, "label": LABELS[remedy]} if known else None
