"""What a base model can read at once, and which tokens it knows.

MLX compares no index with its table: a position or a token past the end reads foreign
memory and gives plausible numbers, which change from run to run. So every window,
prompt and token is compared here before a model sees it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from comigs_mlx.errors import ConfigError, DataError


@dataclass(frozen=True)
class Limits:
    """The limits of one base model.

    Attributes:
        model: Its id, for messages.
        context: The most tokens it reads at once; None where it does not say.
        vocabulary: Rows of its table of tokens: ids are 0 to `vocabulary` - 1; None
            where it is not known.
    """

    model: str
    context: int | None
    vocabulary: int | None

    def check_window(self, seq_len: int) -> None:
        """Refuse windows that are longer than the model can read.

        Args:
            seq_len: Inputs of a window, in tokens.

        Raises:
            ConfigError: If they do not fit.
        """
        if self.context is not None and seq_len > self.context:
            raise ConfigError(
                f"--seq-len {seq_len}: {self.model} reads at most {self.context:,} "
                f"tokens at once: set --seq-len to at most {self.context}"
            )

    def check_tokens(self, tokens: Sequence[int] | npt.NDArray[np.integer]) -> None:
        """Refuse tokens that the model has no embedding for.

        Args:
            tokens: Any number of token ids.

        Raises:
            DataError: If one of them is outside the vocabulary.
        """
        if self.vocabulary is None or len(tokens) == 0:
            return
        largest, smallest = int(np.max(tokens)), int(np.min(tokens))
        if largest >= self.vocabulary or smallest < 0:
            wrong = largest if largest >= self.vocabulary else smallest
            raise DataError(
                f"the tokenizer of {self.model} gives token {wrong}, but the model "
                f"knows only 0 to {self.vocabulary - 1}: take the tokenizer that the "
                "model was made with, or resize its embedding"
            )

    def room(
        self, prompt: Sequence[int], what: str = "prompt", remedy: str = "shorten it"
    ) -> int:
        """How many tokens can be generated after a prompt.

        Args:
            prompt: Its tokens.
            what: What the user calls it, for the message.
            remedy: What the user can do where it is too long.

        Raises:
            ConfigError: If there is no room for one more token.
            DataError: If the model does not know one of its tokens.
        """
        self.check_tokens(prompt)
        if self.context is None:
            return ENDLESS
        if len(prompt) >= self.context:
            raise ConfigError(
                f"the {what} is {len(prompt):,} tokens long, {self.model} reads at "
                f"most {self.context:,}: {remedy}"
            )
        return self.context - len(prompt)


ENDLESS = 2**31
"""Room for tokens where a model does not say what it can read."""

UNKNOWN = Limits("the model", None, None)
"""Where text is looked at without a model."""
