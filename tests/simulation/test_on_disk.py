"""Participants and contributions on the disk: the bits of those in memory."""

import dataclasses

import pytest

from comigs_mlx.errors import RunError
from comigs_mlx.federation.exchanges import memory
from comigs_mlx.simulation import checkpoint, method, room
from comigs_mlx.simulation.engine import Simulation
from comigs_mlx.simulation.participants import Device
from tests.simulation.setting import config, everything, layouts, people, same

RANKS = {"ann": Device(rank=2), "bob": Device(rank=4)}
SOME = {"participation": 0.6, "dropout": 0.3}
CASES = {
    "comigs-1g1s": {"sharing": SOME},
    "fdlora": {"sharing": {"participation": 0.4}, "rounds": 4},
    "pcl": {"sharing": SOME},
    "fedavg": {"sharing": {"encoding": "int8", "participation": 0.6}},
    "hetlora": {"persons": people(devices=RANKS)},
    "local": {"sharing": {"participation": 0.4}},
}


@pytest.fixture(autouse=True)
def _no_content_is_small(monkeypatch):
    monkeypatch.setattr(memory, "LARGE", 1)


def made(name, scratch=None, persons=None, rounds=3, **others):
    """A simulation; with a folder, one participant at a time is in memory."""
    chosen, options = method.load(name), config(rounds, **others)
    given = (persons or people(), layouts(), options, 0)
    return Simulation(name, chosen, *given, scratch, resident=0.0)


def timeless(events):
    """Rounds and outcomes without what a clock says."""
    return [
        dataclasses.replace(event, seconds=0.0)
        for event in events
        if hasattr(event, "seconds")
    ]


@pytest.mark.parametrize("name", CASES)
def test_bit_for_bit_also_killed_and_resumed(name, tmp_path):
    """Nobody stays in memory; saved after two rounds, and gone on elsewhere."""
    usual = made(name, **CASES[name])
    told = timeless(usual.run())
    first = made(name, tmp_path / "first", **CASES[name])
    events, before = first.run(), []
    while len(before) < 2:
        before += timeless([next(events)])
    checkpoint.save(first, tmp_path / "state")
    rest = timeless(events)  # the save must not change with it
    assert before + rest == told
    assert list((tmp_path / "first" / "states").iterdir())
    second = made(name, tmp_path / "second", **CASES[name])
    checkpoint.restore(second, tmp_path / "state")
    assert before + timeless(second.run()) == told
    for other in (first, second):
        assert timeless([other.outcome()]) == timeless([usual.outcome()])
        assert same(everything(other), everything(usual))


def test_who_sits_out_is_neither_read_nor_written(tmp_path):
    """Of three one takes part in a round: it alone is loaded, and written."""
    simulation = made(
        "comigs-1g1s",
        tmp_path,
        rounds=9,
        sharing={"participation": 0.3},
        measuring={"eval_every": 9},
    )
    states, asked = simulation.host.states, []
    get = states.get
    states.get = lambda name: (asked.append(name), get(name))[1]
    for round in range(3):
        list(simulation._one_round())
        assert set(asked) == set(simulation.active(round))
        asked.clear()


def test_contributions_leave_the_disk_with_their_round(tmp_path):
    simulation = made("fedavg", tmp_path)
    contribute, seen = simulation.federation.contribute, []

    def counted(*given):
        sent = contribute(*given)
        seen.append(len(list((tmp_path / "contributions").iterdir())))
        return sent

    simulation.federation.contribute = counted
    list(simulation.run())
    newest = simulation.federation.store.history[-1].files
    assert max(seen) >= len(newest) + 3
    assert len(list((tmp_path / "contributions").iterdir())) <= len(newest)


class TestRoom:
    def needed(self, name, **others):
        options = config(**others)
        return room.needed(name, method.load(name), people(), layouts(), options)

    def test_it_is_what_participants_really_take(self, tmp_path):
        simulation = made("comigs-1g1s", tmp_path, rounds=1)
        list(simulation.run())
        size = sum(simulation.host.states.get(name).bytes for name in simulation.names)
        assert self.needed("comigs-1g1s").states == pytest.approx(size, rel=0.02)
        assert self.needed("local").contributions == 0
        assert self.needed("pretrained").disk == 0

    def test_too_little_disk_is_refused_before_anything_is_written(
        self, tmp_path, monkeypatch
    ):
        options = dataclasses.replace(config(), out=str(tmp_path / "a" / "b"))
        told = room.check(options, people(), layouts())
        assert told.startswith("3 participants: ")
        usage = lambda folder: type("Usage", (), {"free": 1000})
        monkeypatch.setattr("shutil.disk_usage", usage)
        with pytest.raises(RunError, match="where 1e-06 GB are free: choose another"):
            room.check(options, people(), layouts())
        assert not list(tmp_path.iterdir())
