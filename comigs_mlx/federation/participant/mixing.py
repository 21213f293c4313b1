"""A participant's own generalists, mixed from the contributions of a closed round.

`--personal by_loss` gives a run not what the federation's aggregator made for everybody
but what it makes for itself (see `aggregation.personal`). The repository, the round's
record and what the run remembers of both stay as with every other pull: the next
contribution is still an update of the shared generalists, and the next round is still
verified from them. MLX is imported only where something is judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.aggregation.personal import (
    PERSONAL,
    Loss,
    Unmixable,
)
from comigs_mlx.federation.exchanges.base import Exchange, Say
from comigs_mlx.federation.formats.manifest import Manifest
from comigs_mlx.federation.formats.tensor_source import Array, Arrays, Source
from comigs_mlx.federation.rounds import aggregator_state, verification
from comigs_mlx.federation.rounds.verification import FederationState, Trust

if TYPE_CHECKING:
    from comigs_mlx.data.batches import Batch
    from comigs_mlx.model.params import Tree
    from comigs_mlx.model.selection import Selection
    from comigs_mlx.training.evaluation import Evaluator, Score
    from comigs_mlx.training.trainer import Trainer

Scores = Callable[[Source], "Score | None"]
"""Generalists -> their score on this participant's validation text, were they its own;
None where they give no finite loss."""


@dataclass(frozen=True)
class Mixing:
    """How a run mixes the contributions of a round for itself.

    Attributes:
        name: The name of a value of `PERSONAL`.
        loss: It makes the judge of generalists; it is called where there is something
            to judge.
        instead: It is told why the run gets the shared generalists instead, where a
            round cannot be mixed; None means that this is an error.
    """

    name: str
    loss: Callable[[], Loss]
    instead: Say | None = None


def check(manifest: Manifest) -> None:
    """Raise `FederationError` where a mixture of contributions makes no sense."""
    if aggregator_state.keeps(manifest):
        raise FederationError(
            f"the federation's aggregator {manifest.aggregator.name} takes "
            "contributions as steps for an optimiser of its own, which a mixture of "
            "them leaves out: drop --personal"
        )


def own_or_shared(
    exchange: Exchange,
    state: FederationState,
    trust: Trust,
    mixing: Mixing | None,
    shared: dict[str, Array],
) -> tuple[dict[str, Array], str | None]:
    """The generalists that a run gets, and the name of how it mixed them.

    Args:
        exchange: The repository to read from.
        state: The federation's newest state.
        trust: What need not be looked at; see `verification.contributions`.
        mixing: How the run mixes; None means that it does not.
        shared: What everybody receives, which is verified already.

    Returns:
        Its own mixture and its name, or `shared` and None.

    Raises:
        Unmixable: If nothing can be mixed, unless there is somebody to tell.
    """
    if mixing is None:
        return shared, None
    check(state.manifest)
    if (combine := PERSONAL.get(mixing.name)) is None:
        known = ", ".join(PERSONAL)
        raise FederationError(f"unknown --personal {mixing.name}: choose {known}")
    try:
        with verification.contributions(exchange, state, trust) as (sources, start):
            judged = in_memory(sources)  # each is read twice
            return combine(judged, start, mixing.loss()), mixing.name
    except Unmixable as error:
        if mixing.instead is None:
            raise Unmixable(f"{error}: pull without --personal") from error
        mixing.instead(f"--personal: {error}: this run gets what everybody receives")
        return shared, None


def in_memory(sources: Sequence[Source]) -> list[Source]:
    """Contributions that are read often, read from the disk once."""
    return [
        Arrays(source.name, {name: source.read(name) for name in source.names()})
        for source in sources
    ]


def valid_scores(
    evaluator: Evaluator,
    batches: Sequence[Batch],
    selection: Selection,
    values_with: Callable[[Mapping[str, Array]], Tree],
) -> Scores:
    """The scores of generalists on batches of validation text.

    Args:
        evaluator: It measures a mixture, whose values are as before afterwards.
        batches: The participant's validation text.
        selection: The experts that speak.
        values_with: It gives the participant's values, were these its generalists.

    Returns:
        A function that gives the score, or None where the loss is not finite.
    """
    from comigs_mlx.model import params
    from comigs_mlx.training.evaluation import NotFinite

    model = evaluator.mixture.model

    def score(source: Source) -> Score | None:
        before = params.select(model, params.ROLES)
        model.update(values_with({n: source.read(n) for n in source.names()}))
        try:
            return evaluator.score(batches, selection)
        except NotFinite:
            return None
        finally:
            model.update(before)

    return score


def as_loss(scores: Scores) -> Loss:
    """The judge that tells no more of a score than its loss."""

    def loss(source: Source) -> float:
        score = scores(source)
        return math.inf if score is None else score.loss

    return loss


def loss_in_training(trainer: Trainer) -> Loss:
    """The judge of a run that is being trained: what chooses its best save."""
    return as_loss(scores_in_training(trainer))


def scores_in_training(trainer: Trainer) -> Scores:
    """The scores of generalists in a run that is being trained."""
    return _of_mixture(trainer.evaluator, trainer.valid)


def loss_of_run(run: Path, say: Say) -> Loss:
    """The judge of a run that is not being trained; see `scores_of_run`."""
    return as_loss(scores_of_run(run, say))


def scores_of_run(run: Path, say: Say) -> Scores:
    """The scores of generalists in a run that is not being trained.

    Its model and its validation text are loaded.

    Args:
        run: The folder of the run.
        say: It is told what takes time, and what was noticed in the text.

    Raises:
        ComigsError: If the base model or the text is not what it was, or not there.
    """
    from comigs_mlx.data.batches import sampled_batches
    from comigs_mlx.data.reading_progress import in_sentences
    from comigs_mlx.data.splits import load_split
    from comigs_mlx.runs.folder import RunFolder
    from comigs_mlx.runs.session import contents
    from comigs_mlx.training.evaluation import Evaluator

    folder = RunFolder(run)
    config = folder.read_config()
    told = (in_sentences(say), say, config.data.reading)
    samples, kind = load_split(config.data.data, "valid", *told)
    base, mixture = folder.load(report=say)
    text = contents(config, base, {"valid": samples}, kind, say)["valid"]
    count, data = config.saving.valid_batches, config.data
    batches = sampled_batches(text, data.seq_len, data.batch_size, count)
    return _of_mixture(Evaluator(mixture), batches)


def _of_mixture(evaluator: Evaluator, batches: Sequence[Batch]) -> Scores:
    """The scores with a mixture's own specialists and routers."""
    from comigs_mlx.model import params
    from comigs_mlx.runs import generalists

    own = params.flatten(params.select(evaluator.mixture.model, params.ROLES))

    def values_with(tensors: Mapping[str, Array]) -> Tree:
        return params.unflatten(generalists.into_values(own, tensors))

    return valid_scores(evaluator, batches, "auto", values_with)
