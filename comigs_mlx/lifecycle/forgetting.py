"""Lets a specialist unlearn documents, or learns it anew without them.

To unlearn, only one specialist in one block and that block's router learn (SEUF): the
pair with the largest affinity to the documents D_f, the mean over sequences of the mean
over tokens of the router's probability. Each step lowers

    l_f(D_f) + RETAIN * l(D_r) + ANCHOR * mean |p - a|^2

where D_r is the remaining training text, p are the probabilities of that block on D_f,
and a is 1 at the target and 0 elsewhere: otherwise the router would send the documents
past the specialist that is to forget them. l_f is NPO, per sequence

    (2 / BETA) softplus(BETA (log pi - log pi_ref)),   divided by the tokens of all

which falls to 0 as the documents get less likely than they were (pi_ref); the ascent of
the loss has no such bound. It ends when the loss of D_f is that of the generalist
alone, which the specialist no longer lowers.

Source: Zhuang et al., arXiv 2411.18797, and NPO of Zhang et al., arXiv 2404.05868. The
weights are ours. The target is a specialist by construction: generalists belong to
others, too, and a loss that was raised in one would be contributed.

A loss proves no removal. `Retraining` makes the specialist anew without the documents.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np

from comigs_mlx.data.batches import Batch, evaluation_batches, sampled_batches
from comigs_mlx.data.content import Content
from comigs_mlx.data.reading_progress import in_sentences
from comigs_mlx.data.splits import Sample, load_split, load_splits
from comigs_mlx.errors import DataError, RunError
from comigs_mlx.files import write_json
from comigs_mlx.lifecycle.rewriting import check_saved
from comigs_mlx.messages import Say
from comigs_mlx.model import params
from comigs_mlx.model.base import Base
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.model.params import Tree
from comigs_mlx.options import TrainConfig
from comigs_mlx.runs import experts, versions
from comigs_mlx.runs.folder import BEST, RunFolder
from comigs_mlx.runs.session import contents, copies, has_learnt, make_trainer
from comigs_mlx.training import checkpoint
from comigs_mlx.training.evaluation import Evaluator, NotFinite
from comigs_mlx.training.level import Task
from comigs_mlx.training.losses import summed_loss
from comigs_mlx.training.records import Boundary, Step

BETA = 0.1
"""The temperature of NPO."""

RETAIN, ANCHOR = 1.0, 1.0
"""The weights of the remaining text's loss and of the anchor."""

CHECK_EVERY = 2
"""The steps between two looks at whether the documents are forgotten."""

RETAINED = 32
"""The batches of the remaining text that are trained on and measured, at most."""


@dataclass(frozen=True)
class Target:
    """The part of a mixture that unlearns.

    Attributes:
        specialist: The number of the specialist among the specialists.
        layer: The number of the block among the adapted ones.
    """

    specialist: int
    layer: int


@dataclass(frozen=True)
class Texts:
    """The documents to forget, and what is left of the run's own text.

    Attributes:
        forget: The tokens of the documents.
        train: The tokens of the remaining training text.
        valid: The tokens of the remaining validation text.
        found: The number of documents of the run's training text that are left out.
    """

    forget: Content
    train: Content
    valid: Content
    found: int


@dataclass(frozen=True)
class Losses:
    """Mean losses in nats per token.

    Attributes:
        forget: The loss of the documents.
        retain: The loss of the remaining training text.
    """

    forget: float
    retain: float


def read_texts(config: TrainConfig, base: Base, source: str, say: Say) -> Texts:
    """Read the documents, and the run's own text without them.

    Args:
        config: The configuration of the run.
        base: Its base model with the tokenizer.
        source: The documents, all of which are read, as `--data` takes them.
        say: Receives a sentence on each thing that was noticed.

    Raises:
        DataError: If there is no such text, it is of another kind than the run's, or
            nothing is left of the run's.
    """
    tell = in_sentences(say)
    forget, kind = load_split(source, "all", tell, say, config.data.reading)
    own = load_splits(config.data.data, tell, config.data.reading)
    if own.kind not in (kind, "mixed"):
        raise DataError(f"{source} is {kind}, and the run's own text is {own.kind}")
    train, valid = without(own.train, forget), without(own.valid, forget)
    for name, rest in (("training", train), ("validation", valid)):
        if not rest:
            raise DataError(
                f"no {name} text is left without {source}: the run has learnt nothing "
                "else; train a new one instead"
            )
    samples = {"forget": forget, "train": train, "valid": valid}
    read = contents(config, base, samples, own.kind, say)
    return Texts(**read, found=len(own.train) - len(train))


