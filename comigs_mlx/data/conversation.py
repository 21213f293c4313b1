"""A conversation's tokens, and which of them the assistant produces.

Turns are located by the characters of the rendering (`comigs_mlx.data.turns`), and what
a template like Qwen3's rewrites once other turns follow is not learned from.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from comigs_mlx.data import tool_calls
from comigs_mlx.data.spans import OffsetPlaces, Places, PrefixPlaces
from comigs_mlx.data.splits import Sample
from comigs_mlx.data.turns import Message, Missing, Turn, Turns
from comigs_mlx.errors import DataError

Ints = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]

GENERATION_TAG = re.compile(r"{%-?\s*generation\s*-?%}")
"""What a chat template puts around the assistant's tokens, where it marks them."""


class Tokenizer(Protocol):
    """What is used of mlx-lm's `TokenizerWrapper`, or of a transformers tokenizer."""

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends a document."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Tokens of `text`."""

    def apply_chat_template(self, messages: list[Any], /, **options: Any) -> Any:
        """Tokens of a conversation."""


def has_template(tokenizer: Tokenizer) -> bool:
    """Whether `tokenizer` can render conversations."""
    known = getattr(tokenizer, "has_chat_template", None)
    template = getattr(tokenizer, "chat_template", None)
    return bool(template if known is None else known)


def inner_tokenizer(tokenizer: Tokenizer) -> Any:
    """The transformers tokenizer in mlx-lm's wrapper; any other one as it is."""
    # A transformers tokenizer has a `_tokenizer` too, which knows no templates.
    inner = getattr(tokenizer, "_tokenizer", None)
    return inner if hasattr(inner, "apply_chat_template") else tokenizer


@dataclass(frozen=True)
class Mask:
    """Which tokens of a conversation the assistant produces.

    Attributes:
        labelled: [T] bool.
        rewritten: Turns left out, for the template writes them otherwise later on.
        unfound: Turns left out, for they were not found in the rendering.
        endless: Turns after which no special token is learned, so nothing that ends.
    """

    labelled: Bools
    rewritten: int = 0
    unfound: int = 0
    endless: int = 0


class ChatTokenizer:
    """A tokenizer with its chat template, and the tokens it treats as special."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Of mlx-lm's wrapper, or of a transformers tokenizer."""
        self.tokenizer, self.inner = tokenizer, inner_tokenizer(tokenizer)

    @functools.cached_property
    def ends(self) -> frozenset[int]:
        """Tokens at which generation stops."""
        known = getattr(self.tokenizer, "eos_token_ids", None) or ()
        end = self.tokenizer.eos_token_id
        return frozenset(known) | (frozenset() if end is None else {end})

    @functools.cached_property
    def specials(self) -> frozenset[int]:
        """Tokens that no text is made of, those at which generation stops included."""
        named = getattr(self.inner, "all_special_ids", None) or ()
        added = getattr(self.inner, "added_tokens_decoder", None) or {}
        marked = [number for number, token in added.items() if token.special]
        return self.ends | frozenset(named) | frozenset(marked)

    def render(
        self,
        messages: Sequence[Message],
        tools: Any,
        prompted: bool = False,
        tokenize: bool = False,
    ) -> Any:
        """Text, or tokens, of `messages`.

        Args:
            messages: The turns of the conversation.
            tools: What the template is told of tools.
            prompted: Whether the assistant is to answer next.
            tokenize: Whether tokens are returned, and not text.

        Raises:
            DataError: If the template refuses them.
        """
        try:
            return self.tokenizer.apply_chat_template(
                list(messages),
                tools=tools,
                add_generation_prompt=prompted,
                tokenize=tokenize,
                return_dict=False,
            )
        # A template is a program of its own and may raise anything.
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise DataError(f"the chat template refuses it: {reason}") from error

    def places(self, text: str, tokens: list[int]) -> Places:
        """From the characters of `text` to `tokens`, which it became."""
        if getattr(self.inner, "is_fast", False):
            found = self.inner(
                text, add_special_tokens=False, return_offsets_mapping=True
            )
            if list(found["input_ids"]) == tokens:
                return OffsetPlaces(found["offset_mapping"])
        encode = functools.partial(self.tokenizer.encode, add_special_tokens=False)
        return PrefixPlaces(text, tokens, encode)

    def marks(self, messages: Sequence[Message], tools: Any) -> tuple[list[int], Bools]:
        """Tokens, and which of them the template itself marks as generated, if any."""
        template = getattr(self.tokenizer, "chat_template", None)
        none = np.zeros(0, np.bool_)
        if not isinstance(template, str) or not GENERATION_TAG.search(template):
            return [], none
        # mlx-lm's wrapper always sets return_dict=False, which excludes the mask; what
        # else it sets is set here too.
        known = getattr(self.tokenizer, "has_thinking", None)
        thinking = {} if known is None else {"enable_thinking": known}
        try:
            found = self.inner.apply_chat_template(
                list(messages),
                tools=tools,
                tokenize=True,
                return_dict=True,
                return_assistant_tokens_mask=True,
                **thinking,
            )
        # Tokenizers without character offsets cannot map the marks to tokens.
        except Exception:
            return [], none
        return list(found["input_ids"]), np.array(found["assistant_masks"], np.bool_)


