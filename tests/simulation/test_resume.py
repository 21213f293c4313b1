"""Saved between two rounds and gone on from there: nothing can tell."""

import dataclasses

import pytest

from comigs_mlx.errors import RunError
from comigs_mlx.simulation import checkpoint, method
from comigs_mlx.simulation.participants import Device
from comigs_mlx.simulation.records import RoundDone
from tests.simulation.setting import everything, finished, people, same, simulation

RANKS = {"ann": Device(rank=2), "bob": Device(rank=4)}
CASES = {
    "comigs-1g1s": {},
    "fdlora": {},
    "pcl": {"sharing": {"participation": 0.6, "dropout": 0.3}},
    "fedavg": {"sharing": {"encoding": "int8"}},
    "hetlora": {"persons": people(devices=RANKS)},
    "flexlora": {"persons": people(devices=RANKS)},
    "centralized": {},
}


def rounds(events):
    """Rounds without what a clock says."""
    found = [event for event in events if isinstance(event, RoundDone)]
    return [dataclasses.replace(event, seconds=0.0) for event in found]


@pytest.mark.parametrize("name", CASES)
def test_goes_on_bit_for_bit(tmp_path, name):
    """Saved before the last round; by then, both stages of a method have begun."""
    stages = len(method.load(name).stages)
    case = {"rounds": 1 + stages, **CASES[name]}
    whole, told = finished(name, **case)
    first = simulation(name, **case)
    events = first.run()
    before = []
    while len(before) < stages:
        before += rounds([next(events)])
    checkpoint.save(first, tmp_path / "state")
    second = simulation(name, **case)
    checkpoint.restore(second, tmp_path / "state")
    assert second.round == stages
    after = rounds(second.run())
    assert before + after == rounds(told)
    assert same(everything(second), everything(whole))
    mine, theirs = (
        dataclasses.replace(s.outcome(), seconds=0) for s in (second, whole)
    )
    assert mine == theirs


def test_the_last_reports_are_remembered(tmp_path):
    """A round without a report tells that of the round before."""
    made, _ = finished("local", rounds=1)
    checkpoint.save(made, tmp_path / "state")
    again = simulation("local", rounds=1)
    checkpoint.restore(again, tmp_path / "state")
    reports = [participant.report for participant in made.host.participants]
    assert [participant.report for participant in again.host.participants] == reports
    assert None not in reports


def test_a_damaged_save_is_named(tmp_path):
    made, _ = finished("local", rounds=1)
    checkpoint.save(made, tmp_path / "state")
    (tmp_path / "state" / "participants" / "bob.safetensors").write_bytes(b"nothing")
    with pytest.raises(RunError, match="bob.safetensors, which is damaged .* to begin"):
        checkpoint.restore(simulation("local", rounds=1), tmp_path / "state")


@pytest.mark.parametrize("content", ["", "{", "{}", "[]"])
def test_a_damaged_state_is_named_and_counts_for_no_round(tmp_path, content):
    made, _ = finished("fedavg", rounds=1)
    checkpoint.save(made, tmp_path / "state")
    assert checkpoint.rounds_done(tmp_path / "state") == 1
    (tmp_path / "state" / "state.json").write_text(content)
    assert checkpoint.rounds_done(tmp_path / "state") == 0
    with pytest.raises(RunError, match="state.json, which is damaged .* to begin this"):
        checkpoint.restore(simulation("fedavg", rounds=1), tmp_path / "state")
