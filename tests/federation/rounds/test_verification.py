"""What is pulled is computed again: forged, replaced and skipped rounds are refused."""

import dataclasses

import numpy as np
import pytest

import tests.federation.sharing as sharing
from comigs_mlx.federation.aggregation import aggregate, clipping
from comigs_mlx.federation.exchanges.folder import FolderExchange
from comigs_mlx.federation.exchanges.memory import MemoryExchange, MemoryStore
from comigs_mlx.federation.formats import adapter
from comigs_mlx.federation.formats.manifest import AggregatorChoice, Manifest, Member
from comigs_mlx.federation.formats.round import Round
from comigs_mlx.federation.formats.tensor_source import Arrays, digest
from comigs_mlx.federation.rounds import repository, verification
from comigs_mlx.federation.rounds.closing import close_if_due
from comigs_mlx.federation.rounds.submit import contribute
from comigs_mlx.federation.rounds.verification import Have, Trust, Unverified

FIRST = sharing.tensors()
BAD = {name: np.full_like(array, 7.0) for name, array in FIRST.items()}
NAMES = ("ann", "ben")


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def pool(store):
    return lambda user: MemoryExchange(user, store)


def begin(exchange, **options):
    agreed = sharing.manifest(FIRST, **{"quorum": 2, **options})
    return repository.initialise(exchange, agreed, FIRST, 0.0)


def give(exchange, name, seed, size=0.1):
    federation = repository.current(exchange)
    current = pulled(exchange)
    prepared = sharing.contributed(
        sharing.moved(current, seed, size),
        current,
        federation.manifest,
        name,
        federation.open_round,
    )
    contribute(exchange, federation, prepared)


def played(pool, number=1, **options):
    """A federation after some honest rounds of ann and ben."""
    begin(pool("ann"), **options)
    for round in range(number):
        for seed, name in enumerate(NAMES):
            give(pool(name), name, 10 * round + seed)
        exchange = pool("ann")
        close_if_due(exchange, repository.current(exchange), 1.0)


def forge(exchange, tensors=BAD, **changes):
    """Commit generalists, and the round.json that would be theirs."""
    now = repository.current(exchange)
    stated = {"generalist": digest(tensors), **changes}
    closed = dataclasses.replace(now.round, **stated)
    files = adapter.files(tensors, now.manifest)
    exchange.commit({**files, "round.json": closed.to_json()}, "Close a round")


def told(exchange, name, tensors):
    """The length that a round of this one contribution tells the next one."""
    now = repository.current(exchange, Trust(everything=True))
    start = Arrays("", repository.pull(exchange, now))
    found = clipping.limit([Arrays(name, tensors)], start, now.manifest, now.round)
    return {"norm": found.norm}


def pulled(exchange, **trust):
    values = repository.pull(exchange, repository.current(exchange, Trust(**trust)))
    return dict(sorted(values.items()))  # a file is read in no fixed order


def refused(exchange, text, **trust):
    with pytest.raises(Unverified, match=text) as caught:
        pulled(exchange, **trust)
    assert "--trust" in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("encoding", ["fp16", "fp32", "int8"])
@pytest.mark.parametrize(
    "aggregator", ["mean", "tokens", "median", "trimmed_mean", "svd", "multi_krum"]
)
def test_honest_rounds_are_what_their_contributions_make(pool, aggregator, encoding):
    choice = AggregatorChoice(aggregator)
    played(pool, 3, aggregator=choice, encoding=encoding)
    now = repository.current(pool("eve"))
    values = verification.fetch(pool("eve"), now.snapshot.revision, now.manifest)
    assert verification.judge(pool("eve"), now, Trust(), values) == (None, True)
    assert now.round.generalist == digest(values)
    assert now.round.closed_by == "ann"