class Conversation:
    """A conversation, rendered in full and, for the mask, turn by turn.

    Attributes:
        messages: The turns; a prompt/completion pair is one of user and assistant.
        tokens: The whole conversation, T tokens.
    """

    def __init__(self, sample: Sample, tokenizer: Tokenizer | ChatTokenizer) -> None:
        """Render `sample`; raises `DataError` where the template refuses it."""
        self._chat = (
            tokenizer
            if isinstance(tokenizer, ChatTokenizer)
            else ChatTokenizer(tokenizer)
        )
        self.messages: list[Message] = sample.get("messages") or [
            {"role": "user", "content": sample["prompt"]},
            {"role": "assistant", "content": sample["completion"]},
        ]
        self._tools = sample.get("tools")
        self.messages = self._with_arguments(self.messages)
        self.tokens: list[int] = list(
            self._chat.render(self.messages, self._tools, tokenize=True)
        )

    def _with_arguments(self, messages: list[Message]) -> list[Message]:
        """The messages with the arguments of tool calls as the template wants them."""
        objects = tool_calls.with_objects(messages)
        if objects is None:
            return messages
        strings = tool_calls.with_strings(objects)
        rendered = self._text(objects)
        if rendered is not None and not tool_calls.prints_python(objects, rendered):
            return objects
        return objects if self._text(strings) is None else strings

    def _text(self, messages: Sequence[Message], prompted: bool = False) -> str | None:
        """The text of `messages`; None where the template refuses them."""
        try:
            text = self._chat.render(messages, self._tools, prompted)
        except DataError:
            return None
        return text if isinstance(text, str) else None

    def assistant_mask(self) -> Mask:
        """Where the assistant speaks, each turn with its end token."""
        text = self._text(self.messages) or ""
        turns = Turns(self.messages, text, self._text)
        places = self._chat.places(text, self.tokens)
        found = [
            turns.find(number)
            for number, message in enumerate(self.messages)
            if message["role"] == "assistant"
        ]
        spans = [self._span(t, places) for t in found if isinstance(t, Turn)]
        marked = self._marked(spans)
        if marked is not None:
            return marked
        labelled = np.zeros(len(self.tokens), np.bool_)
        for start, _, end in spans:
            labelled[start:end] = True
        return Mask(
            labelled,
            found.count(Missing.REWRITTEN),
            found.count(Missing.UNFOUND),
            sum(self._special(content, end) is None for _, content, end in spans),
        )

    def _span(self, turn: Turn, places: Places) -> tuple[int, int, int]:
        """Tokens of a turn: the first, the one after its content, the one after all.

        A token of both sides of a border belongs to the turn where it holds some of the
        answer; a special one holds spaces at most, and belongs to where it begins.
        """
        start, whole = places.before(turn.start)
        start += not whole and self._is(start, self._chat.specials)
        content, whole = places.before(turn.content_end)
        if turn.content_end > turn.start:
            content += not whole and not self._is(content, self._chat.specials)
        end, whole = places.before(turn.end)
        end += not whole and turn.complete and self._is(end, self._chat.specials)
        end = max(end, content)
        if self._special(content, end) is None:
            end += self._is(end, self._chat.ends)
        return start, content, end

    def _is(self, place: int, kind: frozenset[int]) -> bool:
        """Whether the token at `place`, if there is one, is one of a kind."""
        return place < len(self.tokens) and self.tokens[place] in kind

    def _special(self, start: int, end: int) -> int | None:
        """The first special token from `start` on and before `end`."""
        places = range(start, end)
        return next((i for i in places if self.tokens[i] in self._chat.specials), None)

    def _marked(self, spans: list[tuple[int, int, int]]) -> Mask | None:
        """The mask that the template itself gives, if it marks generated tokens.

        Marks that end before a turn's end token are carried on to it.
        """
        tokens, labelled = self._chat.marks(self.messages, self._tools)
        # The wrapper may render with other options; a mask of other tokens is no use.
        if tokens != self.tokens or not labelled.any():
            return None
        ends = set(self._chat.ends)
        for start, content, end in spans:
            last = self._special(content, end)
            if last is not None and labelled[start:end].any():
                ends.add(tokens[last])
                labelled[max(content, start) : last + 1] = True
        endless = 0
        after = np.flatnonzero(labelled[:-1] & ~labelled[1:]) + 1
        for place in [*after.tolist(), *([len(tokens)] if labelled[-1] else [])]:
            if place < len(tokens) and tokens[place] in ends:
                labelled[place] = True
            elif self._special(max(place - 2, 0), place) is None:
                endless += 1
        return Mask(labelled, endless=endless)
