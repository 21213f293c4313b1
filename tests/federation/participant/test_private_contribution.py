"""Noise is drawn once a round and counted before it leaves."""

import dataclasses
import threading

import numpy as np
import pytest

import tests.federation.sharing as sharing
from comigs_mlx.errors import FederationError
from comigs_mlx.federation.formats.contribution import prepare
from comigs_mlx.federation.formats.tensor_source import Arrays
from comigs_mlx.federation.participant import membership, privacy, private_contribution
from comigs_mlx.federation.participant.membership import Membership, Noise
from comigs_mlx.options import PrivacyOptions

FIRST = sharing.tensors()
AGREED = sharing.manifest(FIRST, encoding="int8")
SETTINGS = (0.5, 2.0, 1e-5)


@pytest.fixture
def run(tmp_path):
    membership.write(tmp_path, Membership("memory", "ann"))
    return tmp_path


def push(run, seed=1, round=1, settings=SETTINGS, send=True, said=None, uri="memory"):
    """What a run trained from `seed` sends."""
    values, source = sharing.moved(FIRST, seed), Arrays("", FIRST)
    digests = private_contribution.digest(FIRST), private_contribution.digest(values)
    basis = private_contribution.Basis(uri, "ann", round, *digests, settings)

    def make(values, stated):
        given = {"participant": "ann", "round": round, "counters": {"steps": seed}}
        return prepare(values, source, AGREED, **given, privacy=stated)

    lines = [] if said is None else said
    return private_contribution.prepare(
        run, basis, values, source, make, send, lines.append
    )


def counted(run):
    return membership.read(run).private


def test_one_round_has_one_draw_and_counts_once(run):
    first, said = push(run), []
    assert counted(run) == (Noise(2.0, 1),)
    again = push(run, said=said)
    assert again.files() == first.files()
    assert said == []
    later = push(run, seed=2, settings=(9.0, 9.0, 1e-3), said=said)
    assert later.files() == first.files()
    assert later.residual.keys() == first.residual.keys()
    for name, array in first.residual.items():
        assert np.array_equal(later.residual[name], array)
    assert said == [
        "round 1 has had this run's noise already: the same is sent again, without "
        "what has changed since"
    ]
    assert counted(run) == (Noise(2.0, 1),)


def test_every_draw_differs(run, tmp_path):
    other = tmp_path / "other"
    membership.write(other, Membership("memory"))
    assert push(run).tensors != push(other).tensors


def test_a_dry_run_spends_nothing_and_shows_what_goes(run):
    shown = push(run, send=False)
    assert counted(run) == ()
    assert push(run, send=False).files() == shown.files()
    assert push(run).files() == shown.files()
    assert counted(run) == (Noise(2.0, 1),)


def test_what_was_only_shown_may_be_drawn_anew(run):
    shown = push(run, send=False)
    trained = push(run, seed=2)
    assert trained.tensors != shown.tensors
    assert trained.metadata.counters == {"steps": 2}
    other = push(run, seed=2, round=2, send=False)
    assert (
        push(run, seed=2, round=2, settings=(0.25, 2.0, 1e-5)).files() != other.files()
    )
    assert counted(run) == (Noise(2.0, 2),)


def test_it_is_counted_before_it_can_leave(run, monkeypatch):
    """Whatever ends the process between the two: it is drawn, kept and not sent."""

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(membership, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            push(run)
    assert counted(run) == ()
    kept = push(run, send=False)
    assert push(run).files() == kept.files()
    assert counted(run) == (Noise(2.0, 1),)


def test_rounds_compose(run):
    stated = [push(run, round=round).metadata.privacy for round in (1, 2, 3)]
    assert [one.epsilon for one in stated] == [
        privacy.spent(rounds, 2.0, 1e-5) for rounds in (1, 2, 3)
    ]
    last = push(run, round=4, settings=(0.5, 4.0, 1e-6)).metadata.privacy
    assert (last.clip, last.noise, last.delta) == (0.5, 4.0, 1e-6)
    assert last.epsilon == privacy.epsilon([(2.0, 3), (4.0, 1)], 1e-6)
    # sigma 2 once is sigma 4 four times: 3 x 4 + 1 rounds of sigma 4
    assert last.epsilon == pytest.approx(privacy.spent(13, 4.0, 1e-6), rel=1e-6)
    assert counted(run) == (Noise(2.0, 3), Noise(4.0, 1))
    assert membership.read(run).privacy == last


def test_another_federation_is_another_draw_of_the_same_budget(run):
    first = push(run)
    second = push(run, uri="elsewhere")
    assert second.tensors != first.tensors
    assert counted(run) == (Noise(2.0, 2),)


def test_two_processes_send_the_same(run):
    found, barrier = [], threading.Barrier(4, timeout=20)

    def one():
        barrier.wait()
        found.append(push(run).files())

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(files == found[0] for files in found)
    assert counted(run) == (Noise(2.0, 1),)


def test_noise_that_begins_late_does_not_cover_what_was_sent(run):
    record = membership.read(run)
    membership.write(run, dataclasses.replace(record, contributed=1))
    said = []
    push(run, round=2, said=said)
    assert said == ["what was sent without noise before is not in this epsilon"]
    push(run, round=3, said=said)
    assert len(said) == 1


@pytest.mark.parametrize("content", [b"", b"\xff" * 99, b"\2" + b"\0" * 7 + b"{}"])
def test_a_damaged_draw_is_not_replaced_in_silence(run, content):
    push(run)
    (run / "state" / private_contribution.KEPT).write_bytes(content)
    with pytest.raises(FederationError, match="damaged .*: remove it, and pull"):
        push(run)


def test_settings_are_given_or_remembered(run):
    record = membership.read(run)
    assert private_contribution.settings(record, None) is None
    assert private_contribution.settings(record, PrivacyOptions()) is None
    assert private_contribution.settings(record, PrivacyOptions(0.5, 2.0, 1e-6)) == (
        0.5,
        2.0,
        1e-6,
    )
    push(run)
    record = membership.read(run)
    for silent in (None, PrivacyOptions()):
        assert private_contribution.settings(record, silent) == SETTINGS
    assert private_contribution.settings(record, PrivacyOptions(1.0, 3.0)) == (
        1.0,
        3.0,
        1e-5,
    )


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (PrivacyOptions(dp_clip=1.0), "--dp-clip and --dp-noise go together"),
        (PrivacyOptions(dp_noise=1.0), "--dp-clip and --dp-noise go together"),
        (PrivacyOptions(0.0, 1.0), "--dp-clip 0.0 must be a number above 0"),
        (PrivacyOptions(1.0, float("nan")), "--dp-noise nan must be a number above 0"),
        (PrivacyOptions(1.0, 1.0, 1.0), "--dp-delta 1.0 must be between 0 and 1"),
    ],
)
def test_options_that_protect_nothing_are_named(options, problem):
    (found,) = options.problems()
    assert problem in found
