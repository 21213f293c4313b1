"""Runs whose experts differ, so that a change of one of them would be seen."""

import mlx.core as mx
import numpy as np
import pytest

import tests.tiny as tiny
from comigs_mlx import train
from comigs_mlx.data.batches import Batch
from comigs_mlx.model import params
from comigs_mlx.runs import generalists
from comigs_mlx.runs.folder import RunFolder
from comigs_mlx.training import checkpoint

TOKENS = np.random.default_rng(0).integers(0, 256, (2, 13)).astype(np.int32)


def logits(folder, best=False, selection="auto"):
    """What a run answers to the same random tokens, `[2, 13, vocabulary]`."""
    _, mixture = RunFolder(folder).load(best=best)
    with mixture.selected(selection):
        return np.array(mixture(mx.array(TOKENS))[0].astype(mx.float32))


def values(folder):
    """Path -> array of the newest save."""
    newest = checkpoint.latest(RunFolder(folder).states)
    return {p: np.array(a) for p, a in checkpoint.load_values(newest).items()}


def generalist_bytes(folder):
    """Name -> bytes of the adapters that others get."""
    files = sorted(folder.glob("generalist*/adapters.safetensors"))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def resumed(folder, **options):
    train.main(tiny.flags(run=folder, resume=True, **options))


@pytest.fixture
def life(run):
    """(options of train) -> a run whose routers and experts are far from their start.

    Values are added to all its saves' parameters: a few steps change little.
    """

    def make(name="mine", **options):
        folder = run(name, **options)
        place = RunFolder(folder)
        newest = checkpoint.latest(place.states)
        with place.in_use():
            _, mixture = place.load()
            changed = {}
            for index, (path, array) in enumerate(
                checkpoint.load_values(newest).items()
            ):
                noise = mx.random.normal(array.shape, key=mx.random.key(index))
                changed[path] = array + 0.3 * noise
            checkpoint.replace_values(newest, changed)
            mixture.model.update(params.unflatten(changed))
            step = checkpoint.read_state(newest)["position"]["step"]
            place.write_experts(mixture, step)
        return folder

    return make


__all__ = ["Batch", "generalists"]
