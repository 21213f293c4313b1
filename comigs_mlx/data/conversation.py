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
from comigs_mlx.data.turns import Message, NotLearnable, Turn, Turns
from comigs_mlx.errors import DataError

Ints = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]

GENERATION_TAG = re.compile(r"{%-?\s*generation\s*-?%}")
"""The tag that a chat template puts around the assistant's tokens, if it marks them."""


class Tokenizer(Protocol):
    """The part of mlx-lm's `TokenizerWrapper`, or of a transformers tokenizer, that is
    used.
    """

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends a document."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Turn `text` into tokens."""

    def apply_chat_template(self, messages: list[Any], /, **options: Any) -> Any:
        """Turn a conversation into tokens, or into text."""


def has_template(tokenizer: Tokenizer) -> bool:
    """Tell whether `tokenizer` can render conversations."""
    by_wrapper = getattr(tokenizer, "has_chat_template", None)
    template = getattr(tokenizer, "chat_template", None)
    return bool(template if by_wrapper is None else by_wrapper)


def inner_tokenizer(tokenizer: Tokenizer) -> Any:
    """Return the transformers tokenizer in mlx-lm's wrapper, or any other one as it
    is.
    """
    # A transformers tokenizer has a `_tokenizer` too, which knows no templates.
    inner = getattr(tokenizer, "_tokenizer", None)
    return inner if hasattr(inner, "apply_chat_template") else tokenizer


@dataclass(frozen=True)
class Mask:
    """The tokens of a conversation that the assistant produces.

    Attributes:
        labelled: True where the assistant produces the token, [T] bool.
        rewritten: The number of turns left out because the template rewrites them later
            on.
        unfound: The number of turns left out because the rendering does not show them.
        endless: The number of turns after which no special token is learned, so that
            the model does not learn to stop there.
    """

    labelled: Bools
    rewritten: int = 0
    unfound: int = 0
    endless: int = 0


class ChatTokenizer:
    """A tokenizer with its chat template, and the tokens it treats as special."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Wrap mlx-lm's wrapper, or a transformers tokenizer."""
        self.tokenizer, self.inner = tokenizer, inner_tokenizer(tokenizer)

    @functools.cached_property
    def ends(self) -> frozenset[int]:
        """Tokens at which generation stops."""
        several = getattr(self.tokenizer, "eos_token_ids", None) or ()
        end = self.tokenizer.eos_token_id
        return frozenset(several) | (frozenset() if end is None else {end})

    @functools.cached_property
    def specials(self) -> frozenset[int]:
        """Tokens that no text is made of, those at which generation stops included."""
        listed = getattr(self.inner, "all_special_ids", None) or ()
        by_number = getattr(self.inner, "added_tokens_decoder", None) or {}
        flagged = [number for number, token in by_number.items() if token.special]
        return self.ends | frozenset(listed) | frozenset(flagged)

    def render(
        self,
        messages: Sequence[Message],
        tools: Any,
        prompted: bool = False,
        tokenize: bool = False,
    ) -> Any:
        """Render `messages` as text, or as tokens.

        Args:
            messages: The turns of the conversation.
            tools: The descriptions of tools that the template may print, or None.
            prompted: Whether the assistant is to answer next.
            tokenize: Whether tokens are returned instead of text.

        Raises:
            DataError: If the template refuses the messages.
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
        """Map the characters of `text` to `tokens`, which the text became."""
        if getattr(self.inner, "is_fast", False):
            encoded = self.inner(
                text, add_special_tokens=False, return_offsets_mapping=True
            )
            if list(encoded["input_ids"]) == tokens:
                return OffsetPlaces(encoded["offset_mapping"])
        encode = functools.partial(self.tokenizer.encode, add_special_tokens=False)
        return PrefixPlaces(text, tokens, encode)

    def marks(self, messages: Sequence[Message], tools: Any) -> tuple[list[int], Bools]:
        """Return the tokens, and which of them the template itself marks as
        generated.
        """
        template = getattr(self.tokenizer, "chat_template", None)
        none = np.zeros(0, np.bool_)
        if not isinstance(template, str) or not GENERATION_TAG.search(template):
            return [], none
        # mlx-lm's wrapper always sets return_dict=False, which excludes the mask. So it
        # is passed by, and its one other setting is repeated here.
        has_thinking = getattr(self.tokenizer, "has_thinking", None)
        thinking = {} if has_thinking is None else {"enable_thinking": has_thinking}
        try:
            rendered = self.inner.apply_chat_template(
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
        return list(rendered["input_ids"]), np.array(
            rendered["assistant_masks"], np.bool_
        )


class Conversation:
    """A conversation rendered in full and, for the mask, turn by turn.

    Attributes:
        messages: The turns; a prompt/completion pair becomes one of user and one of
            assistant.
        tokens: The tokens of the whole conversation, [T].
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
        """Give the arguments of tool calls the form that the template expects."""
        objects = tool_calls.with_objects(messages)
        if objects is None:
            return messages
        strings = tool_calls.with_strings(objects)
        rendered = self._text(objects)
        if rendered is not None and not tool_calls.prints_python(objects, rendered):
            return objects
        return objects if self._text(strings) is None else strings

    def _text(self, messages: Sequence[Message], prompted: bool = False) -> str | None:
        """Render `messages` as text; return None where the template refuses them."""
        try:
            text = self._chat.render(messages, self._tools, prompted)
        except DataError:
            return None
        return text if isinstance(text, str) else None

    def assistant_mask(self) -> Mask:
        """Locate the turns of the assistant, each with its end token."""
        text = self._text(self.messages) or ""
        turns = Turns(self.messages, text, self._text)
        places = self._chat.places(text, self.tokens)
        turns_found = [
            turns.find(number)
            for number, message in enumerate(self.messages)
            if message["role"] == "assistant"
        ]
        spans = [self._span(t, places) for t in turns_found if isinstance(t, Turn)]
        marked = self._marked(spans)
        if marked is not None:
            return marked
        labelled = np.zeros(len(self.tokens), np.bool_)
        for start, _, end in spans:
            labelled[start:end] = True
        return Mask(
            labelled,
            turns_found.count(NotLearnable.REWRITTEN),
            turns_found.count(NotLearnable.UNFOUND),
            sum(self._special(content, end) is None for _, content, end in spans),
        )

    def _span(self, turn: Turn, places: Places) -> tuple[int, int, int]:
        """Return a turn's first token, the one after its content, and the one after its
        end.

        A token across a border belongs to the turn if it holds a part of the answer. A
        special token holds spaces at most, and belongs to the side where it begins.
        """
        start, exact = places.before(turn.start)
        start += not exact and self._is(start, self._chat.specials)
        content, exact = places.before(turn.content_end)
        if turn.content_end > turn.start:
            content += not exact and not self._is(content, self._chat.specials)
        end, exact = places.before(turn.end)
        end += not exact and turn.complete and self._is(end, self._chat.specials)
        end = max(end, content)
        if self._special(content, end) is None:
            end += self._is(end, self._chat.ends)
        return start, content, end

    def _is(self, place: int, kind: frozenset[int]) -> bool:
        """Tell whether there is a token at `place`, and it is one of `kind`."""
        return place < len(self.tokens) and self.tokens[place] in kind

    def _special(self, start: int, end: int) -> int | None:
        """Return the place of the first special token from `start` on and before
        `end`.
        """
        places = range(start, end)
        return next((i for i in places if self.tokens[i] in self._chat.specials), None)

    def _marked(self, spans: list[tuple[int, int, int]]) -> Mask | None:
        """Return the mask that the template itself gives, if it marks generated tokens.

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