def test_a_clipped_update_is_clipped_again(pool):
    begin(pool("ann"), quorum=3)
    for seed, (name, size) in enumerate([("ann", 0.1), ("ben", 0.1), ("eve", 50)]):
        give(pool(name), name, seed, size)
    exchange = pool("ann")
    assert close_if_due(exchange, repository.current(exchange), 1.0)
    pulled(pool("ben"))


def test_other_generalists_under_an_honest_round_are_refused(pool):
    played(pool)
    forge(pool("eve"))
    text = refused(pool("ben"), "round 1 is refused, nothing is changed")
    assert "it is not the mean of its contributions" in text
    assert "committed by eve" in text
    assert digest(pulled(pool("ben"), everything=True)) == digest(BAD)


@pytest.mark.parametrize("wrong", [1e6, 1e-6, None])
def test_the_length_that_the_next_round_is_held_to(pool, wrong):
    played(pool)
    honest = repository.current(pool("eve")).round
    norm = None if wrong is None else wrong * honest.norm
    forge(pool("eve"), pulled(pool("eve")), norm=norm)
    refused(pool("ben"), "round.json states another length of its updates")


def test_only_the_tensors_replaced(pool):
    played(pool)
    now = repository.current(pool("eve"))
    pool("eve").commit(adapter.files(BAD, now.manifest), "x")
    refused(pool("ben"), "not the one that round.json states")


def test_a_round_that_nobody_contributed_to(pool):
    played(pool)
    forge(pool("eve"), round=2, contributors=NAMES, weights={})
    refused(pool("ben"), "no contribution of ann, ben is there")


def test_a_round_of_nobody_must_be_the_founders(pool):
    played(pool)
    forge(pool("eve"), round=2, contributors=(), weights={})
    refused(pool("ben"), "nobody contributed to round 2, and .* is not of ann")


def test_the_first_generalists_must_be_the_founders(pool):
    begin(pool("ann"))
    forge(pool("eve"))
    refused(pool("ben"), "nobody contributed to round 0")
    other = sharing.moved(FIRST, 9)
    forge(pool("ann"), other)  # nobody has contributed yet: the founder begins again
    assert digest(pulled(pool("ben"))) == digest(other)


def test_a_round_left_out(pool):
    """A contribution of her own makes round 5, which follows round 1."""
    played(pool)
    eve = pool("eve")
    forge(eve, FIRST, round=4, contributors=("eve",), weights={}, norm=None)
    federation = repository.current(eve, Trust(everything=True))
    prepared = sharing.contributed(BAD, FIRST, federation.manifest, "eve", 5)
    contribute(eve, federation, prepared)
    norm = told(eve, "eve", BAD)
    forge(eve, round=5, contributors=("eve",), weights={}, **norm)
    # The last step is honest: the one before it is not.
    refused(pool("ben"), "round 4 before it: round.json went from 1 to 4")


def test_a_round_far_ahead(pool):
    played(pool)
    eve = pool("eve")
    federation = repository.current(eve)
    prepared = sharing.contributed(BAD, FIRST, federation.manifest, "eve", 5)
    files = {f"contributions/5/eve/{k}": v for k, v in prepared.files().items()}
    eve.commit(files, "x")
    forge(eve, round=5, contributors=("eve",), weights={})
    refused(pool("ben"), "round.json went from 1 to 5")


def test_two_forged_rounds_are_no_better_than_one(pool):
    """Ann's run has round 1; the third round is an honest step from a forged one."""
    played(pool)
    have = Have(1, pulled(pool("ann")))
    forge(pool("eve"), round=2, weights={})
    eve = pool("eve")
    federation = repository.current(eve, Trust(everything=True))
    prepared = sharing.contributed(
        sharing.moved(BAD, 1), BAD, federation.manifest, "eve", 3
    )
    contribute(eve, federation, prepared)
    half = sharing.moved(BAD, 1).items()
    made = {n: a.astype(np.float16).astype(np.float32) for n, a in half}
    norm = told(eve, "eve", made)
    forge(eve, made, round=3, contributors=("eve",), weights={}, **norm)
    known = frozenset({digest(have.tensors)})
    text = refused(pool("ann"), "round 2 before it: ", have=have, known=known)
    assert "no contribution of ann, ben" in text


