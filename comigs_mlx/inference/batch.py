"""Several answers at once by the same experts, drawn by mlx-lm's `BatchGenerator`.

    batch = Batch(base, selection, tilt, prompts, speaker)
    batch.add(Answer(base, tokens, settings), mixture)
    while len(batch):
        for answer, token in batch.step(mixture):
            ...

The experts' values, the selection and the tilt hold for the whole batch; how tokens are
drawn is each answer's own. `Generation` is the same for one answer: both drive mlx-lm's
loops with one `Settings`, and share samplers, penalties, stop words and token details.

mlx-lm tells nobody how a token was routed. But a step begins with one pass of the model
over the last token of each answer, row by row, and then reports these very tokens in
the same order: so row i of the first pass of a step is the routing of report i.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn

from comigs_mlx.errors import UnsupportedModel
from comigs_mlx.inference import tilts
from comigs_mlx.inference.generation import (
    TokenDetails,
    chunk_tokens,
    logits_processors_of,
    most_tokens,
    sampler_of,
)
from comigs_mlx.inference.prompt_cache import PromptCache
from comigs_mlx.inference.replies import SpokenToken
from comigs_mlx.inference.settings import SEEDS, Settings, StopTexts
from comigs_mlx.model.base import Base
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.model.selection import Selection

MOST_ANSWERS = 64
"""Answers in one batch; who adds them keeps to fewer."""

STRIDE = 0x9E3779B97F4A7C15
"""Between the seeds of two draws: 2^64 divided by the golden ratio, so that none of a
long answer's seeds is used twice."""


def check_batchable(base: Base) -> None:
    """Refuse a base whose keys and values cannot stand in one batch with others'.

    Raises:
        UnsupportedModel: If mlx-lm cannot merge its caches.
    """
    from mlx_lm.models.cache import make_prompt_cache

    kinds = {type(layer) for layer in make_prompt_cache(base.model)}
    if odd := sorted(kind.__name__ for kind in kinds if not hasattr(kind, "merge")):
        raise UnsupportedModel(
            f"mlx-lm cannot batch {base.id}, whose cache is a {', '.join(odd)}: choose "
            "another base model, or use comigs_mlx.generate"
        )


@dataclass(frozen=True)
class Drawn:
    """One token as `TokenDetails` takes it; the fields are as mlx-lm's."""

    token: int
    text: str
    logprobs: mx.array
    finish_reason: str | None


class Answer:
    """One answer to be drawn in a batch.

    Attributes:
        prompt: The token ids that it answers.
        settings: The way in which its tokens are drawn; its tilts are not used here.
        likeliest: The number of alternatives that are told with each token; 0 tells
            no details at all.
        cached: The number of tokens of the prompt that were read for an earlier one.
        most: The most tokens that are drawn.
    """

    def __init__(
        self, base: Base, prompt: Sequence[int], settings: Settings, likeliest: int = 0
    ):
        """Check that it can be made.

        Args:
            base: The base model and its tokenizer.
            prompt: The token ids, at least one.
            settings: The way in which its tokens are drawn.
            likeliest: The number of alternatives to tell with each token; above 0 a
                token comes with its routing, too, and one step later.

        Raises:
            ConfigError: If a setting cannot work, or the prompt is empty or too long
                for the model.
            ModelError: If the model does not know a token.
        """
        self.prompt, self.settings, self.likeliest = list(prompt), settings, likeliest
        self.cached = 0
        self.most = most_tokens(base, self.prompt, settings)
        self._texts = StopTexts(settings.stop) if settings.stop else None
        self._letters = base.tokenizer.detokenizer

    def drawn(self, response: Any) -> Drawn:
        """What a response of mlx-lm adds to the text, and whether the answer ends."""
        reason = response.finish_reason
        if reason != "stop":  # an end token is no text
            self._letters.add_token(response.token)
        if reason is not None:
            self._letters.finalize()
        text = self._letters.last_segment
        if self._texts is not None:
            text, met = self._texts.add(text, reason is not None)
            reason = "stop" if met else reason
        return Drawn(response.token, text, response.logprobs, reason)


