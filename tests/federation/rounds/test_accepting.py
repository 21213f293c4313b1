"""What is accepted is committed upon exactly the state that it was checked against."""

import pytest

import tests.federation.sharing as sharing
from comigs_mlx.federation.exchanges.memory import MemoryExchange
from comigs_mlx.federation.rounds import repository
from comigs_mlx.federation.rounds.accepting import accept
from comigs_mlx.federation.rounds.closing import close_if_due
from comigs_mlx.federation.rounds.submit import contribute, propose

FIRST = sharing.tensors(blocks=1)


@pytest.fixture
def ann():
    made = MemoryExchange("ann")
    repository.initialise(made, sharing.manifest(FIRST, quorum=1), FIRST, 0.0)
    return made


def made(exchange, name, seed):
    federation = repository.current(exchange)
    given = {"participant": name, "round": federation.open_round}
    values = sharing.moved(FIRST, seed)
    return federation, sharing.contributed(values, FIRST, federation.manifest, **given)


def before_its_commit(exchange, action):
    """An exchange of the same account that is overtaken by `action`, once."""

    class Overtaken(MemoryExchange):
        def commit(self, *given):
            if (due := pending) and due.pop():
                action()
            return super().commit(*given)

    pending = [True]
    return Overtaken(exchange.name, exchange.store)


def test_a_round_that_closes_before_the_commit_takes_nothing_more(ann):
    """The proposal was fit for round 1; in round 2 it is not, and stays out."""
    eve = MemoryExchange("eve", ann.store)
    propose(eve, *made(eve, "eve", 1))

    def close():
        contribute(ann, *made(ann, "ann", 2))
        assert close_if_due(ann, repository.current(ann), 1.0)

    (verdict,) = accept(before_its_commit(ann, close), print)
    assert verdict.reason == "it is for round 1, round 2 is open"
    assert not [p for p in ann.snapshot().files if "/eve/" in p or "accepted" in p]
    assert len(ann.proposals()) == 1


def test_a_list_that_changes_before_the_commit_is_looked_at(ann):
    """The owner takes the name off the list in the very moment."""
    eve = MemoryExchange("eve", ann.store)
    propose(eve, *made(eve, "eve", 1))

    def shut_out():
        from comigs_mlx.federation.formats.manifest import Member

        listed = {"ann": Member("ann", None)}
        only = sharing.manifest(FIRST, quorum=1, participants=listed)
        ann.commit({"federation.json": only.to_json()}, "only ann")

    (verdict,) = accept(before_its_commit(ann, shut_out), print)
    assert verdict.reason is not None
    assert "not among the participants" in verdict.reason
    assert not [p for p in ann.snapshot().files if "/eve/" in p]
