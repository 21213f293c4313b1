"""Text from a mixture, token by token, with how each token was routed.

mlx-lm generates; this only stands between it and the model and keeps the routing. A
token's routing is what the blocks did when they read it, as in training. mlx-lm reads
the prompt in chunks and starts reading the next token before it hands out the current
one, so routing is kept by position, never by "the latest".
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from comigs_mlx.errors import ConfigError, raise_all
from comigs_mlx.inference.prompts import room, segments
from comigs_mlx.inference.settings import Sampling as Sampling
from comigs_mlx.inference.settings import StopTexts, length_problems
from comigs_mlx.inference.trace import Trace, TraceToken
from comigs_mlx.model.base import Base
from comigs_mlx.model.mixture import Mixture

Weights = npt.NDArray[np.float32]
Reading = Callable[[int, int], None]
"""Told how many tokens of a prompt have been read, and of how many, after each chunk;
what it raises ends the reading."""


def unheard(done: int, total: int) -> None:
    """A `Reading` that is told and does nothing."""


def chunk_tokens() -> int:
    """Tokens of a prompt that are read between two points where it can be stopped.

    Few enough for a fraction of a second on a GPU and a few seconds on a slow CPU. The
    same for every prompt: with other chunks, sums are rounded in another way.
    """
    return 512 if mx.default_device() == mx.Device(mx.gpu) else 64


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
        self._read = 0

    def __call__(self, tokens: mx.array, cache: Any = None, **kwargs: Any) -> mx.array:
        """Logits `[1, tokens, vocabulary]`, as the model itself."""
        with self._mixture.frozen():
            logits, routing = self._mixture(tokens, cache=cache)
        weights = routing.weights[:, 0]  # [layers, tokens, E]
        if tokens.shape[1] > 1:
            mx.eval(weights)  # do not keep a whole prompt's activations alive
        self._chunks.append(weights)
        self._read += weights.shape[1]
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

    def at(self, position: int) -> mx.array:
        """Weights of one position that has been read, `[layers, E]`, maybe computed.

        Quick for the last positions, however many there are.
        """
        start = self._read
        for chunk in reversed(self._chunks):
            start -= chunk.shape[1]
            if position >= start:
                break
        if not chunk.shape[0]:
            return mx.zeros((len(self._mixture.sites), self._mixture.options.experts))
        return chunk[:, position - start]


def responses(
    recorder: Recorder,
    tokenizer: Any,
    prompt: Sequence[int],
    max_tokens: int,
    sampling: Sampling,
    cache: list[Any] | None = None,
    reading: Reading = unheard,
) -> Iterator[Any]:
    """mlx-lm's `GenerationResponse` of each token, as it is drawn.

    With each, the recorder has begun to read that token too.

    Args:
        recorder: New; its mixture's current selection speaks.
        tokenizer: mlx-lm's tokenizer wrapper.
        prompt: Token ids, at least one.
        max_tokens: Tokens to generate at most.
        sampling: How they are drawn.
        cache: mlx-lm's prompt cache of what stands before `prompt`; it is read on.
        reading: Told how much of `prompt` has been read, before and after each chunk.
    """
    from mlx_lm.generate import stream_generate

    seed = secrets.randbits(32) if sampling.seed is None else sampling.seed
    mx.random.seed(seed)
    stream = stream_generate(
        cast("nn.Module", recorder),
        tokenizer,
        list(prompt),
        max_tokens=max_tokens,
        sampler=_sampler(sampling, tokenizer),
        logits_processors=_logits_processors(sampling),
        prompt_cache=cache,
        prefill_step_size=chunk_tokens(),
        prompt_progress_callback=reading,
    )
    return _until_stop(stream, sampling.stop) if sampling.stop else stream


def _sampler(sampling: Sampling, tokenizer: Any) -> Callable[[mx.array], mx.array]:
    """mlx-lm's sampler; XTC spares line ends and end tokens, as in its command."""
    from mlx_lm.sample_utils import make_sampler

    spared: list[int] = []
    if sampling.xtc_probability:
        line_end = tokenizer.encode("\n", add_special_tokens=False)
        spared = [*line_end, *tokenizer.eos_token_ids]

    def of(top_k: int) -> Callable[[mx.array], mx.array]:
        return make_sampler(
            temp=sampling.temperature,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            top_k=top_k,
            xtc_probability=sampling.xtc_probability,
            xtc_threshold=sampling.xtc_threshold,
            xtc_special_tokens=spared,
        )

    few, everything = of(sampling.top_k), of(0)
    # mlx-lm refuses a top-k that leaves nothing out.
    return lambda logs: (few if sampling.top_k < logs.shape[-1] else everything)(logs)


def _logits_processors(sampling: Sampling) -> list[Any]:
    """mlx-lm's processors of the settings that are on."""
    from mlx_lm.sample_utils import make_logits_processors

    penalty = sampling.repetition_penalty
    return make_logits_processors(
        logit_bias=dict(sampling.logit_bias) or None,
        repetition_penalty=None if penalty == 1 else penalty,
        presence_penalty=sampling.presence_penalty or None,
        frequency_penalty=sampling.frequency_penalty or None,
    )


def _until_stop(stream: Any, words: tuple[str, ...]) -> Iterator[Any]:
    """Responses up to the first stop word, which is not part of their text."""
    texts = StopTexts(words)
    with contextlib.closing(stream):
        for response in stream:
            text, met = texts.add(response.text, response.finish_reason is not None)
            reason = "stop" if met else response.finish_reason
            yield replace(response, text=text, finish_reason=reason)
            if met:
                return


class Generation:
    """One answer: iterate over it for pieces, then ask for its trace.

    Args:
        base: Model, tokenizer and name.
        mixture: Attached to the base's model; its current selection speaks.
        prompt: Token ids, at least one.
        max_tokens: Tokens to generate at most.
        sampling: How they are drawn.
        reading: Told how much of the prompt has been read.

    Raises:
        ConfigError: If a setting cannot work, or the prompt is empty or too long for
            the model: what a `ChatEngine` refuses too.
    """

    def __init__(
        self,
        base: Base,
        mixture: Mixture,
        prompt: Sequence[int],
        max_tokens: int,
        sampling: Sampling,
        reading: Reading = unheard,
    ):
        problems = [*sampling.problems(), *length_problems(max_tokens)]
        raise_all(ConfigError, problems)
        base.check_tokens(list(sampling.logit_bias), "the logit bias")
        self.base, self.mixture, self.prompt = base, mixture, list(prompt)
        self._room, self._reading = room(base, self.prompt), reading
        self.max_tokens, self.sampling = max_tokens, sampling
        self.pieces: list[Piece] = []
        self._recorder = Recorder(mixture)

    def __iter__(self) -> Iterator[Piece]:
        """Generate, from the start each time; may be left early."""
        self.pieces, self._recorder = [], Recorder(self.mixture)
        most = min(self.max_tokens, self._room)
        asked = (self.prompt, most, self.sampling, None, self._reading)
        for response in responses(self._recorder, self.base.tokenizer, *asked):
            piece = Piece(response.token, response.text, response.finish_reason)
            self.pieces.append(piece)
            yield piece

    @property
    def text(self) -> str:
        """What has been generated so far."""
        return "".join(piece.text for piece in self.pieces)

    def trace(self) -> Trace:
        """How the prompt and what has been generated so far were routed."""
        texts = segments(self.base.tokenizer, self.prompt)
        tokens = [
            *((id, text, True) for id, text in zip(self.prompt, texts, strict=True)),
            *((piece.id, piece.text, False) for piece in self.pieces),
        ]
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