def without(samples: Sequence[Sample], forget: Sequence[Sample]) -> list[Sample]:
    """Leave out the samples to forget.

    A text also counts as one of them where it is a part of one, or has one in it: the
    same document is cut in other places by a folder of files and by one file.
    """
    texts = [sample["text"].strip() for sample in forget if "text" in sample]

    def is_one(sample: Sample) -> bool:
        if "text" not in sample:
            return sample in forget
        text = sample["text"].strip()
        return any(text in other or other in text for other in texts if other)

    return [sample for sample in samples if not is_one(sample)]


def check_forgettable(mixture: Mixture) -> None:
    """Refuse a mixture whose specialists have learnt nothing that could be forgotten.

    Raises:
        RunError: If there is none, or all of them compute what the base does.
    """
    values = params.flatten(params.select(mixture.model, ("specialist",)))
    if not has_learnt(values, "specialist"):
        raise RunError(
            "this run has no specialist that has learnt anything: there is nothing to "
            "forget here, and what a generalist was contributed with cannot be recalled"
        )


def affinity(mixture: Mixture, batches: Sequence[Batch]) -> np.ndarray[Any, Any]:
    """Measure how much each block's router gives each expert on some text.

    Returns:
        The mean over sequences of the mean over tokens of the probabilities,
        `[layers, E]`.
    """
    total = np.zeros((len(mixture.sites), mixture.options.experts))
    rows = 0
    for batch in batches:
        _, routing = mixture.body(mx.array(batch.tokens)[:, :-1])
        counts = batch.mask.sum(1)
        used = counts > 0
        mask = batch.mask[used][None, ..., None]
        shares = np.array(routing.probabilities)[:, used] * mask
        total += (shares.sum(2) / counts[used][:, None]).sum(1)
        rows += int(used.sum())
    return total / max(rows, 1)


def target_of(mixture: Mixture, batches: Sequence[Batch]) -> Target:
    """Find the specialist and block with the largest affinity to some text."""
    of_specialists = affinity(mixture, batches)[:, mixture.options.generalists :]
    layer, specialist = np.unravel_index(of_specialists.argmax(), of_specialists.shape)
    return Target(int(specialist), int(layer))


