"""A tiny mixture with values that matter, and batches that need no text."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

import tests.model.families as families
from comigs_mlx.data.batches import Batch
from comigs_mlx.model import params
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import ExpertOptions, SavingOptions, TrainingOptions
from comigs_mlx.training.trainer import Trainer
from tests.model.naive import randomise

SHAPES = {
    "k=E": ExpertOptions(rank=2),
    "k<E": ExpertOptions(rank=2, specialists=2, top_k=2),
    "k=1": ExpertOptions(rank=2, specialists=2, top_k=1),
}


def mixture_of(options=SHAPES["k=E"], family="llama", std=None, seed=0):
    """A tiny model with experts; `std` makes all their values random and large."""
    mixture = Mixture(families.build(family, seed=seed), options, seed)
    if std is not None:
        randomise(mixture.model, seed=seed + 1, std=std)
    return mixture


POISON = families.VOCABULARY - 1
"""A token that `batch_of` never draws."""


def poison(mixture):
    """Let the base model answer the token `POISON` with NaN."""
    weight = mixture.model.model.embed_tokens.weight
    weight[POISON] = mx.nan


def poisoned(batch):
    """`batch` with one token that breaks the model of `poison`."""
    tokens = batch.tokens.copy()
    tokens[-1, 3] = POISON
    return batch._replace(tokens=tokens)


def batch_of(seed, rows=2, length=12, counted=None):
    """Random tokens; `counted` limits the targets of every row to its first ones."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, POISON, (rows, length + 1)).astype(np.int32)
    mask = np.ones((rows, length), np.float32)
    if counted is not None:
        mask[:, counted:] = 0
    documents = np.repeat(np.arange(rows, dtype=np.int32)[:, None], length, axis=1)
    return Batch(tokens, mask, documents)


@dataclass
class Scripted:
    """A source of random batches that notes what it is asked for; some are replaced."""

    seed: int
    replaced: dict[int, Batch]
    asked: list[int]

    def batch(self, index):
        self.asked.append(index)
        return self.replaced.get(index) or batch_of([self.seed, index])


def source(seed, replaced=None):
    return Scripted(seed, replaced or {}, [])


def trainer_of(mixture=None, train=None, router_train=None, saving=None, **options):
    """A trainer on scripted batches; options as in `TrainingOptions`."""
    return Trainer(
        mixture or mixture_of(),
        train or source(1),
        router_train or source(2),
        [batch_of(3), batch_of(4)],
        TrainingOptions(**{"steps": 4, "router_every": 2, "router_steps": 2} | options),
        saving or SavingOptions(report_every=3, save_every=2),
    )


def values(mixture, *roles):
    """Path -> numpy copy of the parameters of these roles, or of all."""
    return arrays(params.select(mixture.model, roles or params.ROLES))


def arrays(tree):
    """Path -> numpy copy of every leaf."""
    return {path: np.array(a) for path, a in params.flatten(tree).items()}


def put(mixture, flat):
    """Give the mixture the values that `values` returned."""
    tree = params.unflatten({path: mx.array(a) for path, a in flat.items()})
    mixture.model.update(tree)


def same(a, b):
    """Whether two results of `arrays` agree in every name and bit."""
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def changed(a, b):
    """The paths whose arrays differ."""
    assert a.keys() == b.keys()
    return {k for k in a if not np.array_equal(a[k], b[k])}
