"""Noise of the right size on a bounded update, drawn and counted once a round."""

import dataclasses
import math
import sys
import threading

import numpy as np
import pytest

import tests.federation.sharing as sharing
from comigs_mlx.errors import FederationError
from comigs_mlx.federation.formats.contribution import prepare
from comigs_mlx.federation.formats.tensor_source import Arrays, digest
from comigs_mlx.federation.participant import membership, privacy
from comigs_mlx.federation.participant.membership import Membership, Noise
from comigs_mlx.options import PrivacyOptions

CURRENT = sharing.tensors(rank=64, blocks=6)
SOURCE = Arrays("", CURRENT)

FIRST = sharing.tensors()
AGREED = sharing.manifest(FIRST, encoding="int8")
SETTINGS = (0.5, 2.0, 1e-5)


def update(values):
    return sharing.vector(values).astype(np.float64) - sharing.vector(CURRENT)


def test_the_update_is_clipped_as_one_vector_and_keeps_its_direction():
    values = sharing.moved(CURRENT, 1)
    before = update(values)
    assert np.linalg.norm(before) > 1
    after = update(privacy.privatise(values, SOURCE, 0.5, 1e-9))
    assert np.linalg.norm(after) == pytest.approx(0.5, rel=1e-4)
    assert after @ before == pytest.approx(0.5 * np.linalg.norm(before), rel=1e-4)


def test_a_short_update_is_not_lengthened():
    values = sharing.moved(CURRENT, 1, 1e-4)
    after = update(privacy.privatise(values, SOURCE, 100.0, 1e-12))
    assert np.allclose(after, update(values), atol=1e-6)


def test_the_noise_is_gaussian_of_the_stated_size():
    random = np.random.default_rng(3)
    noisy = privacy.privatise(CURRENT, SOURCE, 0.25, 4.0, random)
    noise = update(noisy)
    assert noise.size > 10_000
    assert noise.std() == pytest.approx(1.0, rel=0.03)
    assert abs(noise.mean()) < 0.03
    assert np.mean(np.abs(noise) < 1) == pytest.approx(0.6827, abs=0.02)
    assert noisy.keys() == CURRENT.keys()
    assert all(array.dtype == np.float32 for array in noisy.values())


@pytest.mark.parametrize("seeded", [True, False])
def test_every_number_has_noise_of_its_own(seeded):
    """The update is zero, so what is sent is the noise: no row or column repeats."""
    generator = np.random.default_rng(5) if seeded else None
    start = {name: np.zeros_like(array) for name, array in CURRENT.items()}
    noisy = privacy.privatise(start, Arrays("", start), 1.0, 1.0, generator)
    found = np.concatenate([array.ravel() for array in noisy.values()])
    assert len(np.unique(found)) > 0.999 * len(found)
    for array in noisy.values():
        for rows in (array, array.T):
            assert len(np.unique(rows, axis=0)) == len(rows)


def test_noise_of_the_system_is_standard_normal_and_independent():
    found = privacy._gaussian((2, 100_000))
    assert found.shape == (2, 100_000)
    assert abs(found.mean()) < 0.01
    assert found.std() == pytest.approx(1.0, rel=0.01)
    for size, share in ((0.5, 0.38292), (1, 0.68269), (2, 0.95450), (3, 0.99730)):
        assert np.mean(np.abs(found) < size) == pytest.approx(share, abs=0.005)
    assert abs(np.corrcoef(found)[0, 1]) < 0.02
    assert abs(np.corrcoef(found[0, 1:], found[0, :-1])[0, 1]) < 0.02
    assert np.isfinite(found).all()
    assert privacy._gaussian((0, 3)).shape == (0, 3)