def test_a_closer_that_is_stricter_says_so(pool):
    """An earlier version refuses what it does not know, and the others go on."""
    played(pool)
    for seed, name in enumerate(NAMES):
        give(pool(name), name, seed)
    ann = pool("ann")
    mine = sharing.moved(pulled(ann), 0)
    half = {n: a.astype(np.float16).astype(np.float32) for n, a in mine.items()}
    stated = {"round": 2, "contributors": ("ann",), "weights": {}}
    stated |= told(ann, "ann", half)
    forge(ann, half, **stated)
    refused(pool("ben"), "it is of ann, fit are those of ann, ben")
    forge(ann, half, **stated, refused={"ben": "unknown entry account"})
    pulled(pool("ben"))


def test_a_name_given_away(pool):
    played(pool)
    give(pool("ann"), "ann", 5)
    give(pool("ben"), "ben", 6)
    exchange = pool("eve")
    close_if_due(exchange, repository.current(exchange), 2.0)
    good = pulled(exchange)
    forge(exchange, good, owners={"ann": "ann", "ben": "eve"})
    refused(pool("ann"), "the name ben was ben's, round.json gives it to eve")


def test_one_left_out_of_a_round(pool):
    members = {name: Member(name) for name in (*NAMES, "eve")}
    played(pool, participants=members)
    eve = pool("eve")
    for seed, name in enumerate((*NAMES, "eve")):
        give(pool(name), name, seed)
    now = repository.current(eve)
    only = Arrays("eve", sharing.moved(pulled(eve), 2))
    made = aggregate.aggregate("mean", [only], Arrays("", pulled(eve)))
    forge(eve, dict(made.shared), round=2, contributors=("eve",), weights={})
    assert repository.current(eve).round.round == now.open_round
    refused(pool("ann"), "it is of eve, fit are those of ann, ben, eve")


def test_a_rewritten_round_json_is_looked_through(pool):
    played(pool)
    eve = pool("eve")
    content = eve.store.history[-1].files["round.json"]
    for blanks in range(1, 4):
        eve.commit({"round.json": content + b" " * blanks}, "blank")
    pulled(pool("ben"))
    for blanks in range(4, 4 + verification.MOST_REWRITES):
        eve.commit({"round.json": content + b" " * blanks}, "blank")
    refused(pool("ben"), "round.json was written 20 times since")


def test_a_manifest_of_the_moment_does_not_count(pool):
    """She changes the aggregator, closes, and changes it back."""
    played(pool)
    eve, before = pool("eve"), pool("eve").store.history[-1].files["federation.json"]
    for seed, name in enumerate(NAMES):
        give(pool(name), name, seed)
    loose = dataclasses.replace(
        Manifest.from_json(before), aggregator=AggregatorChoice("tokens")
    )
    eve.commit({"federation.json": loose.to_json()}, "x")
    close_if_due(eve, repository.current(eve, Trust(everything=True)), 1.0)
    closed = repository.current(eve, Trust(everything=True))
    assert closed.round.aggregator == "tokens"
    eve.commit({"federation.json": before}, "y")
    forge(eve, closed_at=3.0)
    refused(pool("ben"), "it is not the mean of its contributions")


def test_a_run_knows_what_the_round_began_with(pool):
    """Without a history (a folder), and where the state before was forged as well."""
    begin(pool("ann"))
    forge(pool("ann"))  # the round starts from other generalists than ben's run has
    for seed, name in enumerate(NAMES):
        give(pool(name), name, seed)
    exchange = pool("ann")
    close_if_due(exchange, repository.current(exchange), 1.0)
    pulled(pool("ben"))
    refused(pool("ben"), "does not start from the gen", have=Have(0, FIRST))
    pulled(pool("ben"), have=Have(5, FIRST))


