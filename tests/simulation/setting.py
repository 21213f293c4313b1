"""A tiny base and participants of random tokens, so that no text is needed."""

import dataclasses
import functools
from pathlib import Path

import numpy as np

import tests.model.families as families
from comigs_mlx.data.tokens import TokenStream
from comigs_mlx.model import params
from comigs_mlx.model.base import Base
from comigs_mlx.simulation import method
from comigs_mlx.simulation.engine import Simulation
from comigs_mlx.simulation.layouts import Layouts
from comigs_mlx.simulation.options import (
    LearningOptions,
    MeasuringOptions,
    RoundOptions,
    ShapeOptions,
    SimulateConfig,
)
from comigs_mlx.simulation.participants import Device, ParticipantData

NAMES = ("ann", "bob", "cy")


@functools.cache
def layouts():
    """One base for all tests, so that a step is compiled once a shape."""
    model = families.build("llama", seed=0)
    model.freeze()
    base = Base("tiny/llama", model, None, {"model_type": "llama"}, Path("tiny"))
    return Layouts(base)


def stream(seed, tokens, letters):
    """Random tokens of a small alphabet, in documents of 20."""
    random = np.random.default_rng(seed)
    some = random.integers(letters, letters + 8, tokens).astype(np.int32)
    return TokenStream(some, (np.arange(tokens) // 20).astype(np.int32))


def people(names=NAMES, devices=None):
    """Everybody's alphabet is its own, with an overlap."""
    return [
        ParticipantData(
            name,
            (devices or {}).get(name, Device()),
            stream([i, 0], 120, 4 * i),
            stream([i, 1], 40, 4 * i),
            stream([i, 2], 40, 4 * i),
        )
        for i, name in enumerate(names)
    ]


def config(rounds=2, **others):
    """Two steps a round, a router phase every two steps; groups may be overridden."""
    groups = {
        "sharing": RoundOptions(rounds=rounds, local_steps=2),
        "shape": ShapeOptions(rank=3),
        "learning": LearningOptions(
            batch_size=2,
            seq_len=8,
            router_every=2,
            router_steps=1,
            learning_rate=1e-2,
            token_cache=False,
        ),
        "measuring": MeasuringOptions(eval_every=2),
    }
    for name, values in others.items():
        groups[name] = dataclasses.replace(groups[name], **values)
    return SimulateConfig(users="users", out="out", **groups)


def simulation(name, seed=0, persons=None, chosen=None, **others):
    """A simulation of the method `name`, or of `chosen` under that name."""
    return Simulation(
        name,
        chosen or method.load(name),
        persons or people(),
        layouts(),
        config(**others),
        seed,
    )


class Watched:
    """A simulation whose contributions are written down as they go out."""

    def __init__(self, name, **others):
        self.made = simulation(name, **others)
        self.values, self.sizes, self.counters = {}, {}, {}
        contribute = self.made.federation.contribute

        def noted(who, values, current, counters):
            self.values[who] = {n: np.array(a) for n, a in values.items()}
            self.counters[who] = counters
            self.sizes[who] = contribute(who, values, current, counters)
            return self.sizes[who]

        self.made.federation.contribute = noted

    def round(self):
        return list(self.made._one_round())[-1]


def finished(*given, **others):
    """The simulation after its last round, and what it told."""
    made = simulation(*given, **others)
    return made, list(made.run())


def everything(made):
    """Participant and path -> numpy copy of every value."""
    return {
        (participant.name, path): np.array(array)
        for participant in made.host.participants
        for path, array in params.flatten(participant.values).items()
    }


def same(a, b):
    """Whether two results of `everything` agree in every name and bit."""
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)
