"""Results are of test text, choices of validation text, each participant's own."""

import dataclasses

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx.errors import TrainingError
from comigs_mlx.model import params
from comigs_mlx.simulation import method
from tests.simulation.setting import people, simulation, stream

OTHER = stream([9, 9], 60, 12)


def with_text(split):
    """The participants, whose texts of this split are other ones."""
    return [dataclasses.replace(person, **{split: OTHER}) for person in people()]


def shaken(made):
    """The simulation, with random values of its own for every participant."""
    random = np.random.default_rng(0)
    for participant in made.host.participants:
        flat = params.flatten(participant.values)
        participant.values = params.unflatten(
            {
                p: mx.array(random.normal(size=a.shape) * 0.3, a.dtype)
                for p, a in flat.items()
            }
        )
    return made


def measures(persons, name="fdlora"):
    """Losses on what results are of, and on what choices are made by."""
    made = shaken(simulation(name, persons=persons))
    fixed = dataclasses.replace(made.method, speaks=((0.5, 0.5),))
    chosen = [
        made.host.measuring.valid_loss(participant, selection)
        for participant in made.host.participants
        for selection in made.method.speaks
    ]
    return made.host.measuring.measured(fixed).test_loss, chosen


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_results_are_of_test_text_and_choices_of_validation_text(split):
    losses, chosen = measures(people())
    other_losses, other_chosen = measures(with_text(split))
    assert (losses != other_losses) == (split == "test")
    assert (chosen != other_chosen) == (split == "valid")


def test_everybody_answers_for_the_own_text():
    made = shaken(simulation("local"))
    found = made.host.measuring.measured(made.method).test_loss
    selection, test = made.method.speaks[0], made.host.measuring.test
    table = {
        (who.name, text): made.host.measuring._score(
            who, test[text], selection, who.values
        ).loss
        for who in made.host.participants
        for text in test
    }
    assert found == {name: table[name, name] for name in test}
    assert len(set(table.values())) == 9  # nobody answers as another one does


def test_the_selection_with_the_lowest_validation_loss_speaks(monkeypatch):
    made = simulation("fdlora")
    measuring = made.host.measuring
    speaks = method.load("fdlora").speaks
    for best in speaks:
        losses = {selection: 2.0 + i for i, selection in enumerate(speaks)}
        losses[best] = 1.0
        monkeypatch.setattr(
            measuring, "valid_loss", lambda who, s, losses=losses: losses[s]
        )
        assert measuring.speaks(made.host.participants[0], made.method) == best


def test_shares_of_a_layer_are_those_of_the_text_without_padding():
    persons = [
        dataclasses.replace(person, test=stream([i, 2], 12, 4 * i))
        for i, person in enumerate(people())
    ]
    made = shaken(simulation("comigs-1g1s", persons=persons))
    found = made.host.measuring.measured(made.method).layer_share
    for mine, person in zip(made.host.participants, persons, strict=True):
        mixture = made.layouts.mixture(mine.options)
        mixture.model.update(mine.values)
        weights = [  # windows of 8 inputs: 8 and 3 predicted tokens, nothing else
            np.array(mixture.body(mx.array(person.test.tokens[a:b][None]))[1].weights)
            for a, b in ((0, 8), (8, 11))
        ]
        wanted = np.concatenate(weights, 2).mean((1, 2))
        assert found[mine.name] == pytest.approx(wanted, abs=1e-5)
        assert np.abs(wanted - 0.5).max() > 0.01


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_a_loss_that_is_no_number_is_an_error_and_no_result(value):
    made = simulation("local")
    bob = made.host.participants[1]
    flat = params.flatten(bob.values)
    bob.values = params.unflatten({p: mx.full(a.shape, value) for p, a in flat.items()})
    with pytest.raises(TrainingError, match="bob answers with a loss of .* no result"):
        made.outcome()