def test_a_folder_is_computed_again_from_what_the_run_has(tmp_path):
    pool = lambda user: FolderExchange(tmp_path / "pool")
    played(pool)
    have = Have(0, FIRST)
    pulled(pool("ben"), have=have)
    forge(pool("eve"))
    refused(pool("ben"), "it is not the mean of its contributions", have=have)
    pulled(pool("ben"))  # somebody new has to trust


def test_a_squashed_history_leaves_digests(pool, store):
    played(pool)
    last = store.history[-1]
    squashed = dataclasses.replace(last, author="eve", changed=frozenset(last.files))
    store.history[:] = [squashed]
    pulled(pool("ben"))
    pulled(pool("ben"), have=Have(0, BAD))  # whose a contribution was is lost
    now = repository.current(pool("eve"))
    pool("eve").commit(adapter.files(BAD, now.manifest), "x")
    refused(pool("ben"), "it is not the one that round.json states")


def test_much_is_not_computed_again(pool, monkeypatch):
    played(pool)
    monkeypatch.setattr(verification, "MOST_BYTES", 10)
    now = repository.current(pool("ben"))
    values = verification.fetch(pool("ben"), now.snapshot.revision, now.manifest)
    assert verification.judge(pool("ben"), now, Trust(), values) == (None, False)
    now.snapshot.files.pop("contributions/1/ben/contribution.json")
    pool("eve").commit(adapter.files(BAD, now.manifest), "x")
    refused(pool("ben"), "not the one that round.json states")


def test_rounds_of_earlier_versions_are_computed_again(pool):
    """Their round.json has no digest."""
    played(pool)
    honest = pulled(pool("ann"))
    plain = {"generalist": None, "start": None, "closed_by": None}
    forge(pool("ann"), honest, **plain)
    pulled(pool("ben"))
    forge(pool("eve"), **plain)
    refused(pool("ben"), "it is not the mean of its contributions")


def test_what_is_known_is_not_computed_again(pool, monkeypatch):
    played(pool)
    forge(pool("eve"))
    assert digest(pulled(pool("ben"), known=frozenset({digest(BAD)}))) == digest(BAD)
    refused(pool("ben"), "it is not the mean", known=frozenset({digest(FIRST)}))


def test_a_closer_does_not_look_at_its_own_work(pool, monkeypatch):
    begin(pool("ann"))
    for seed, name in enumerate(NAMES):
        give(pool(name), name, seed)
    exchange = pool("ann")
    closed = close_if_due(exchange, repository.current(exchange), 1.0)
    never = lambda *a: pytest.fail("computed again")
    monkeypatch.setattr(verification, "judge", never)
    assert digest(repository.pull(exchange, closed)) == closed.round.generalist


def test_rounding_is_no_forgery():
    near = {name: array * np.float32(1 + 1e-6) for name, array in FIRST.items()}
    far = {name: array * np.float32(1.01) for name, array in FIRST.items()}
    for products in (False, True):
        same = lambda other, products=products: verification._nearly_equal(
            Arrays("", FIRST), Arrays("", other), products
        )
        assert same(FIRST)
        assert same(near)
        assert not same(far)
        assert not same(BAD)
        assert not same({**FIRST, "more.lora_a": BAD[min(BAD)]})
    scaled = {
        n: a * np.float32(100 if n.endswith("a") else 0.01) for n, a in FIRST.items()
    }
    assert not verification._nearly_equal(Arrays("", FIRST), Arrays("", scaled), True)


def test_old_files_by_hand_are_read(pool):
    """round.json and federation.json as an earlier version writes them."""
    begin(pool("ann"))
    ann = pool("ann")
    agreed = dataclasses.replace(sharing.manifest(FIRST), id=None, founder=None)
    plain = {"federation.json": agreed.to_json(), "round.json": Round().to_json()}
    assert not any(b"founder" in c or b"closed_by" in c for c in plain.values())
    ann.commit(plain, "by hand")
    assert digest(pulled(pool("ben"))) == digest(FIRST)