class Batch:
    """Answers of the same experts, drawn together, a token of each at a time."""

    def __init__(
        self,
        base: Base,
        selection: Selection,
        tilt: mx.array | None,
        prompts: PromptCache,
        speaker: Hashable,
    ):
        """Begin without an answer.

        Args:
            base: The base model and its tokenizer.
            selection: The experts that speak.
            tilt: The tilt of the routers' logits, `[layers, E]`; None adds nothing.
            prompts: The cache that keeps what is read.
            speaker: What keys and values depend on besides the tilt; see `PromptCache`.
        """
        from mlx_lm.generate import BatchGenerator, make_stop_sequences

        self._tokenizer, self._prompts = base.tokenizer, prompts
        self._speaker = (speaker, tilts.digest(tilt))
        self._model = _Routed(selection, tilt)
        self._ends = make_stop_sequences(base.tokenizer)
        # One prompt at a time: none is padded then, so that no position is past the
        # end of a table, and a prompt's numbers do not depend on its neighbours.
        self._generator = BatchGenerator(
            cast("nn.Module", self._model),
            prefill_batch_size=1,
            completion_batch_size=MOST_ANSWERS,
            prefill_step_size=chunk_tokens(),
        )
        self._answers: dict[int, Answer] = {}
        self._late: list[tuple[Answer, TokenDetails]] = []

    def __len__(self) -> int:
        return len(self._answers)

    def add(self, answer: Answer, mixture: Mixture) -> None:
        """Let an answer begin with the next step.

        Args:
            answer: The answer, which is in no other batch.
            mixture: The mixture that speaks.
        """
        self._model.begin(mixture)
        cache, read = self._prompts.take(self._speaker, answer.prompt, self._model)
        answer.cached = read
        settings = answer.settings
        # Without a sampler of its own an answer takes part in the batch's one argmax.
        greedy = settings.temperature == 0
        own: Any = None if greedy else _own_draws(settings, self._tokenizer)
        (number,) = self._generator.insert(
            [answer.prompt[read:]],
            max_tokens=[answer.most],
            caches=[cache],
            all_tokens=[answer.prompt[:read]],
            samplers=[own],
            logits_processors=[logits_processors_of(settings)],
            stop_sequences=[self._ends],
        )
        self._answers[number] = answer

    def step(self, mixture: Mixture) -> list[tuple[Answer, SpokenToken]]:
        """Draw a token of each answer, and read on in one prompt.

        An answer whose last token has a finish reason is not in the batch any more.

        Args:
            mixture: The mixture that speaks, with the values that it had before.

        Returns:
            The tokens that are known now, those of one answer in their order.
        """
        self._model.begin(mixture)
        _, responses = self._generator.next()
        late, self._late = self._late, []
        told = [(answer, one.token(self._tokenizer)) for answer, one in late]
        for row, response in enumerate(responses):
            answer = self._answers[response.uid]
            drawn = answer.drawn(response)
            weights = self._model.row(row) if answer.likeliest else None
            details = TokenDetails(drawn, weights, answer.likeliest)
            if drawn.finish_reason is not None:
                self._end(response)
            elif answer.likeliest:
                # Told one step later, when it is computed: a GPU does not wait for it.
                self._late.append((answer, details))
                continue
            told.append((answer, details.token(self._tokenizer)))
        return told

    def remove(self, answer: Answer) -> None:
        """Let an answer end now; what it has read is kept."""
        number = next(n for n, one in self._answers.items() if one is answer)
        self._late = [late for late in self._late if late[0] is not answer]
        self._take_out(number)

    def forget(self) -> None:
        """Keep nothing that is read from now on: the experts' values have changed."""
        self._speaker = (object(), "")

    def close(self) -> None:
        """Give back what mlx-lm holds, and the memory that MLX keeps for its like."""
        self._generator.close()
        mx.clear_cache()

    def _end(self, response: Any) -> None:
        if response.finish_reason is None:  # at a stop word, which mlx-lm knows not of
            self._take_out(response.uid)
        else:
            del self._answers[response.uid]
            self._keep(response.all_tokens, response.prompt_cache)

    def _take_out(self, number: int) -> None:
        del self._answers[number]
        found = self._generator.remove([number], return_prompt_caches=True)
        for cache, tokens in found.values():
            self._keep(tokens, cache)

    def _keep(self, tokens: Sequence[int], cache: list[Any]) -> None:
        # A part of a batch's arrays would keep all of them in memory.
        mx.eval([layer.state for layer in cache if not layer.empty()])
        self._prompts.keep(self._speaker, tokens, cache)


class _Routed:
    """Looks like the model to mlx-lm, and keeps the routing of a step's first pass."""

    def __init__(self, selection: Selection, tilt: mx.array | None):
        self._selection, self._tilt = selection, tilt
        self._mixture: Mixture
        self._weights: mx.array | None = None

    def begin(self, mixture: Mixture) -> None:
        """Begin a step with this mixture."""
        self._mixture, self._weights = mixture, None

    def row(self, row: int) -> mx.array:
        """The weights of one row of the first pass, `[layers, E]`, maybe computed."""
        assert self._weights is not None
        if not self._weights.shape[0]:  # base: nothing is routed
            return mx.zeros((len(self._mixture.sites), self._mixture.options.experts))
        return self._weights[:, row]

    def __call__(self, tokens: mx.array, cache: Any = None) -> mx.array:
        mixture = self._mixture
        selected, tilted = mixture.selected(self._selection), mixture.tilted(self._tilt)
        with mixture.frozen(), selected, tilted:
            logits, routing = mixture(tokens, cache=cache)
        if self._weights is None:
            self._weights = routing.weights[:, :, -1]  # [layers, rows, E]
        return logits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mixture.model, name)


def _own_draws(settings: Settings, tokenizer: Any) -> Callable[[mx.array], mx.array]:
    """A sampler whose draws do not depend on what else is drawn in the batch.

    MLX draws from one state a thread: so it is seeded anew for each draw.
    """
    sample, draws = sampler_of(settings, tokenizer), 0
    seed = secrets.randbits(32) if settings.seed is None else settings.seed

    def draw(logs: mx.array) -> mx.array:
        nonlocal draws
        mx.random.seed((seed + draws * STRIDE) % SEEDS)
        draws += 1
        return sample(logs)

    return draw
