"""Measures participants on text they have not seen, by the same `Evaluator`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from comigs_mlx.data.batches import Batch, evaluation_batches, sampled_batches
from comigs_mlx.data.content import Content
from comigs_mlx.data.tokens import TokenStream
from comigs_mlx.errors import TrainingError
from comigs_mlx.model import params
from comigs_mlx.model.params import Tree
from comigs_mlx.model.selection import Selection, usable
from comigs_mlx.simulation import similarity
from comigs_mlx.simulation.layouts import Layouts
from comigs_mlx.simulation.method import Method
from comigs_mlx.simulation.options import SimulateConfig
from comigs_mlx.simulation.participant import Participant
from comigs_mlx.simulation.participants import ParticipantData
from comigs_mlx.training.evaluation import NotFinite, Score

DIVERGED = 700.0
"""The loss in nats per token from which on a perplexity is no number any more."""


@dataclass(frozen=True)
class Measured:
    """What is measured in the midst of the rounds.

    Attributes:
        test_loss: Maps a participant to the nats per token on its test text.
        layer_share: Maps a participant to its mean expert weights by block.
    """

    test_loss: dict[str, float]
    layer_share: dict[str, list[list[float]]]


@dataclass(frozen=True)
class Final:
    """What is measured after the last round; see `records.Outcome`.

    Attributes:
        pairs: Maps some participants to the names and low-rank pairs of their experts.
    """

    loss: dict[str, float]
    tokens: dict[str, int]
    speaks: dict[str, str]
    trainable: dict[str, int]
    by_selection: dict[str, dict[str, float]]
    pairs: dict[str, dict[str, similarity.Pairs]]


class _TestText(Mapping[str, list[Batch]]):
    """The test batches of each participant, made when they are asked for."""

    def __init__(
        self, members: Sequence[ParticipantData], config: SimulateConfig
    ) -> None:
        self._members = {data.name: data for data in members}
        self._config = config

    def __getitem__(self, name: str) -> list[Batch]:
        learning = self._config.learning
        limit = self._config.measuring.test_tokens
        text = _beginning(self._members[name].test, limit)
        sizes = (learning.seq_len, learning.batch_size)
        return list(evaluation_batches(text, *sizes))

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


class Measuring:
    """The test text of some participants, and who is measured on it."""

    def __init__(
        self,
        members: Sequence[ParticipantData],
        participants: Sequence[Participant],
        layouts: Layouts,
        config: SimulateConfig,
    ):
        """See `LocalHost`; if text is pooled, one participant is measured for all."""
        self.members, self.participants = members, participants
        self.layouts, self.config = layouts, config
        self.test = _TestText(members, config)

    def valid(self, participant: Participant) -> list[Batch]:
        """Return the sample of validation text that a participant judges by."""
        sizes = (self.config.learning.seq_len, self.config.learning.batch_size)
        count = self.config.measuring.valid_batches
        return sampled_batches(participant.data.valid, *sizes, count)

    def measured(self, method: Method) -> Measured:
        """Measure everybody in the midst of the rounds."""
        found = Measured({}, {})
        for text, participant in self._everybody():
            chosen = self.speaks(participant, method)
            found.test_loss[text] = self._on_test(text, participant, chosen).loss
            if method.router != "none":
                found.layer_share[participant.name] = self._layer_share(participant)
        return found

    def final(self, method: Method, similar: Collection[str]) -> Final:
        """Measure everybody after the last round.

        Args:
            method: The method that says who speaks.
            similar: The participants whose experts are given.
        """
        found = Final({}, {}, {}, {}, {}, {})
        selections = self.config.measuring.selections and method.router != "none"
        for text, participant in self._everybody():
            name, chosen = participant.name, self.speaks(participant, method)
            score = self._on_test(text, participant, chosen)
            found.loss[text], found.tokens[text] = score.loss, score.token_count
            found.speaks[name] = str(chosen)
            found.trainable[name] = _trainable(participant, method)
            if selections:
                found.by_selection[name] = self._by_selection(participant)
            if name in similar:
                found.pairs[name] = _pairs(participant)
        return found

    def _everybody(self) -> Iterator[tuple[str, Participant]]:
        """Yield whose test text is measured, and who answers: one after the other.

        What one participant needs is done at once, as it may have to be read from the
        disk for it.
        """
        for i, data in enumerate(self.members):
            yield data.name, self.participants[i if len(self.participants) > 1 else 0]

    def _on_test(self, text: str, participant: Participant, chosen: Selection) -> Score:
        return self._score(participant, self.test[text], chosen, participant.values)

    def _by_selection(self, participant: Participant) -> dict[str, float]:
        """Return a participant's loss under every selection, and the oracle's.

        The oracle takes, at each token, the least loss of the single experts. It is one
        of selections: an expert that speaks alone has also written the keys and values
        that its later tokens read.
        """
        options, batches = participant.options, self.test[participant.name]
        self.layouts.mixture(options).model.update(participant.values)
        evaluator = self.layouts.evaluator(options)

        def losses(selection: Selection) -> np.ndarray:
            """Return the loss of every counted token under a selection."""
            each = ((evaluator.batch_losses(b, selection)[0], b.mask) for b in batches)
            return np.concatenate([loss[mask > 0] for loss, mask in each])

        singles = [losses(tuple(map(float, row))) for row in np.eye(options.experts)]
        by_name = {name: losses(name) for name in usable(options)}
        by_name["oracle"] = np.minimum.reduce(singles)
        return {name: float(values.mean()) for name, values in by_name.items()}

    def speaks(self, participant: Participant, method: Method) -> Selection:
        """Choose the experts that speak for a participant: the best on its
        validation text.
        """
        if len(method.speaks) == 1:
            return method.speaks[0]
        losses = [self.valid_loss(participant, s) for s in method.speaks]
        return method.speaks[int(np.argmin(losses))]

    def valid_loss(self, participant: Participant, selection: Selection) -> float:
        """Return nats per token on a sample of validation text."""
        batches, values = self.valid(participant), participant.values
        return self._score(participant, batches, selection, values).loss

    def _layer_share(self, participant: Participant) -> list[list[float]]:
        """Return its mean expert weights by block, on its first test batch."""
        batch = self.test[participant.name][0]
        mixture = self.layouts.mixture(participant.options)
        mixture.model.update(participant.values)
        _, routing = mixture.body(mx.array(batch.tokens[:, :-1]))
        mask = mx.array(batch.mask)[..., None]
        mean = (routing.weights * mask).sum((1, 2)) / mask.sum()  # [layers, E]
        shares: list[list[float]] = np.array(mean).tolist()
        return shares

    def _score(
        self,
        participant: Participant,
        batches: Sequence[Batch],
        selection: Selection,
        values: Tree,
    ) -> Score:
        self.layouts.mixture(participant.options).model.update(values)
        evaluator = self.layouts.evaluator(participant.options)
        try:
            score = evaluator.score(batches, selection)
            loss = score.loss
        except NotFinite as error:
            loss = error.loss
        if not loss < DIVERGED:
            raise TrainingError(
                f"{participant.name} answers with a loss of {loss:g} nats per token, "
                "which is no result: choose a lower --learning-rate"
            )
        return score


def _trainable(participant: Participant, method: Method) -> int:
    """Count the scalars that learn in any stage."""
    tasks = [stage.task for stage in method.stages] * method.trained
    routed = method.router != "none"
    return sum(
        array.size
        for path, array in params.flatten(participant.values).items()
        if (routed and params.role_of(path) == "router")
        or any(task.trains(path) for task in tasks)
    )


def _pairs(participant: Participant) -> dict[str, similarity.Pairs]:
    """Return the low-rank pairs of each of a participant's experts, by its name."""
    flat, at = params.flatten(participant.values), {"generalist": 0, "specialist": 0}
    pairs = {}
    for expert in participant.options.names:
        role = expert.split("-")[0]
        pairs[expert] = similarity.pairs_of(flat, role, at[role])
        at[role] += 1
    return pairs


def _beginning(content: Content, tokens: int) -> Content:
    """Return the beginning of a text, with at most so many predicted tokens (0:
    all).
    """
    if not tokens:
        return content
    if isinstance(content, TokenStream):
        size = tokens + 1
        return TokenStream(content.tokens[:size], content.documents[:size])
    ends = np.cumsum([len(sample.tokens) for sample in content])
    return content[: max(1, int(np.searchsorted(ends, tokens, "right")))]
