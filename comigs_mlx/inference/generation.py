"""Text from a mixture, token by token, with how each token was routed.

mlx-lm generates; this only stands between it and the model and keeps the routing. A
token's routing is what the blocks did when they read it, as in training. mlx-lm reads
the prompt in chunks and starts reading the next token before it hands out the current
one, so routing is kept by position, never by "the latest".
"""

from __future__ import annotations

import contextlib
import functools
import secrets
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from comigs_mlx.inference import tilts
from comigs_mlx.inference.prompt_cache import PromptCache
from comigs_mlx.inference.prompts import own_text, room, segments
from comigs_mlx.inference.replies import (
    Alternative,
    Progress,
    SpokenToken,
    Stopped,
    Watch,
)
from comigs_mlx.inference.settings import PENALTIES, Settings, StopTexts
from comigs_mlx.inference.trace import Trace, TraceToken
from comigs_mlx.model.base import Base
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.model.tables import GIVEN

Weights = npt.NDArray[np.float32]

LIKELIEST = 5
"""Alternatives of each token."""

UNWATCHED = Watch()


def chunk_tokens() -> int:
    """Tokens of a prompt that are read between two points where it can be stopped.

    Few enough for a fraction of a second on a GPU and a few seconds on a slow CPU. The
    same for every prompt: with other chunks, sums are rounded in another way.
    """
    return 512 if mx.default_device() == mx.Device(mx.gpu) else 64


class Recorder:
    """Looks like the model to mlx-lm, and keeps the routing of every position."""

    def __init__(self, mixture: Mixture, tilt: mx.array | None = None):
        """Record nothing yet.

        Args:
            mixture: Its current selection speaks.
            tilt: What is added to the routers' logits, `[layers, E]`; None leaves
                them as the mixture has them.
        """
        self._mixture, self._tilt = mixture, tilt
        self._chunks: list[mx.array] = []
        self._read = 0

    def __call__(self, tokens: mx.array, cache: Any = None, **kwargs: Any) -> mx.array:
        """Logits `[1, tokens, vocabulary]`, as the model itself."""
        tilted = self._mixture.tilted(self._tilt)
        with (
            self._mixture.frozen(),
            contextlib.nullcontext() if self._tilt is None else tilted,
        ):
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
    settings: Settings,
    cache: list[Any] | None = None,
    reading: Callable[[int, int], None] = lambda done, total: None,
    before: Sequence[int] = (),
) -> Iterator[Any]:
    """mlx-lm's `GenerationResponse` of each token, as it is drawn.

    With each, the recorder has begun to read that token too.

    Args:
        recorder: New; its mixture's current selection speaks.
        tokenizer: mlx-lm's tokenizer wrapper.
        prompt: Token ids, at least one.
        max_tokens: Tokens to generate at most.
        settings: How they are drawn.
        cache: mlx-lm's prompt cache of what stands before `prompt`; it is read on.
        reading: Told how many tokens of `prompt` have been read, and of how many,
            before and after each chunk; what it raises ends the reading.
        before: The tokens that `cache` has read: penalties look at them, too.
    """
    from mlx_lm.generate import stream_generate

    seed = secrets.randbits(32) if settings.seed is None else settings.seed
    mx.random.seed(seed)
    stream = stream_generate(
        cast("nn.Module", recorder),
        tokenizer,
        list(prompt),
        max_tokens=max_tokens,
        sampler=sampler_of(settings, tokenizer),
        logits_processors=logits_processors_of(settings, before),
        prompt_cache=cache,
        prefill_step_size=chunk_tokens(),
        prompt_progress_callback=reading,
    )
    return _until_stop(stream, settings.stop) if settings.stop else stream


