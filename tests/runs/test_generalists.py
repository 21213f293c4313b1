"""Generalists as numpy arrays: each one where it belongs, and nothing else touched."""

import numpy as np
import pytest

from comigs_mlx.errors import RunError
from comigs_mlx.model import params
from comigs_mlx.runs import generalists
from comigs_mlx.runs.folder import RunFolder
from comigs_mlx.training import checkpoint
from tests.runs.compare import tree


@pytest.fixture
def folder(run):
    return RunFolder(run(generalists=2, specialists=1))


def drawn(tensors):
    """Other values, no two tensors alike."""
    rng = np.random.default_rng(0)
    return {n: rng.normal(size=t.shape).astype(np.float32) for n, t in tensors.items()}


def test_every_generalist_gets_its_own_values(folder):
    """In the adapters, in the newest save, and so in the mixture that is loaded."""
    old, step = generalists.read(folder.path, 2)
    new = drawn(old)
    generalists.replace(folder, new)
    found, same_step = generalists.read(folder.path, 2)
    assert same_step == step
    assert all(np.array_equal(found[name], new[name]) for name in old)
    assert any(name.startswith("generalist-1/") for name in new)
    values = checkpoint.load_values(checkpoint.latest(folder.states))
    _, mixture = folder.load()
    for tree_of in (values, params.flatten(mixture.model.parameters())):
        pair = next(p for p in tree_of if p.endswith("down_proj.generalist.lora_b"))
        name = pair.replace(".generalist", "")
        for expert, prefix in enumerate(("", "generalist-1/")):
            assert np.array_equal(np.array(tree_of[pair][expert]), new[prefix + name])


def test_specialists_routers_and_optimisers_stay(folder):
    newest = checkpoint.latest(folder.states)
    kept = [
        folder.path / "specialist/experts.safetensors",
        folder.path / "router/router.safetensors",
        newest / "optimizer_state.safetensors",
    ]
    before = [file.read_bytes() for file in kept]
    values = checkpoint.load_values(newest)
    generalists.replace(folder, drawn(generalists.read(folder.path, 2)[0]))
    assert [file.read_bytes() for file in kept] == before
    after = checkpoint.load_values(newest)
    for path, array in values.items():
        same = np.array_equal(np.array(array), np.array(after[path]))
        assert same is (params.role_of(path) != "generalist")


def test_of_another_shape_nothing_is_changed(folder):
    before = tree(folder.path)
    tensors, _ = generalists.read(folder.path, 2)
    name = next(iter(tensors))
    for wrong in ({name: tensors[name]}, {**tensors, name: tensors[name][:1]}):
        with pytest.raises(RunError, match="generalists of another shape"):
            generalists.replace(folder, wrong)
    assert tree(folder.path) == before
