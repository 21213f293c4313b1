"""The campaign at a small size, and that it would see what it looks for."""

import dataclasses
import re
from contextlib import ExitStack

import numpy as np
import pytest

import tests.federation.campaign as campaign
from tests.federation.campaign import FAULTS, SETTINGS, Campaign, faults_of, hasty


@pytest.fixture(autouse=True)
def _hasty():
    with ExitStack() as stack:
        hasty(stack)
        yield


def test_four_contribute_while_everything_goes_wrong():
    made = Campaign(4, 2, 4, faults_of("all"), rate=0.15, seed=0)
    ledger = made.run()
    assert list(made.problems()) == []
    assert len(ledger.told) == made.counted == 8
    assert sum(made.server.spoilt.values()) > 30


def test_who_is_late_is_told():
    """With a quorum below their number they race to close."""
    made = Campaign(4, 3, 2, faults_of("lag,busy,after,commit"), rate=0.1, seed=1)
    made.run()
    assert list(made.problems()) == []
    assert made.counted >= 6


@pytest.fixture(scope="module")
def _quiet():
    made = Campaign(2, 2, 2, [], rate=0.0, seed=0)
    made.run()
    assert list(made.problems()) == []
    return made


@pytest.fixture
def quiet(_quiet):
    """A campaign that is over; what a test changes is put back."""
    commits, ledger = dict(_quiet.repo.commits), _quiet.ledger
    _quiet.ledger = dataclasses.replace(ledger, told=dict(ledger.told), stopped={})
    yield _quiet
    _quiet.repo.commits, _quiet.ledger = commits, ledger


def closing(made, number):
    return made._closings()[number][0]


def test_what_is_lost_is_seen(quiet):
    quiet.ledger.told[1, "p7"] = {}
    assert "lost: [(1, 'p7')]" in list(quiet.problems())


def test_what_counts_though_its_sender_was_told_otherwise_is_seen(quiet):
    del quiet.ledger.told[2, "p1"]
    found = "\n".join(quiet.problems())
    assert re.search(r"told otherwise: \[\(2, 'p1'\)\]", found)


def test_a_round_closed_twice_is_seen(quiet):
    again = dataclasses.replace(closing(quiet, 2), oid="f" * 40)
    quiet.repo.commits["f" * 40] = again
    assert "round 2 was closed 2 times" in list(quiet.problems())


def test_a_round_that_never_closed_is_seen(quiet):
    del quiet.repo.commits[closing(quiet, 2).oid]
    assert "never closed: [2]" in list(quiet.problems())


def test_who_stopped_is_seen(quiet):
    quiet.ledger.stopped["p1"] = "ValueError: no"
    assert list(quiet.problems()) == ["stopped: p1: ValueError: no"]


def test_one_bit_off_the_mean_is_seen(quiet):
    values = dict(quiet.ledger.told[2, "p0"])
    name = min(values)
    values[name] = np.nextafter(values[name], np.float32(9)) + np.float32(1e-6)
    quiet.ledger.told[2, "p0"] = values
    assert "from the mean, at most 0" in "\n".join(quiet.problems())


def test_kinds_of_faults():
    every = [*FAULTS, *SETTINGS]
    assert faults_of("all") == every
    assert faults_of("none") == []
    assert faults_of("429,lag") == ["429", "lag"]
    assert faults_of("-lag") == faults_of("all,-lag")
    assert set(every) - set(faults_of("-lag")) == {"lag"}
    with pytest.raises(SystemExit, match="unknown kinds"):
        faults_of("418")


def test_the_command_prints_a_table(capsys, monkeypatch):
    monkeypatch.setattr(campaign, "cancelling", list)
    argv = ["--contributors", "2", "--rounds", "1", "--faults", "none"]
    assert campaign.main(argv) == 0
    out = capsys.readouterr().out
    assert re.search(r"counted +2\n", out)
    assert out.endswith("nothing lost, doubled, closed twice or stopped\n")
    monkeypatch.setattr(campaign, "cancelling", lambda: ["two that cancel: no"])
    assert campaign.main(["--rounds", "0"]) == 1
    assert capsys.readouterr().out == "two that cancel: no\n"