def sampler_of(settings: Settings, tokenizer: Any) -> Callable[[mx.array], mx.array]:
    """mlx-lm's sampler; XTC spares line ends and end tokens, as in its command."""
    from mlx_lm.sample_utils import make_sampler

    spared: list[int] = []
    if settings.xtc_probability:
        line_end = tokenizer.encode("\n", add_special_tokens=False)
        spared = [*line_end, *tokenizer.eos_token_ids]

    def of(top_k: int, min_p: float) -> Callable[[mx.array], mx.array]:
        return make_sampler(
            temp=settings.temperature,
            top_p=settings.top_p,
            min_p=min_p,
            min_tokens_to_keep=settings.min_tokens_to_keep,
            top_k=top_k,
            xtc_probability=settings.xtc_probability,
            xtc_threshold=settings.xtc_threshold,
            xtc_special_tokens=spared,
        )

    @functools.cache  # the vocabulary is known with the first logits
    def for_vocabulary(size: int) -> Callable[[mx.array], mx.array]:
        # mlx-lm refuses a top-k that leaves nothing out, and a min-p that may not.
        top_k = settings.top_k if settings.top_k < size else 0
        min_p = settings.min_p if settings.min_tokens_to_keep < size else 0.0
        return of(top_k, min_p)

    return lambda logs: for_vocabulary(logs.shape[-1])(logs)


def logits_processors_of(settings: Settings, before: Sequence[int] = ()) -> list[Any]:
    """mlx-lm's processors of the settings that are on.

    Args:
        settings: The penalties and biases.
        before: The tokens before those that mlx-lm reads now. Without them a penalty
            would forget what stands in a prompt cache.
    """
    from mlx_lm.sample_utils import make_logits_processors

    penalty = settings.repetition_penalty
    sizes = {f"{key}_context_size" for key in PENALTIES}
    processors = make_logits_processors(
        logit_bias=dict(settings.logit_bias) or None,
        repetition_penalty=None if penalty == 1 else penalty,
        presence_penalty=settings.presence_penalty or None,
        frequency_penalty=settings.frequency_penalty or None,
        **{size: getattr(settings, size) for size in sizes},
    )
    earlier = list(before[-max(getattr(settings, size) for size in sizes) :])
    if not processors or not earlier:
        return list(processors)
    read = mx.array(earlier)

    def after(process: Any, tokens: mx.array, logits: mx.array) -> mx.array:
        return cast("mx.array", process(mx.concatenate([read, tokens]), logits))

    return [functools.partial(after, process) for process in processors]


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


def most_tokens(base: Base, prompt: Sequence[int], settings: Settings) -> int:
    """How many tokens an answer may have, once it is known that it can be made.

    Raises:
        ConfigError: If a setting cannot work, or the prompt is empty or too long for
            the model.
        ModelError: If the model does not know a token.
    """
    settings.check()
    base.check_tokens(list(settings.logit_bias), "the logit bias", GIVEN)
    return min(settings.max_tokens, room(base, prompt))


