"""The federation in memory: what it counts, forgets and gives back."""

import numpy as np
import pytest

import tests.federation.sharing as sharing
from comigs_mlx.federation.formats.manifest import Member
from comigs_mlx.simulation.local_federation import LocalFederation

CURRENT = sharing.tensors()
COUNTERS = {"steps": 2, "tokens": 100}


def pool(**others):
    people = {"ann": Member(), "bob": Member()}
    given = {"participants": people, "quorum": 2, "deadline_seconds": 1.0, **others}
    made = LocalFederation(sharing.manifest(CURRENT, encoding="fp32", **given))
    made.begin(CURRENT)
    return made


def test_a_round_is_the_mean_and_leaves_no_contribution():
    made = pool()
    values = [sharing.moved(CURRENT, seed) for seed in (1, 2)]
    sent = [
        made.contribute(name, v, CURRENT, COUNTERS)
        for name, v in zip(("ann", "bob"), values, strict=True)
    ]
    size = sum(array.nbytes for array in CURRENT.values())
    assert all(size < one < 2 * size + 4096 for one in sent)
    seen = []
    closed = made.close(lambda sources: seen.extend(s.name for s in sources))
    assert closed.inexactness > 0
    assert seen == ["ann", "bob"]
    for name, array in made.generalists().items():
        mean = (values[0][name].astype(np.float64) + values[1][name]) / 2
        assert array == pytest.approx(mean, abs=1e-6)
    assert not any(path.startswith("contributions") for path in made.files())
    assert len(made.store.history) == 1


def test_a_round_closes_with_fewer_and_waits_without_any():
    made = pool()
    assert made.close() is None
    assert all(np.array_equal(a, CURRENT[n]) for n, a in made.generalists().items())
    values = sharing.moved(CURRENT, 1)
    made.contribute("bob", values, CURRENT, COUNTERS)
    assert made.close().inexactness == 0.0
    assert all(np.array_equal(a, values[n]) for n, a in made.generalists().items())


def test_restored_it_goes_on():
    one = pool()
    one.contribute("ann", sharing.moved(CURRENT, 1), CURRENT, COUNTERS)
    one.close()
    other = LocalFederation(one.manifest)
    other.restore(one.files(), one.time)
    for made in (one, other):
        now = made.generalists()
        made.contribute("ann", sharing.moved(now, 2), now, COUNTERS)
        made.close()
    assert one.files() == other.files()
