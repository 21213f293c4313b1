"""What is known of one answer beside its text and its tokens."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NOT_A_CHAT_MODEL = (
    "this base model has no chat template: it goes on with the text rather than answer"
)

RATINGS = (-1, 0, 1)

NUMBER = (int, float)

KINDS: Mapping[str, Any] = {
    "title": str,
    "run": str,
    "base": str,
    "experts": list,
    "layers": list,
    "count": int,
    "seconds": NUMBER,
    "share": (*NUMBER, type(None)),
    "finish": (str, type(None)),
    "remark": str,
    "problem": (str, type(None)),
    "remedy": str,
    "stopped": bool,
    "ended": bool,
    "left_out": int,
    "waits": bool,
    "chat": bool,
    "rating": int,
    "settings": dict,
}
"""The kind that each value of an answer has in a file."""


@dataclass
class Answer:
    """Who gave an answer, how, and why it ended.

    Attributes:
        title: A name for who spoke, such as "Together".
        run: The name of the run that spoke; "" for the base model alone.
        base: The base model's id; empty until the model is there.
        experts: The names of the run's experts.
        layers: The paths of the blocks that hold them.
        count: The number of tokens so far.
        seconds: The time that the tokens took; 0 where it is not known.
        share: The specialists' share, 0 to 1; None where nothing was routed.
        finish: The end as the last token tells it: "stop", "length" or None.
        remark: The line under it, on what a reader would not expect; see `end`.
        problem: A sentence on why it failed; None where it did not.
        remedy: A name for what would mend that, which the app has a button for.
        stopped: Whether somebody ended it, or the end of the app did.
        ended: Whether it is whole; an answer under way is not.
        left_out: The number of the oldest messages that the model did not read.
        waits: Whether it was not begun, until the user allows that these are left out.
        chat: Whether the model has a chat template.
        rating: The user's thumb: -1 is down, 1 up, 0 none.
        settings: The settings that it was asked with, as JSON values.
    """

    title: str = ""
    run: str = ""
    base: str = ""
    experts: list[str] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    count: int = 0
    seconds: float = 0.0
    share: float | None = None
    finish: str | None = None
    remark: str = ""
    problem: str | None = None
    remedy: str = ""
    stopped: bool = False
    ended: bool = False
    left_out: int = 0
    waits: bool = False
    chat: bool = True
    rating: int = 0
    settings: dict[str, Any] = field(default_factory=dict)

    def end(self, extra: str = "") -> None:
        """Close it, and write the line under it.

        Args:
            extra: A further part of the line, such as "the app ended".
        """
        self.ended, self.remark = True, ""
        if self.waits:  # the page asks, and says why
            return
        parts = [] if self.count or self.problem else ["nothing was said"]
        if self.stopped:
            parts.append("stopped")
        elif self.finish == "length":
            parts.append("as long as you allowed: it can go on")
        if self.left_out:
            parts.append(
                f"the conversation is longer than the model reads: its {self.left_out} "
                "oldest messages were left out"
            )
        if not self.chat:
            parts.append(NOT_A_CHAT_MODEL)
        self.remark = " · ".join([*parts, extra] if extra else parts)

    def interrupt(self) -> None:
        """Close an answer that was under way when the app ended."""
        self.stopped = True
        self.end("the app ended")

    def as_json(self) -> dict[str, Any]:
        """JSON values, read by `answer_from_json`."""
        return dataclasses.asdict(self)


def answer_from_json(values: Any) -> Answer:
    """An answer that `Answer.as_json` wrote; what is not there keeps its default.

    Raises:
        ValueError: If a value cannot be.
    """
    if not isinstance(values, dict):
        raise ValueError("an answer is an object")
    given = {name: values[name] for name in KINDS if name in values}
    wrong = [name for name, value in given.items() if not _fits(name, value)]
    if wrong:
        raise ValueError(f"an answer's {wrong[0]} cannot be that")
    return Answer(**given)


def _fits(name: str, value: Any) -> bool:
    if not isinstance(value, KINDS[name]):
        return False
    if isinstance(value, list):
        return all(isinstance(one, str) for one in value)
    if name == "rating":
        return value in RATINGS
    return not isinstance(value, float) or math.isfinite(value)