class Generation:
    """One answer: iterate over it for tokens, then ask for its trace.

    Attributes:
        tokens: What has been handed out so far.
    """

    def __init__(
        self,
        base: Base,
        mixture: Mixture,
        prompt: Sequence[int],
        settings: Settings,
        watch: Watch = UNWATCHED,
        details: bool = False,
        prompts: PromptCache | None = None,
        speaker: Hashable = None,
    ):
        """Check that it can be made.

        Args:
            base: Model, tokenizer and name.
            mixture: Attached to the base's model; its current selection speaks.
            prompt: Token ids, at least one.
            settings: How many tokens are drawn, and how; its tilts are applied.
            watch: Told how much of the prompt has been read; may end the answer.
            details: Whether each token comes with its routing and its alternatives.
                It is handed out while the token after the next is being computed then.
            prompts: Keeps what is read, for the next turn of the conversation.
            speaker: What the keys and values depend on besides the tilt; see
                `PromptCache`.

        Raises:
            ConfigError: If a setting cannot work, or the prompt is empty or too long
                for the model.
            ModelError: If the model does not know a token.
        """
        self.base, self.mixture, self.prompt = base, mixture, list(prompt)
        self.settings, self.tokens = settings, list[SpokenToken]()
        self._most = most_tokens(base, self.prompt, settings)
        self._watch, self._details = watch, details
        self._tilt = tilts.of_settings(mixture, settings)
        self._prompts = prompts
        self._speaker = (speaker, tilts.digest(self._tilt))
        self._recorder, self._read = Recorder(mixture, self._tilt), 0

    def __iter__(self) -> Iterator[SpokenToken]:
        """Generate, from the start each time; may be left early."""
        recorder = Recorder(self.mixture, self._tilt)
        self.tokens, self._recorder, self._read = [], recorder, 0
        cache = None
        if self._prompts is not None:
            taken = (self._speaker, self.prompt, self._recorder)
            cache, self._read = self._prompts.take(*taken)
        drawn: list[int] = []
        tokens = self._tokens(cache, drawn)
        with contextlib.suppress(Stopped):
            for token in _one_behind(tokens) if self._details else tokens:
                self.tokens.append(told := token.token(self.base.tokenizer))
                yield told
        if self._prompts is not None and cache is not None:
            self._prompts.keep(self._speaker, self.prompt + drawn, cache)

    def _tokens(
        self, cache: list[Any] | None, drawn: list[int]
    ) -> Iterator[TokenDetails]:
        """Each token as it is drawn; its id goes into `drawn`."""
        rest = self.prompt[self._read :]
        before = self.prompt[: self._read]
        given = (rest, self._most, self.settings, cache, self._reading, before)
        stream: Any = responses(self._recorder, self.base.tokenizer, *given)
        with contextlib.closing(stream):
            while not self._watch.stop() and (one := next(stream, None)) is not None:
                position = len(rest) + len(drawn)
                weights = self._recorder.at(position) if self._details else None
                drawn.append(one.token)
                yield TokenDetails(one, weights)

    def _reading(self, done: int, total: int) -> None:
        """mlx-lm tells it what has been read of the rest of the prompt.

        Between two chunks it asks whether to stop; before the first chunk and the first
        token that is asked elsewhere.
        """
        if 0 < done < total - 1 and self._watch.stop():
            raise Stopped
        before = self._read
        self._watch.listen(Progress("reading", before + done, before + total))

    @property
    def text(self) -> str:
        """What has been generated so far."""
        return "".join(token.text for token in self.tokens)

    def trace(self) -> Trace:
        """How the prompt and what has been generated so far were routed.

        What was read for an earlier turn is not a part of it.
        """
        texts = segments(self.base.tokenizer, self.prompt)
        prompt = list(zip(self.prompt, texts, strict=True))[self._read :]
        tokens = [
            *((id, text, True) for id, text in prompt),
            *((token.id, token.text, False) for token in self.tokens),
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


class TokenDetails:
    """One response of mlx-lm, its routing and its alternatives.

    They are asked for when the next response is there, and are computed by then: so
    that a GPU never waits for Python to read them.
    """

    def __init__(
        self, response: Any, weights: mx.array | None, likeliest: int = LIKELIEST
    ):
        """Begin to compute them.

        Args:
            response: mlx-lm's, or anything with its token, text, logprobs and reason.
            weights: `[layers, E]`; None where no details are wanted.
            likeliest: How many alternatives are wanted, at least one.
        """
        self._response, self._weights = response, weights
        if weights is not None:
            logs = response.logprobs.astype(mx.float32)
            few = min(likeliest, logs.size)
            self._likely: Any = mx.argpartition(logs, kth=-few)[-few:]
            self._logs: Any = logs[self._likely]
            self._own_log: Any = logs[response.token]
            mx.async_eval(weights, self._likely, self._logs, self._own_log)

    def token(self, tokenizer: Any) -> SpokenToken:
        """It as plain data."""
        response, id = self._response, self._response.token
        plain = SpokenToken(id, response.text, [], [], response.finish_reason)
        if self._weights is None:
            return plain
        pairs = zip(self._logs.exp().tolist(), self._likely.tolist(), strict=True)
        others = [
            Alternative(other, own_text(tokenizer, other), probability)
            for probability, other in sorted(pairs, reverse=True)
        ]
        weights = cast("list[list[float]]", self._weights.tolist())
        return replace(
            plain,
            weights=weights,
            alternatives=others,
            own=own_text(tokenizer, id),
            log_probability=self._own_log.item(),
        )


def _one_behind(tokens: Iterator[TokenDetails]) -> Iterator[TokenDetails]:
    """Each token when the one after it is there."""
    last: TokenDetails | None = None
    for token in tokens:
        if last is not None:
            yield last
        last = token
    if last is not None:
        yield last