class Unlearning:
    """Makes steps that let one specialist in one block forget.

    Attributes:
        target: The specialist and the block that learn.
        goal: The loss of the documents at which they count as forgotten, in nats per
            token: that of the generalist alone, or of the base where there is none.
    """

    def __init__(
        self, mixture: Mixture, texts: Texts, config: TrainConfig, rate: float
    ):
        """Measure the documents; nothing is changed.

        Args:
            mixture: The mixture of the run.
            texts: The documents, and the text to retain.
            config: The configuration of the run.
            rate: The learning rate of Adam.
        """
        size = (config.data.seq_len, config.data.batch_size)
        self.mixture = mixture
        self._forget = list(evaluation_batches(texts.forget, *size))
        self._retain = sampled_batches(texts.train, *size, RETAINED)
        self._evaluator, self._begun = Evaluator(mixture), False
        self.target = target_of(mixture, self._forget)
        alone = "generalist" if mixture.options.generalists else "base"
        self.goal = self._evaluator.score(self._forget, alone).loss
        self._reference = [self._likelihoods(batch) for batch in self._forget]
        self._optimizer = optim.Adam(rate, bias_correction=True)
        self._optimizer.init(self._learning())
        self._compiled = mx.compile(self._step)

    def losses(self) -> Losses:
        """Measure the documents and the remaining text.

        Raises:
            RunError: If what was learnt is no number any more.
        """
        return Losses(self._loss(self._forget), self._loss(self._retain))

    def run(self, steps: int) -> Iterator[float]:
        """Make steps until the documents are forgotten; yield their loss at each look.

        Args:
            steps: The most steps.

        Raises:
            RunError: If they are not forgotten then, or what was learnt is no number
                any more.
        """
        loss = self._loss(self._forget)
        for number in range(steps):
            if number % CHECK_EVERY == 0:
                loss = self._loss(self._forget)
                if loss >= self.goal:
                    return
            self._one(number)
            yield loss
        loss = self._loss(self._forget)
        if loss < self.goal:
            raise RunError(
                f"not forgotten after {steps} steps: the loss of the documents is "
                f"{loss:.4f}, the generalist's {self.goal:.4f}; the run is unchanged: "
                "raise --steps or --learning-rate, or use --retrain"
            )

    def _loss(self, batches: Sequence[Batch]) -> float:
        try:
            return self._evaluator.score(batches).loss
        except NotFinite as error:
            if not self._begun:
                raise
            raise RunError(
                "unlearning diverges: the loss is no number any more; the run is "
                "unchanged: lower --learning-rate, or use --retrain"
            ) from error

    def learns(self, path: str) -> bool:
        """Tell whether the parameter at `path` is of the target or its router."""
        block = f"{self.mixture.sites[self.target.layer].mlp_path}."
        return path.startswith(block) and params.role_of(path) != "generalist"

    def _likelihoods(self, batch: Batch) -> mx.array:
        """Return log pi of each sequence before the first step, `[B]`."""
        losses, _ = self._evaluator.batch_losses(batch, "auto")
        return mx.array(-(losses * batch.mask).sum(1))

    def _learning(self) -> Tree:
        return params.select_by(self.mixture.model, self.learns)

    def _one(self, number: int) -> None:
        self._begun = True
        at = number % len(self._forget)
        forget = self._forget[at]
        retain = self._retain[number % len(self._retain)]
        model = self.mixture.model
        learning = self._learning()
        others = params.select_by(model, lambda path: not self.learns(path))
        arrays = [mx.array(a) for a in (forget.tokens, forget.mask)]
        arrays += [self._reference[at]]
        arrays += [mx.array(a) for a in (retain.tokens, retain.mask)]
        updated, state = self._compiled(
            learning, others, self._optimizer.state, *arrays
        )
        model.update(others)
        mx.eval(updated, state)
        model.update(updated)
        self._optimizer.state = state

    def _step(
        self, learning: Tree, others: Tree, state: Tree, *arrays: mx.array
    ) -> tuple[Tree, Tree]:
        model = self.mixture.model
        model.update(others)
        _, slopes = params.value_and_grad(model, self._objective)(learning, *arrays)
        slopes = params.unflatten(
            {
                path: self._of_target(path, a)
                for path, a in params.flatten(slopes).items()
            }
        )
        self._optimizer.state = state
        updated = self._optimizer.apply_gradients(slopes, learning)
        return updated, self._optimizer.state

    def _of_target(self, path: str, slope: mx.array) -> mx.array:
        """Return the gradient with zeros for the block's other specialists.

        Adam leaves alone, to the last bit, what never had a gradient.
        """
        if params.role_of(path) != "specialist":
            return slope
        among = mx.arange(slope.shape[0]) == self.target.specialist
        return mx.where(among[:, None, None], slope, 0.0)

    def _objective(
        self,
        forget: mx.array,
        counted: mx.array,
        reference: mx.array,
        retain: mx.array,
        retained: mx.array,
    ) -> mx.array:
        """Return the loss that the module describes, a scalar in nats per token.

        Args:
            forget: The tokens to forget, `[B, T + 1]` integer.
            counted: The factor of each of their targets, 1 where it counts, `[B, T]`.
            reference: log pi_ref of each row, `[B]`.
            retain: The tokens to retain, `[B', T' + 1]` integer.
            retained: The factor of each of their targets, as above, `[B', T']`.
        """
        mixture, head = self.mixture, self.mixture.head
        hidden, routing = mixture.body(forget[:, :-1])
        rows = [slice(i, i + 1) for i in range(forget.shape[0])]
        likelihood = mx.stack(
            [-summed_loss(head, hidden[r], forget[r, 1:], counted[r]) for r in rows]
        )
        tokens = counted.sum()
        loss = (npo(likelihood, reference) * (counted.sum(1) > 0)).sum() / tokens
        among = mx.arange(mixture.options.experts)
        target = among == mixture.options.generalists + self.target.specialist
        distance = (routing.probabilities[self.target.layer] - target).square().sum(-1)
        loss = loss + ANCHOR * (distance * counted).sum() / tokens
        hidden, _ = mixture.body(retain[:, :-1])
        total = summed_loss(head, hidden, retain[:, 1:], retained)
        return loss + RETAIN * total / mx.maximum(retained.sum(), 1)


