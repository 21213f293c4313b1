"""Locates each turn of the assistant in a rendered conversation, by characters.

Tokens of a part need not be tokens of the whole: the end of a prompt and the beginning
of an answer may become one. Characters of the whole rendering are unambiguous.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from comigs_mlx.data.spans import common
from comigs_mlx.data.tool_calls import Message

Render = Callable[[Sequence[Message], bool], str | None]
"""Renders messages, and a prompt for an answer if told so, as text.

It returns None where the chat template refuses them.
"""

STAND_IN = "\ue0b5\ue0b6"
"""Characters for private use, which no chat template trims, splits or knows."""


@dataclass(frozen=True)
class Turn:
    """A turn of the assistant in the whole text.

    Attributes:
        start: The first character that the assistant produces.
        content_end: The end of its content; what follows is the template's.
        end: The end of what the template puts after it, such as its end token.
        complete: Whether this is all that the template puts after a last turn; else
            `end` is where the two begin to differ, maybe amid a token.
    """

    start: int
    content_end: int
    end: int
    complete: bool


class NotLearnable(enum.Enum):
    """Why a turn cannot be learned from."""

    REWRITTEN = "the template writes it otherwise once others follow"
    UNFOUND = "it cannot be found in the rendering"


def _calling(message: Message, name: str) -> Message:
    """Rename the first tool that `message` calls to `name`; return {} if it calls
    none.
    """
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
        """Take `messages`, which `render` turns into the whole `text`."""
        self._messages, self._text, self._render = list(messages), text, render
        self._stand_in = STAND_IN
        # The stand-in must not occur in a message, which it could be mistaken for.
        while self._stand_in in text:
            self._stand_in += STAND_IN

    def find(self, turn: int) -> Turn | NotLearnable:
        """Locate message number `turn`, if the model would produce it like that.

        The model produces what follows the prompt in the conversation that ends with
        this message. That text is then looked for in the whole conversation.
        """
        prompt = self._render(self._messages[:turn], True) if turn else None
        alone = self._render(self._messages[: turn + 1], False)
        if alone is None:
            return self._by_content(turn, prompt)
        begin = self._begin(alone, turn, prompt)
        start = self._start(turn, prompt, alone, begin)
        if begin is None or start is None:
            return NotLearnable.UNFOUND
        produced = alone[begin:]
        content = len(produced) - self._tail(turn, produced)
        shared = common(produced, self._text[start : start + len(produced)])
        if shared < content:
            return NotLearnable.REWRITTEN
        return Turn(start, start + content, start + shared, shared == len(produced))

    def _begin(self, alone: str, turn: int, prompt: str | None) -> int | None:
        """Return where the turn begins in the conversation that ends with it."""
        if prompt is not None and alone.startswith(prompt):
            return len(prompt)
        at = self._words(alone, turn)
        if at is None:
            return None
        if prompt is None:
            # Before the first message there is no prompt: only what always opens one.
            opening = "" if turn else self._opening()
            opened_at = alone.rfind(opening, 0, at) if opening else -1
            return opened_at + len(opening) if opened_at >= 0 else at
        # A prompt may open what the rendering lacks, such as a thinking block.
        context = self._render(self._messages[:turn], False) or ""
        shared = common(prompt, alone[:at])
        is_extended = context != "" and alone.startswith(context)
        return shared if is_extended and shared > len(context) else at

    def _start(
        self, turn: int, prompt: str | None, alone: str, begin: int | None
    ) -> int | None:
        """Return where the turn begins in the whole text."""
        if prompt is not None and self._text.startswith(prompt):
            return len(prompt)
        # What comes before it is rendered otherwise: it is found by its own words, and
        # what the model writes before them, such as a thinking block.
        words, words_alone = self._words(self._text, turn), self._words(alone, turn)
        if words is None or words_alone is None or begin is None:
            return None
        lead = alone[begin:words_alone]
        return words - len(lead) if self._text[:words].endswith(lead) else words

    def _words(self, text: str, turn: int) -> int | None:
        """Return where the words of a turn begin in `text`, of all messages or up to
        it.
        """
        count = len(self._messages) if text == self._text else turn + 1
        for swapped in self._swapped(turn, count):
            at = swapped.find(self._stand_in)
            if at >= 0:
                return common(text[:at], swapped[:at])
        return None

    def _by_content(self, turn: int, prompt: str | None) -> Turn | NotLearnable:
        """Locate a turn where the template refuses a conversation that ends with it."""
        *_, swapped = self._swapped(turn, len(self._messages)) or [""]
        before, stand_in, after = swapped.partition(self._stand_in)
        end = len(self._text) - len(after)
        fits = self._text.startswith(before) and self._text.endswith(after)
        by_prompt = prompt is not None and self._text.startswith(prompt)
        start = len(prompt or "") if by_prompt else len(before)
        if not stand_in or not fits or end < start:
            return NotLearnable.UNFOUND
        return Turn(start, end, end, complete=False)

    def _tail(self, turn: int, produced: str) -> int:
        """Count the characters at the end of `produced` that follow any answer."""
        answer = {"role": "assistant", "content": self._stand_in}
        rendered = self._render([*self._messages[:turn], answer], False) or ""
        _, stand_in, tail = rendered.rpartition(self._stand_in)
        return len(tail) if stand_in and produced.endswith(tail) else 0

    def _swapped(self, turn: int, count: int) -> list[str]:
        """Render `count` messages, with the stand-in as one message's call or as its
        content.
        """
        message, renderings = self._messages[turn], []
        for changed in (_calling(message, self._stand_in), {"content": self._stand_in}):
            messages = self._messages[:count]
            messages[turn] = {**message, **changed}
            rendered = self._render(messages, False) if changed else None
            renderings += [] if rendered is None else [rendered]
        return renderings

    def _opening(self) -> str:
        """Return what a prompt ends with so that the assistant answers; "" if
        unknown.
        """
        question = [{"role": "user", "content": self._stand_in}]
        without, prompt = self._render(question, False), self._render(question, True)
        if without is None or prompt is None or not prompt.startswith(without):
            return ""
        return prompt[len(without) :]
