"""Measures participants on text they have not seen, by the same `Evaluator`."""

from __future__ import annotations

from collections.abc import Sequence

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


class Measuring:
    """The test text of all participants, and who is measured on it."""

    def __init__(
        self,
        members: Sequence[ParticipantData],
        participants: Sequence[Participant],
        layouts: Layouts,
        config: SimulateConfig,
    ):
        """See `Simulation`; if text is pooled, one participant is measured for all."""
        self.members, self.participants = members, participants
        self.layouts, self.config = layouts, config
        limit = config.measuring.test_tokens
        self.test = {p.name: self._batches(_beginning(p.test, limit)) for p in members}
        sizes = (config.learning.seq_len, config.learning.batch_size)
        count = config.measuring.valid_batches
        self.valid = {
            p.name: sampled_batches(p.data.valid, *sizes, count) for p in participants
        }

    def scores(self, method: Method) -> dict[str, Score]:
        """Return each participant's score on its test text."""
        by_name = {}
        for i, data in enumerate(self.members):
            participant = self.participants[i if len(self.participants) > 1 else 0]
            batches, values = self.test[data.name], participant.values
            by_name[data.name] = self._score(
                participant, batches, self.speaks(participant, method), values
            )
        return by_name

    def by_selection(self, method: Method) -> dict[str, dict[str, float]]:
        """Return each participant's loss under every selection, and the oracle's.

        The oracle takes, at each token, the least loss of the single experts. It is one
        of selections: an expert that speaks alone has also written the keys and values
        that its later tokens read.
        """
        if not self.config.measuring.selections or method.router == "none":
            return {}
        return {p.name: self._by_selection(p) for p in self.participants}

    def _by_selection(self, participant: Participant) -> dict[str, float]:
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

    def losses(self, method: Method) -> dict[str, float]:
        """Return each participant's loss on its test text, in nats per token."""
        return {name: score.loss for name, score in self.scores(method).items()}

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
        batches, values = self.valid[participant.name], participant.values
        return self._score(participant, batches, selection, values).loss

    def layer_share(self, method: Method) -> dict[str, list[list[float]]]:
        """Return each participant's mean expert weights by block, on its first test
        batch.
        """
        if method.router == "none":
            return {}
        by_name = {}
        for participant in self.participants:
            batch = self.test[participant.name][0]
            mixture = self.layouts.mixture(participant.options)
            mixture.model.update(participant.values)
            _, routing = mixture.body(mx.array(batch.tokens[:, :-1]))
            mask = mx.array(batch.mask)[..., None]
            mean = (routing.weights * mask).sum((1, 2)) / mask.sum()  # [layers, E]
            by_name[participant.name] = np.array(mean).tolist()
        return by_name

    def similarity(self) -> dict[str, list[list[float]] | list[str]]:
        """Return the names of all experts, and the cosine of every two."""
        names: list[str] = []
        experts = []
        for participant in self.participants:
            flat, at = (
                params.flatten(participant.values),
                {"generalist": 0, "specialist": 0},
            )
            for expert in participant.options.names:
                role = expert.split("-")[0]
                names.append(f"{participant.name} {expert}")
                experts.append(similarity.pairs_of(flat, role, at[role]))
                at[role] += 1
        return {"experts": names, "cosines": similarity.cosines(experts)}

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

    def _batches(self, content: Content) -> list[Batch]:
        learning = self.config.learning
        return list(evaluation_batches(content, learning.seq_len, learning.batch_size))


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
