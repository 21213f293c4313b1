"""Frozen experts keep every bit, and the others learn as they would alone."""

import numpy as np
import pytest

from comigs_mlx.config import from_dict
from comigs_mlx.errors import ConfigError
from comigs_mlx.options import ExpertOptions, TrainConfig
from tests.training.setting import batch_of, mixture_of, same, trainer_of, values

TWO = ExpertOptions(rank=2, generalists=2, specialists=2, top_k=4)


def trained(frozen, **options):
    """Values before and after four steps, in which weight decay would move all."""
    mixture = mixture_of(TWO, std=0.5)
    before = values(mixture)
    trainer = trainer_of(mixture, frozen=frozen, weight_decay=0.5, **options)
    list(trainer.run())
    return before, values(mixture)


def rows_moved(before, after, role):
    """For each expert of a role, whether all of its arrays moved, or none."""
    moved = set()
    for path, array in before.items():
        if f".{role}." in path and array.ndim == 3:
            moved.add(tuple((array != after[path]).any((1, 2)).tolist()))
    (all_alike,) = moved
    return all_alike


@pytest.mark.parametrize("options", [{}, {"grad_accumulation": 2}, {"router": "joint"}])
@pytest.mark.parametrize(
    ("frozen", "generalists", "specialists"),
    [
        ("", (True, True), (True, True)),
        ("specialist", (True, True), (False, True)),
        ("specialist-1, generalist-1", (True, False), (True, False)),
        ("generalist,generalist-1,specialist", (False, False), (False, True)),
        ("specialist,specialist-1", (True, True), (False, False)),
    ],
)
def test_the_rows_of_frozen_experts_keep_every_bit(
    options, frozen, generalists, specialists
):
    before, after = trained(frozen, **options)
    assert rows_moved(before, after, "generalist") == generalists
    assert rows_moved(before, after, "specialist") == specialists
    router = next(path for path in before if ".router." in path)
    assert not np.array_equal(before[router], after[router])


def test_the_attention_is_the_first_generalists():
    for frozen, moves in (("generalist", False), ("generalist-1", True)):
        before, after = trained(frozen)
        attention = [p for p in before if "self_attn" in p]
        assert attention
        for path in attention:
            assert (not np.array_equal(before[path], after[path])) == moves


def test_one_step_of_the_others_is_what_it_would_be_without_the_mask():
    """The mask takes back; it adds nothing to what the others get."""
    results = []
    for frozen in ("", "specialist"):
        mixture = mixture_of(TWO, std=0.5)
        trainer_of(mixture, frozen=frozen).experts.step([batch_of(5)])
        results.append(values(mixture))
    free, masked = results
    for path in free:
        if ".specialist." in path:
            assert np.array_equal(free[path][1], masked[path][1])
        else:
            assert np.array_equal(free[path], masked[path])


def test_with_nothing_frozen_training_is_what_it_was(monkeypatch):
    usual = trained("")[1]
    from comigs_mlx.training import freezing

    monkeypatch.setattr(freezing, "keep", lambda updated, *_: updated)
    assert same(trained("")[1], usual)


def test_all_frozen_is_told():
    names = "generalist,generalist-1,specialist,specialist-1"
    told = list(trainer_of(mixture_of(TWO), frozen=names).warnings())
    assert "all experts are frozen: only the router can learn" in told
    assert not any("frozen" in one for one in trainer_of(mixture_of(TWO)).warnings())


def test_a_name_that_is_no_expert_is_refused():
    with pytest.raises(ConfigError) as error:
        from_dict(TrainConfig, {"frozen": "specialist-1"})
    assert "--frozen specialist-1: the experts are generalist, specialist" in str(
        error.value
    )
