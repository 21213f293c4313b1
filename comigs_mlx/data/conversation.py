"""A conversation's tokens, and which of them the assistant produces.

Every span of the mask is proven: templates like Qwen3's rewrite earlier turns, where
counting the tokens of a prefix would quietly label the wrong ones.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from comigs_mlx.data.splits import Sample
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


class Conversation:
    """A conversation, rendered in full and, for the mask, turn by turn.

    Attributes:
        messages: The turns; a prompt/completion pair is one of user and assistant.
        tokens: The whole conversation, T tokens.
    """

    def __init__(self, sample: Sample, tokenizer: Tokenizer) -> None:
        """Render `sample`; raises `DataError` where the template refuses it."""
        self.messages: list[dict[str, Any]] = sample.get("messages") or [
            {"role": "user", "content": sample["prompt"]},
            {"role": "assistant", "content": sample["completion"]},
        ]
        self._tools = sample.get("tools")
        self._tokenizer = tokenizer
        self.tokens = self._render(len(self.messages))

    def _render(self, turns: int, prompted: bool = False) -> list[int]:
        """Tokens of the first `turns` messages.

        Raises:
            DataError: If the template refuses them.
        """
        try:
            tokens = self._tokenizer.apply_chat_template(
                self.messages[:turns],
                tools=self._tools,
                add_generation_prompt=prompted,
                tokenize=True,
                return_dict=False,
            )
        # A template is a program of its own and may raise anything.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise DataError(f"the chat template refuses it: {reason}") from error
        return list(tokens)

    def assistant_mask(self) -> tuple[Bools, int]:
        """Where the assistant speaks ([T] bool), and how many turns are unproven."""
        marked = self._marked_by_template()
        if marked is not None:
            return marked, 0
        mask, unproven = np.zeros(len(self.tokens), np.bool_), 0
        for turn, message in enumerate(self.messages):
            if message["role"] != "assistant":
                continue
            start = self._proven_length(turn, prompted=True)
            end = self._proven_length(turn + 1)
            if start is None or end is None:
                unproven += 1
            else:
                mask[start:end] = True
        return mask, unproven

    def _proven_length(self, turns: int, prompted: bool = False) -> int | None:
        """Tokens of the first `turns` messages, if the whole rendering begins so."""
        try:
            tokens = self._render(turns, prompted)
        except DataError:
            return None
        return len(tokens) if self.tokens[: len(tokens)] == tokens else None

    def _marked_by_template(self) -> Bools | None:
        """The mask that the template itself gives, if it marks generated tokens."""
        template = getattr(self._tokenizer, "chat_template", None)
        if not isinstance(template, str) or not GENERATION_TAG.search(template):
            return None
        # mlx-lm's wrapper always sets return_dict=False, which excludes the mask.
        try:
            found = inner_tokenizer(self._tokenizer).apply_chat_template(
                self.messages,
                tools=self._tools,
                tokenize=True,
                return_dict=True,
                return_assistant_tokens_mask=True,
            )
        # Tokenizers without character offsets cannot map the marks to tokens.
        except Exception:
            return None
        # The wrapper may render with other options; a mask of other tokens is no use.
        same = list(found["input_ids"]) == self.tokens
        mask: Bools = np.array(found["assistant_masks"], np.bool_)
        return mask if same and mask.any() else None
