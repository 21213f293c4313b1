"""How many steps a text is enough for."""

import pytest

from comigs_mlx.data import sufficiency


def test_the_longest_plan_reads_a_text_as_often_as_is_worth_while():
    tokens, batch, length = 20_000, 4, 128
    enough = sufficiency.enough_for(tokens, batch, length)
    assert enough == 625
    plans = {plan.name: plan for plan in sufficiency.plans(tokens, batch, length)}
    assert plans["long"].steps == pytest.approx(enough, rel=0.05)
    assert plans["normal"].passes == pytest.approx(8, rel=0.05)


@pytest.mark.parametrize("tokens", [0, 1, 100, 5_000, 10**6, 10**12])
def test_plans_grow_and_stay_within_bounds(tokens):
    plans = sufficiency.plans(tokens, 4, 128)
    steps = [plan.steps for plan in plans]
    assert steps == sorted(set(steps))
    for plan in plans:
        low, high = sufficiency.LEAST[plan.name], sufficiency.MOST[plan.name]
        assert low <= plan.steps <= high
    assert sufficiency.enough_for(tokens, 4, 128) >= 1


@pytest.mark.parametrize(
    ("number", "said"),
    [(0.2, 1), (7.4, 7), (14.6, 14), (87, 87), (145, 145), (214.6, 210), (1234, 1250)],
)
def test_numbers_that_people_say(number, said):
    assert sufficiency.tidy(number) == said


def test_a_text_is_judged_by_its_steps():
    judged = [sufficiency.amount(steps) for steps in (1, 29, 30, 199, 200)]
    assert judged == ["little", "little", "enough", "enough", "plenty"]
