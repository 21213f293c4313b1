"""Taking turns in one trainer is training in trainers of one's own, bit by bit."""

import itertools

from comigs_mlx.model import params
from comigs_mlx.training import trainer_state
from comigs_mlx.training.records import Boundary
from comigs_mlx.training.trainer_state import Supply
from tests.training.setting import mixture_of, same, source, trainer_of, values


def one_step(trainer):
    """Up to the next boundary."""
    events = itertools.takewhile(
        lambda event: not isinstance(event, Boundary), trainer.run()
    )
    return list(events)


def test_two_take_turns():
    alone = []
    for person in (0, 1):
        trainer = trainer_of(
            mixture_of(seed=0), source(10 + person), source(20 + person)
        )
        list(trainer.run())
        alone.append(values(trainer.mixture))

    trainer = trainer_of(mixture_of(seed=0))
    begin = trainer_state.fresh(trainer)
    start = params.select(trainer.mixture.model, params.ROLES)
    held = [(start, trainer_state.copied(begin)) for _ in (0, 1)]
    supplies = [Supply(source(10 + p), source(20 + p), trainer.valid) for p in (0, 1)]
    for person in (0, 1, 1, 0, 0, 1, 0, 1):  # four steps each
        trainer_state.put(trainer, *held[person], supplies[person])
        one_step(trainer)
        held[person] = trainer_state.take(trainer)
    for person in (0, 1):
        trainer.mixture.model.update(held[person][0])
        assert same(values(trainer.mixture), alone[person])
    assert not same(alone[0], alone[1])
    assert begin.position.step == 0