def test_noise_repeats_for_a_seed_only():
    def noise(generator=None):
        return update(privacy.privatise(CURRENT, SOURCE, 1.0, 1.0, generator))

    one, two = (noise(np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(one, two)
    assert not np.array_equal(noise(), noise())


def exact_delta(epsilon, sigma):
    """Balle and Wang, ICML 2018, theorem 8, for sensitivity 1."""

    def phi(x):
        return math.erfc(-x / math.sqrt(2)) / 2

    first, second = (
        1 / (2 * sigma) - epsilon * sigma,
        -1 / (2 * sigma) - epsilon * sigma,
    )
    return phi(first) - math.exp(epsilon) * phi(second)


def exact_epsilon(sigma, delta):
    low, high = 0.0, 200.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if exact_delta(middle, sigma) > delta else (low, middle)
        )
    return high


@pytest.mark.parametrize(
    ("rounds", "noise", "delta"), [(1, 2.0, 1e-5), (20, 4.0, 1e-5), (100, 20.0, 1e-6)]
)
def test_epsilon_bounds_the_exact_one_and_not_by_much(rounds, noise, delta):
    """Gaussian mechanisms compose to one with noise / sqrt(rounds)."""
    exact = exact_epsilon(noise / math.sqrt(rounds), delta)
    assert exact <= privacy.epsilon([(noise, rounds)], delta) <= 1.15 * exact


def test_epsilon_grows_with_rounds_and_falls_with_noise():
    assert privacy.epsilon([(1.0, 0)], 1e-5) == 0
    assert privacy.epsilon([(1.0, 1)], 1e-5) < privacy.epsilon([(1.0, 2)], 1e-5)
    assert privacy.epsilon([(2.0, 1)], 1e-5) < privacy.epsilon([(1.0, 1)], 1e-5)
    said = privacy.statement(3, 0.5, 2.0, 1e-5)
    assert (said.delta, said.clip, said.noise) == (1e-5, 0.5, 2.0)
    assert said.epsilon == privacy.epsilon([(2.0, 3)], 1e-5)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"clip": 0.0}, "clip 0.0 must be a number above 0"),
        ({"noise": -1.0}, "noise -1.0 must be a number above 0"),
        ({"clip": math.inf}, "clip inf must be"),
        ({"noise": math.nan}, "noise nan must be"),
    ],
)
def test_numbers_that_protect_nothing_are_refused(options, problem):
    with pytest.raises(FederationError) as error:
        privacy.privatise(CURRENT, SOURCE, **{"clip": 1.0, "noise": 1.0, **options})
    assert str(error.value).startswith(problem)


def test_delta_and_rounds_must_make_sense():
    for rounds, delta in ((1, 1.0), (-1, 1e-5)):
        with pytest.raises(FederationError, match="delta must be below 1"):
            privacy.epsilon([(1.0, rounds)], delta)


def test_an_update_that_is_not_finite_is_not_sent():
    broken = {name: np.full_like(array, np.nan) for name, array in CURRENT.items()}
    with pytest.raises(FederationError, match="the update is not finite"):
        privacy.privatise(broken, SOURCE, 1.0, 1.0)


def test_without_the_package_the_command_to_install_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    install = r"needs the package dp-accounting: pip install 'comigs-mlx\[federation\]'"
    with pytest.raises(FederationError, match=install):
        privacy.epsilon([(1.0, 1)], 1e-5)


def test_several_sizes_of_noise_compose():
    """Gaussian mechanisms add up by 1 / sigma^2."""
    assert privacy.epsilon([], 1e-5) == privacy.epsilon([(2.0, 0)], 1e-5) == 0
    mixed = privacy.epsilon([(3.0, 9), (1.5, 1)], 1e-5)
    assert mixed == pytest.approx(privacy.epsilon([(3.0, 13)], 1e-5), rel=1e-9)
    stated = privacy.statement(1, 0.5, 1.5, 1e-5, [(3.0, 9)])
    assert stated.epsilon == mixed
    with pytest.raises(FederationError, match="rounds at least 0"):
        privacy.epsilon([(1.0, 1), (2.0, -1)], 1e-5)


@pytest.fixture
def run(tmp_path):
    membership.write(tmp_path, Membership("memory", "ann"))
    return tmp_path


def push(run, seed=1, round=1, settings=SETTINGS, send=True, said=None, uri="memory"):
    """What a run trained from `seed` sends."""
    values, source = sharing.moved(FIRST, seed), Arrays("", FIRST)
    digests = digest(FIRST), digest(values)
    basis = privacy.Basis(uri, "ann", round, *digests, settings)

    def make(values, stated):
        given = {"participant": "ann", "round": round, "counters": {"steps": seed}}
        return prepare(values, source, AGREED, **given, privacy=stated)

    lines = [] if said is None else said
    return privacy.prepare(run, basis, values, source, make, send, lines.append)


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
        privacy.epsilon([(2.0, rounds)], 1e-5) for rounds in (1, 2, 3)
    ]
    last = push(run, round=4, settings=(0.5, 4.0, 1e-6)).metadata.privacy
    assert (last.clip, last.noise, last.delta) == (0.5, 4.0, 1e-6)
    assert last.epsilon == privacy.epsilon([(2.0, 3), (4.0, 1)], 1e-6)
    # sigma 2 once is sigma 4 four times: 3 x 4 + 1 rounds of sigma 4
    assert last.epsilon == pytest.approx(privacy.epsilon([(4.0, 13)], 1e-6), rel=1e-6)
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
    (run / "state" / privacy.KEPT).write_bytes(content)
    with pytest.raises(FederationError, match="damaged .*: remove it, and pull"):
        push(run)


def test_settings_are_given_or_remembered(run):
    record = membership.read(run)
    assert privacy.settings(record, None) is None
    assert privacy.settings(record, PrivacyOptions()) is None
    assert privacy.settings(record, PrivacyOptions(0.5, 2.0, 1e-6)) == (
        0.5,
        2.0,
        1e-6,
    )
    push(run)
    record = membership.read(run)
    for silent in (None, PrivacyOptions()):
        assert privacy.settings(record, silent) == SETTINGS
    assert privacy.settings(record, PrivacyOptions(1.0, 3.0)) == (
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
