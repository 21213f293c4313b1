"""Files of a run mean what the method says: their loss, recomputed in plain numpy."""

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx.model.base import fingerprint, load_base
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import ExpertOptions, TrainConfig, TrainingOptions
from comigs_mlx.runs import experts
from comigs_mlx.runs.folder import RunFolder
from comigs_mlx.training.level import Level, expert_group, router_group
from comigs_mlx.training.losses import token_losses
from tests.model.naive import randomise
from tests.model.reference import Run, window_loss
from tests.training.setting import batch_of

WINDOW = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 58, 9, 7, 9, 32, 3, 84, 6]
SHAPES = {
    "1G1S": ExpertOptions(),
    "2G2S-top2": ExpertOptions(generalists=2, specialists=2, top_k=2),
    "1G2S-top1": ExpertOptions(specialists=2, top_k=1),
    "1G1S-last-block": ExpertOptions(num_layers=1),
    "2S": ExpertOptions(generalists=0, specialists=2, scaling="lora"),
    "1G1S-no-attention": ExpertOptions(attention_lora=False),
}


def loss_of(mixture):
    logits, _ = mixture(mx.array([WINDOW[:-1]]))
    return token_losses(lambda h: h, logits, mx.array([WINDOW[1:]])).mean().item()


def train(mixture):
    """A few steps of both levels; they move the loss by far more than the tolerance."""
    options = TrainingOptions(steps=6, learning_rate=2e-2)
    lower = Level(mixture, [expert_group(options)], options)
    upper = Level(mixture, [router_group(options)], options)
    for i in range(3):
        lower.step([batch_of(i)])
        upper.step([batch_of(100 + i)])


def write_run(folder, base, mixture):
    run = RunFolder(folder)
    bare = fingerprint(load_base(base.id).model, base.config)
    run.create(TrainConfig(), mixture, base.id, bare)
    experts.write(folder, mixture, base.id, step=6)
    return run


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_loss_equals_numpy_from_the_files_alone(tiny_folder, tmp_path, family, shape):
    base = load_base(str(tiny_folder(family)))
    mixture = Mixture(base.model, SHAPES[shape])
    randomise(mixture.model, std=0.1)
    write_run(tmp_path / "run", base, mixture)
    reference = window_loss(base.path, tmp_path / "run", WINDOW)
    assert abs(loss_of(mixture) - reference) < 1e-5
    with mixture.selected("base"):
        assert abs(loss_of(mixture) - reference) > 1e-2


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_trained_run_loaded_again_equals_numpy(tiny_folder, tmp_path, family):
    base = load_base(str(tiny_folder(family)))
    mixture = Mixture(base.model, ExpertOptions())
    before = loss_of(mixture)
    train(mixture)
    _, loaded = write_run(tmp_path / "run", base, mixture).load()
    assert abs(before - loss_of(mixture)) > 1e-2
    assert loss_of(loaded) == loss_of(mixture)
    reference = window_loss(base.path, tmp_path / "run", WINDOW)
    assert abs(loss_of(loaded) - reference) < 1e-5


def test_router_files_hold_what_the_router_uses(tiny_folder, tmp_path):
    """The numpy weights of the first block equal the routing that MLX returns."""
    base = load_base(str(tiny_folder("gpt2")))
    mixture = Mixture(base.model, SHAPES["2G2S-top2"])
    randomise(mixture.model, std=0.5)
    write_run(tmp_path / "run", base, mixture)
    seen = []
    block = mixture.sites[0].mlp._routing
    choose = block.choose
    block.choose = lambda x: (seen.append(x), choose(x))[1]
    _, routing = mixture(mx.array([WINDOW]))
    x = np.array(seen[0][0], np.float64)
    weights = Run(tmp_path / "run").weights(mixture.layers[0], x)
    assert np.abs(weights - np.array(routing.weights[0, 0])).max() < 1e-5
