"""Text from a mixture, token by token, with how each token was routed.

mlx-lm generates; this only stands between it and the model and keeps the routing. A
token's routing is what the blocks did when they read it, as in training. mlx-lm reads
the prompt in chunks and starts reading the next token before it hands out the current
one, so routing is kept by position, never by "the latest".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from comigs_mlx.errors import ConfigError
from comigs_mlx.inference.trace import Trace, TraceToken
from comigs_mlx.model.base import Base
from comigs_mlx.model.mixture import Mixture

Weights = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_p: Draw from the likeliest tokens of this much probability; 1 = all.
        seed: Of the draws.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Piece:
    """One generated token.

    Attributes:
        id: Token id.
        text: What it adds to the text; empty within a character of several tokens.
        finish_reason: `stop` or `length` with the last token, else None.
    """

    id: int
    text: str
    finish_reason: str | None


class Recorder:
    """Looks like the model to mlx-lm, and keeps the routing of every position."""

    def __init__(self, mixture: Mixture):
        self._mixture = mixture
        self._chunks: list[mx.array] = []

    def __call__(self, tokens: mx.array, cache: Any = None, **kwargs: Any) -> mx.array:
        """Logits `[1, tokens, vocabulary]`, as the model itself."""
        with self._mixture.frozen():
            logits, routing = self._mixture(tokens, cache=cache)
        weights = routing.weights[:, 0]  # [layers, tokens, E]
        if tokens.shape[1] > 1:
            mx.eval(weights)  # do not keep a whole prompt's activations alive
        self._chunks.append(weights)
        return logits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mixture.model, name)

    def weights(self, count: int) -> Weights:
        """Weights of the first `count` positions, `[count, layers, E]`.

        Without experts (selection `base`) all are 0.
        """
        options, layers = self._mixture.options, len(self._mixture.sites)
        kept = [chunk for chunk in self._chunks if chunk.shape[0]]
        if not kept:
            return np.zeros((count, layers, options.experts), np.float32)
        joined = mx.concatenate(kept, axis=1)[:, :count]
        return np.array(joined.transpose(1, 0, 2))


class Generation:
    """One answer: iterate over it for pieces, then ask for its trace.

    Args:
        base: Model, tokenizer and name.
        mixture: Attached to the base's model; its current selection speaks.
        prompt: Token ids, at least one.
        max_tokens: Tokens to generate at most.
        sampling: How they are drawn.
    """

    def __init__(
        self,
        base: Base,
        mixture: Mixture,
        prompt: Sequence[int],
        max_tokens: int,
        sampling: Sampling,
    ):
        self.base, self.mixture, self.prompt = base, mixture, list(prompt)
        self.max_tokens, self.sampling = max_tokens, sampling
        self.pieces: list[Piece] = []
        self._recorder = Recorder(mixture)

    def __iter__(self) -> Iterator[Piece]:
        """Generate, from the start each time; may be left early."""
        from mlx_lm.generate import stream_generate
        from mlx_lm.sample_utils import make_sampler

        self.pieces, self._recorder = [], Recorder(self.mixture)
        mx.random.seed(self.sampling.seed)
        sampler = make_sampler(self.sampling.temperature, self.sampling.top_p)
        responses = stream_generate(
            cast("nn.Module", self._recorder),
            self.base.tokenizer,
            self.prompt,
            max_tokens=self.max_tokens,
            sampler=sampler,
        )
        for response in responses:
            piece = Piece(response.token, response.text, response.finish_reason)
            self.pieces.append(piece)
            yield piece

    @property
    def text(self) -> str:
        """What has been generated so far."""
        return "".join(piece.text for piece in self.pieces)

    def trace(self) -> Trace:
        """How the prompt and what has been generated so far were routed."""
        tokens = [*self._prompt_tokens(), *((p.id, p.text, False) for p in self.pieces)]
        weights = self._recorder.weights(len(tokens)).tolist()
        return Trace(
            model=self.base.id,
            experts=self.mixture.options.names,
            layers=self.mixture.layers,
            tokens=[
                TraceToken(*token, weights=each)
                for token, each in zip(tokens, weights, strict=True)
            ],
        )

    def _prompt_tokens(self) -> Iterator[tuple[int, str, bool]]:
        detokenizer = self.base.tokenizer.detokenizer
        for token in self.prompt:
            detokenizer.add_token(token)
            yield token, detokenizer.last_segment, True


def prompt_tokens(
    tokenizer: Any, prompt: str, system: str | None = None, template: bool = True
) -> list[int]:
    """Token ids of a prompt, in the model's chat template where it has one.

    Args:
        tokenizer: mlx-lm's tokenizer wrapper.
        prompt: What the user says.
        system: System prompt.
        template: False gives the prompt to the model as it is, to be continued.

    Raises:
        ConfigError: If there is no token, or a system prompt but no template.
    """
    if template and tokenizer.has_chat_template:
        messages = [{"role": "user", "content": prompt}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        tokens = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )
    elif system is not None:
        raise ConfigError("a system prompt needs the model's chat template")
    else:
        tokens = tokenizer.encode(prompt, add_special_tokens=False)
    if not tokens:
        raise ConfigError("the prompt is empty: give some text with --prompt")
    return list(tokens)
