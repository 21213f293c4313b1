"""Where each turn of the assistant stands in a rendered conversation, by characters.

Tokens of a part need not be tokens of the whole: the end of a prompt and the beginning
of an answer may become one. Characters of the whole rendering are unambiguous.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from comigs_mlx.data.spans import common

Message = dict[str, Any]

Render = Callable[[Sequence[Message], bool], str | None]
"""(messages, whether the assistant is to answer) -> text; None where the chat template
refuses them."""

STAND_IN = "\ue0b5\ue0b6"
"""Characters for private use: no chat template trims, splits or knows them."""


@dataclass(frozen=True)
class Turn:
    """A turn of the assistant in the whole text.

    Attributes:
        start: Its first character that the assistant produces.
        content_end: Where its content ends: what follows is the template's.
        end: Where what the template puts after it ends, such as its end token.
        complete: Whether that is all the template puts after a last turn; else `end` is
            where the two begin to differ, maybe amid a token.
    """

    start: int
    content_end: int
    end: int
    complete: bool


class Missing(enum.Enum):
    """Why a turn cannot be learned from."""

    REWRITTEN = "the template writes it otherwise once others follow"
    UNFOUND = "it cannot be found in the rendering"


def _calling(message: Message, name: str) -> Message:
    """What calls a tool of that name in the place of the first; {} without any."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list) or not calls or not isinstance(calls[0], dict):
        return {}
    call = {**calls[0]}
    if isinstance(call.get("function"), dict):
        call["function"] = {**call["function"], "name": name}
    else:
        call["name"] = name
    return {"tool_calls": [call, *calls[1:]]}


class Turns:
    """The turns of one conversation."""

    def __init__(self, messages: Sequence[Message], text: str, render: Render) -> None:
        """Of `messages`, which `render` makes the whole `text` of."""
        self._messages, self._text, self._render = list(messages), text, render
        self._stand_in = STAND_IN
        # One that stands in no message cannot be taken for it.
        while self._stand_in in text:
            self._stand_in += STAND_IN

    def find(self, turn: int) -> Turn | Missing:
        """Where message number `turn` stands, if the model would produce it so.

        What the model produces is known from the conversation that ends with it:
        all that follows the prompt. It is sought in the whole conversation.
        """
        prompt = self._render(self._messages[:turn], True) if turn else None
        alone = self._render(self._messages[: turn + 1], False)
        if alone is None:
            return self._by_content(turn, prompt)
        begin = self._begin(alone, turn, prompt)
        start = self._start(turn, prompt, alone, begin)
        if begin is None or start is None:
            return Missing.UNFOUND
        produced = alone[begin:]
        content = len(produced) - self._tail(turn, produced)
        same = common(produced, self._text[start : start + len(produced)])
        if same < content:
            return Missing.REWRITTEN
        return Turn(start, start + content, start + same, same == len(produced))

    def _begin(self, alone: str, turn: int, prompt: str | None) -> int | None:
        """Where the turn begins in the conversation that ends with it."""
        if prompt is not None and alone.startswith(prompt):
            return len(prompt)
        at = self._words(alone, turn)
        if at is None:
            return None
        if prompt is None:
            # Before the first message there is no prompt: only what always opens one.
            opening = "" if turn else self._opening()
            found = alone.rfind(opening, 0, at) if opening else -1
            return found + len(opening) if found >= 0 else at
        # A prompt may open what the rendering lacks, such as a thinking block.
        context = self._render(self._messages[:turn], False) or ""
        shared = common(prompt, alone[:at])
        known = context != "" and alone.startswith(context)
        return shared if known and shared > len(context) else at

    def _start(
        self, turn: int, prompt: str | None, alone: str, begin: int | None
    ) -> int | None:
        """Where the turn begins in the whole text."""
        if prompt is not None and self._text.startswith(prompt):
            return len(prompt)
        # What comes before it is rendered otherwise: it is found by its own words, and
        # what the model writes before them, such as a thinking block.
        words, known = self._words(self._text, turn), self._words(alone, turn)
        if words is None or known is None or begin is None:
            return None
        lead = alone[begin:known]
        return words - len(lead) if self._text[:words].endswith(lead) else words

    def _words(self, text: str, turn: int) -> int | None:
        """Where in `text`, of all messages or those up to it, a turn's words begin."""
        whole = len(self._messages) if text == self._text else turn + 1
        for swapped in self._swapped(turn, whole):
            at = swapped.find(self._stand_in)
            if at >= 0:
                return common(text[:at], swapped[:at])
        return None

    def _by_content(self, turn: int, prompt: str | None) -> Turn | Missing:
        """The turn where the template refuses a conversation that ends with it."""
        *_, swapped = self._swapped(turn, len(self._messages)) or [""]
        before, found, after = swapped.partition(self._stand_in)
        end = len(self._text) - len(after)
        fits = self._text.startswith(before) and self._text.endswith(after)
        by_prompt = prompt is not None and self._text.startswith(prompt)
        start = len(prompt or "") if by_prompt else len(before)
        if not found or not fits or end < start:
            return Missing.UNFOUND
        return Turn(start, end, end, complete=False)

    def _tail(self, turn: int, produced: str) -> int:
        """Characters at the end of `produced` that the template adds to any answer."""
        answer = {"role": "assistant", "content": self._stand_in}
        rendered = self._render([*self._messages[:turn], answer], False) or ""
        _, found, tail = rendered.rpartition(self._stand_in)
        return len(tail) if found and produced.endswith(tail) else 0

    def _swapped(self, turn: int, count: int) -> list[str]:
        """`count` messages with the stand-in as what one of them calls, or says."""
        message, made = self._messages[turn], []
        for changed in (_calling(message, self._stand_in), {"content": self._stand_in}):
            messages = self._messages[:count]
            messages[turn] = {**message, **changed}
            rendered = self._render(messages, False) if changed else None
            made += [] if rendered is None else [rendered]
        return made

    def _opening(self) -> str:
        """What a prompt ends with so that the assistant answers; "" if unknown."""
        question = [{"role": "user", "content": self._stand_in}]
        without, prompt = self._render(question, False), self._render(question, True)
        if without is None or prompt is None or not prompt.startswith(without):
            return ""
        return prompt[len(without) :]
