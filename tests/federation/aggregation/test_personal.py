"""What a participant makes of everybody's contributions for itself alone."""

import numpy as np

import tests.federation.sharing as sharing
from comigs_mlx.federation.aggregation.personal import by_loss
from comigs_mlx.federation.exchanges.folder import FolderExchange
from comigs_mlx.federation.formats.tensor_source import Arrays
from comigs_mlx.federation.rounds import closing, repository
from comigs_mlx.federation.rounds.submit import contribute

CURRENT = sharing.tensors(generalists=2)
SOURCE = Arrays("", CURRENT)


def moved(name, by):
    return Arrays(name, {tensor: array + by for tensor, array in CURRENT.items()})


def test_trust_is_a_softmax_of_validation_losses():
    losses = {"ann": 0.5, "bob": 1.5}
    group = [moved("ann", 0), moved("bob", 1)]
    mean = by_loss(group, SOURCE, lambda source: losses[source.name])
    trust = np.exp([-0.5, -1.5]) / np.exp([-0.5, -1.5]).sum()
    assert mean.keys() == CURRENT.keys()
    for tensor, array in mean.items():
        assert np.allclose(array, CURRENT[tensor] + trust[1], atol=1e-6)
        assert array.dtype == np.float32


def test_equal_contributions_come_back():
    group = [moved(name, 1) for name in ("ann", "bob", "cy")]
    mean = by_loss(group, SOURCE, lambda source: float(len(source.name)))
    for tensor, array in mean.items():
        assert np.allclose(array, CURRENT[tensor] + 1, atol=1e-6)


def test_losses_far_apart_leave_the_best_one():
    group = [moved("ann", 1), moved("bob", 2)]
    mean = by_loss(group, SOURCE, lambda s: {"ann": 2000.0, "bob": 1.0}[s.name])
    for tensor, array in mean.items():
        assert np.allclose(array, CURRENT[tensor] + 2, atol=1e-6)


def test_a_participant_of_a_real_federation_can_use_it(tmp_path):
    """It takes the contributions that passed the checks, as they lie there."""
    exchange = FolderExchange(tmp_path / "pool", "ann")
    agreed = sharing.manifest(CURRENT, generalists=2, quorum=2, encoding="fp32")
    federation = repository.initialise(exchange, agreed, CURRENT, 0.0)
    for seed, name in enumerate(("ann", "ben")):
        values = sharing.moved(CURRENT, seed)
        parts = values, CURRENT, agreed, name, 1
        pool = FolderExchange(tmp_path / "pool", name)
        contribute(pool, federation, sharing.contributed(*parts))
    federation = repository.current(exchange)
    with closing.review(exchange, federation) as found:
        losses = {"ann": 0.0, "ben": 1000.0}
        mine = by_loss(found.accepted, SOURCE, lambda source: losses[source.name])
    wanted = sharing.moved(CURRENT, 0)
    assert all(np.allclose(mine[key], wanted[key], atol=1e-6) for key in wanted)