def npo(likelihood: mx.array, reference: mx.array) -> mx.array:
    """Return (2 / beta) softplus(beta (log pi - log pi_ref)) of each sequence.

    Args:
        likelihood: log pi of each sequence in nats, `[B]`.
        reference: log pi_ref, `[B]`.
    """
    return (2 / BETA) * mx.logaddexp(BETA * (likelihood - reference), mx.array(0.0))


class Retraining:
    """Learns specialists and routers anew, on the text without the documents.

    The generalists stay as they are. Specialists begin as they did in the run's first
    step, so that nothing of what they learnt is left in them.
    """

    def __init__(
        self, mixture: Mixture, texts: Texts, config: TrainConfig, say: Say, steps: int
    ):
        """Put fresh specialists and routers into a mixture of the run's shape.

        Args:
            mixture: The mixture of the run; `mixture` of this is attached in its place.
            texts: The text to learn from.
            config: The configuration of the run.
            say: Receives a sentence on what to expect of the batches.
            steps: The expert steps to make.
        """
        model = mixture.model
        generalists, options = params.select(model, ("generalist",)), mixture.options
        mixture.detach()
        self.mixture = Mixture(model, options, config.training.seed)
        model.update(generalists)
        if config.sharing.specialist_from is not None:
            values = params.flatten(params.select(model, params.ROLES))
            model.update(params.unflatten(copies(values)))
        training = dataclasses.replace(config.training, steps=steps, frozen="")
        config = dataclasses.replace(config, training=training)
        split = {"train": texts.train, "valid": texts.valid}
        task = Task(roles=("specialist",))
        self.trainer = make_trainer(config, self.mixture, split, say, task)

    def run(self) -> Iterator[Step]:
        """Train; yield each step of either level."""
        for event in self.trainer.run():
            if isinstance(event, Step):
                yield event


def write(
    folder: RunFolder,
    base: Base,
    mixture: Mixture,
    valid_loss: float,
    what: str,
) -> None:
    """Let the run have the values of a mixture, as one change that `--undo` takes back.

    The best save becomes this one, as the one before knew the documents; older saves
    go, and so do the moments of the optimisers that were made of the documents.

    Args:
        folder: The run, which is locked.
        base: Its base model.
        mixture: The mixture with the new values.
        valid_loss: Its loss on the remaining validation text, in nats per token.
        what: A sentence on the change.
    """
    newest = check_saved(folder)
    state = checkpoint.read_state(newest)
    step = state["position"]["step"]
    state["position"] |= {"best": valid_loss, "stale": 0}
    values = params.flatten(params.select(mixture.model, params.ROLES))
    optimizers = forgetful(checkpoint.load_optimizers(newest))
    with versions.changing(folder.path, "forget", step, what) as new:
        for file in (folder.config, folder.info, folder.metrics, folder.rounds):
            versions.copy_unchanged(folder.path, new, file.name)
        experts.write(new, mixture, base.id, step)
        name = folder.states.name
        checkpoint.rewrite(new / name / newest.name, state, values, optimizers)
        best = new / "best" / f"step-{step:07d}"
        experts.write(best, mixture, base.id, step)
        write_json(best / BEST, dataclasses.asdict(Boundary(step, valid_loss)))


def forgetful(optimizers: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Set the moments of specialists and routers to 0, as they are sums of gradients.

    Whatever an optimiser calls them, they stand at the path of their parameter.

    Args:
        optimizers: The states of the optimisers, as a save names them.
    """
    private = {"specialist", "router"}
    return {
        name: mx.zeros_like(array) if not private.isdisjoint(name.split(".")) else array
        for name, array in optimizers.items()
    }


def valid_loss(mixture: Mixture, texts: Texts, config: TrainConfig) -> float:
    """Measure the remaining validation text as the run's training does."""
    size = (config.data.seq_len, config.data.batch_size)
    batches = sampled_batches(texts.valid, *size, config.saving.valid_batches)
    return Evaluator(mixture).score(batches).loss
