"""A round closes whatever its contributions hold, and publishes what can be pulled."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.federation.sharing as sharing
import tests.tiny as tiny
from comigs_mlx import registry
from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.memory import MemoryExchange, MemoryStore
from comigs_mlx.federation.formats import adapter
from comigs_mlx.federation.formats.manifest import AggregatorChoice
from comigs_mlx.federation.formats.tensor_source import Arrays, digest, shapes
from comigs_mlx.federation.rounds import checks, closing, repository, status, submit
from comigs_mlx.federation.rounds.verification import Trust

AGGREGATORS = registry.names("aggregator")
RANK = 3
CURRENT = sharing.tensors(zero_b=True, rank=RANK)
NAMES = ("ann", "ben", "eve", "fay")
HUGE = float(np.finfo(np.float32).max)


def turned(values):
    """The same rank-one terms in another order, with the sign of lora_b turned."""
    return {
        name: np.roll(array, 1, 1) if name.endswith("a") else -np.roll(array, 1, 0)
        for name, array in values.items()
    }


def filled(a, b):
    """Every lora_a is `a` all over, every lora_b `b`."""
    return {
        name: np.full_like(array, a if name.endswith("a") else b)
        for name, array in CURRENT.items()
    }


def without(part, values):
    return {n: array * (not n.endswith(part)) for n, array in values.items()}


TRAINED = sharing.moved(CURRENT, 1)
KINDS = {
    "trained": TRAINED,
    "cancelling": turned(TRAINED),
    "opposite": {name: -array for name, array in TRAINED.items()},
    "unchanged": CURRENT,
    "no lora_a": without("lora_a", TRAINED),
    "no lora_b": without("lora_b", TRAINED),
    "zero": filled(0.0, 0.0),
    "minus zero": filled(-0.0, -0.0),
    "denormal": filled(1e-45, -1e-45),
    "huge": filled(HUGE, HUGE),
    "huge, turned": filled(HUGE, -HUGE),
    "as large as may be": filled(checks.LARGEST, checks.LARGEST),
    "large, turned": filled(-checks.LARGEST, checks.LARGEST),
    "wide": filled(checks.LARGEST, 1e-45),
}


class Pool:
    """A federation in memory."""

    def __init__(self, **agreed):
        self.exchange = MemoryExchange("ann", MemoryStore())
        self.start = agreed.pop("start", CURRENT)
        agreed = sharing.manifest(
            self.start, **{"encoding": "fp32", "rank": RANK, **agreed}
        )
        repository.initialise(self.exchange, agreed, self.start, 0.0)

    def now(self):
        return repository.current(self.exchange)

    def round(self, *contributions):
        """Contribute, and close: the federation afterwards, None where not closed."""
        for name, values in zip(NAMES, contributions, strict=False):
            federation = self.now()
            made = sharing.contributed(
                values,
                repository.pull(self.exchange, federation),
                federation.manifest,
                participant=name,
                round=federation.open_round,
            )
            submit.contribute(self.exchange, federation, made)
        return closing.close_if_due(self.exchange, self.now(), 1.0)

    def generalist(self):
        own = shapes(Arrays("", self.start))
        return repository.pull(self.exchange, self.now(), own)


def length(values, start):
    return float(np.linalg.norm(sharing.vector(values) - sharing.vector(start)))


def step(times, seed=1):
    """CURRENT after an update `times` as long as another one."""
    moved = sharing.moved(CURRENT, seed)
    return {n: CURRENT[n] + times * (moved[n] - CURRENT[n]) for n in CURRENT}


@pytest.mark.parametrize("aggregator", AGGREGATORS)
class TestHostileNumbers:
    @settings(max_examples=tiny.examples(15))
    @given(
        kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=4),
        action=st.sampled_from(["clip", "refuse", "off"]),
    )
    def test_never_keep_a_round_from_closing(self, aggregator, kinds, action):
        chosen = AggregatorChoice(aggregator)
        pool = Pool(quorum=len(kinds), aggregator=chosen, norm_action=action)
        closed = pool.round(*(KINDS[kind] for kind in kinds))
        values = pool.generalist()
        assert all(np.isfinite(array).all() for array in values.values())
        if closed is None:  # short of the quorum, as some are refused
            with closing.review(pool.exchange, pool.now()) as found:
                assert set(found.refused) | {s.name for s in found.accepted} == set(
                    NAMES[: len(kinds)]
                )
                assert found.refused
        else:
            assert closed.round.generalist == digest(values)
            assert set(closed.round.contributors) <= set(NAMES)

    def test_two_that_cancel_are_averaged_like_others(self, aggregator):
        chosen = AggregatorChoice(aggregator)
        pool = Pool(quorum=2, aggregator=chosen, norm_action="off")
        closed = pool.round(TRAINED, turned(TRAINED))
        assert closed.round.contributors == ("ann", "ben")
        assert closed.round.inexactness is None  # relative to nothing

    def test_values_whose_product_overflows_are_refused_by_name(self, aggregator):
        pool = Pool(quorum=2, aggregator=AggregatorChoice(aggregator))
        closed = pool.round(TRAINED, step(0.9, 2), filled(HUGE, 1.0))
        assert closed.round.contributors == ("ann", "ben")
        assert "is too large" in closed.round.refused["eve"]


class TestFew:
    @pytest.mark.parametrize("times", [100, -100])
    def test_of_two_none_may_be_much_longer_than_the_other(self, times):
        pool = Pool(quorum=2)
        closed = pool.round(step(1), step(times))
        one = length(step(1), CURRENT)
        wanted = abs(1 + 3 * np.sign(times)) / 2 * one
        assert length(pool.generalist(), CURRENT) == pytest.approx(wanted, rel=1e-3)
        (said,) = closed.round.notes
        assert said == "ben: an outsized update, clipped to 0.03 of its length"

    def test_one_is_compared_with_the_round_before(self):
        pool = Pool()
        pool.round(step(1))
        before = pool.generalist()
        hostile = {n: before[n] + 100 * (before[n] - CURRENT[n]) for n in before}
        closed = pool.round(hostile)
        assert length(pool.generalist(), before) == pytest.approx(
            3 * length(step(1), CURRENT), rel=1e-3
        )
        assert closed.round.norm_known == pytest.approx(length(step(1), CURRENT))

    def test_a_round_of_a_few_steps_is_forgotten_slowly(self):
        pool = Pool()
        pool.round(step(1))
        one, before = length(step(1), CURRENT), pool.generalist()
        tiny = {n: before[n] + 0.001 * (before[n] - CURRENT[n]) for n in before}
        assert pool.round(tiny).round.norm == pytest.approx(one / 2, rel=1e-3)

    def test_the_first_one_alone_has_nothing_to_be_compared_with_which_is_said(self):
        pool = Pool()
        closed = pool.round(step(100))
        assert length(pool.generalist(), CURRENT) == pytest.approx(
            length(step(100), CURRENT), rel=1e-5
        )
        assert closed.round.notes == (
            "one update and no earlier round: there was nothing to compare its length "
            "with",
        )
        readme = pool.exchange.read("README.md", closed.snapshot.revision, 2**20)
        assert "nothing to compare its length with" in readme.decode()

    def test_it_may_be_refused_instead(self):
        pool = Pool(quorum=2, norm_action="refuse")
        assert pool.round(step(1), step(-100)) is None  # one is left, of a quorum of 2
        with closing.review(pool.exchange, pool.now()) as found:
            assert found.refused["ben"] == (
                "update 100.0 times as long as what is usual, at most 3"
            )

    def test_a_federation_of_an_earlier_version_goes_on_as_it_was(self, monkeypatch):
        monkeypatch.setattr(repository, "_founded", lambda manifest, account: manifest)
        pool = Pool(quorum=2)
        closed = pool.round(step(1), step(-100))
        assert length(pool.generalist(), CURRENT) == pytest.approx(
            49.5 * length(step(1), CURRENT), rel=1e-3
        )
        assert closed.round.norm is None


class TestUntrained:
    @pytest.mark.parametrize("aggregator", ["mean", "tokens", "svd"])
    def test_it_does_not_shorten_the_others_step(self, aggregator):
        pool = Pool(quorum=3, aggregator=AggregatorChoice(aggregator))
        closed = pool.round(TRAINED, CURRENT, TRAINED)
        made, wanted = pool.generalist(), sharing.products(TRAINED)
        for linear, product in sharing.products(made).items():
            assert np.allclose(product, wanted[linear], atol=1e-5)
        assert closed.round.weights == {"ann": 0.5, "ben": 0.0, "eve": 0.5}
        assert closed.round.notes == (
            "ben: the generalist as it was, without training",
        )

    def test_where_there_is_nothing_else_it_closes_the_round(self):
        pool = Pool(quorum=2)
        assert pool.round(CURRENT, CURRENT).round.weights == {"ann": 0.5, "ben": 0.5}
        assert digest(pool.generalist()) == digest(CURRENT)

    def test_for_a_median_it_is_a_vote_against_change(self):
        pool = Pool(quorum=3, aggregator=AggregatorChoice("median"))
        pool.round(step(1), CURRENT, CURRENT)
        made = pool.generalist()
        assert all(np.array_equal(made[name], CURRENT[name]) for name in CURRENT)


class TestPublished:
    def test_what_the_check_of_pulled_files_refuses_is_not_published(self, monkeypatch):
        pool = Pool()

        def refuse(*_):
            raise FederationError("not finite")

        monkeypatch.setattr(adapter, "check_generalist", refuse)
        made = {n: np.full_like(a, np.inf) for n, a in CURRENT.items()}
        with pytest.raises(FederationError, match=r"cannot be published \(not finite"):
            closing._checked_files(made, pool.now().manifest, Arrays("", CURRENT))

    def test_every_file_that_is_pulled_is_judged(self, monkeypatch):
        judged = []
        check = adapter.check_generalist
        monkeypatch.setattr(
            adapter,
            "check_generalist",
            lambda files, *rest: judged.append(set(files)) or check(files, *rest),
        )
        pool = Pool()
        pool.round(TRAINED)
        assert set(adapter.paths(pool.now().manifest)) in judged


class TestAnotherAggregator:
    """One that this version does not have: read, but neither closed nor joined."""

    CHOICES = [
        (AggregatorChoice("magic"), "unknown aggregator 'magic': choose one of"),
        (AggregatorChoice("../errors"), "unknown aggregator"),
        (
            AggregatorChoice("mean", {"power": 1}),
            "the aggregator mean has no option 'power'",
        ),
        (
            AggregatorChoice("trimmed_mean", {"fraction": 0.9}),
            "fraction 0.9 is not from 0 to 0.5",
        ),
        (
            AggregatorChoice("trimmed_mean", {"fraction": "x"}),
            "fraction is not a number: 'x'",
        ),
    ]

    @pytest.mark.parametrize(("choice", "problem"), CHOICES)
    def test_no_federation_is_made_with_it(self, choice, problem):
        exchange = MemoryExchange("ann", MemoryStore())
        agreed = sharing.manifest(CURRENT, rank=RANK, aggregator=choice)
        with pytest.raises(FederationError) as caught:
            repository.initialise(exchange, agreed, CURRENT, 0.0)
        assert problem in str(caught.value)
        assert "\n" not in str(caught.value)

    def changed(self, choice):
        """A federation with a contribution, whose manifest has been changed since."""
        pool = Pool()
        federation = pool.now()
        made = sharing.contributed(
            TRAINED, CURRENT, federation.manifest, participant="ann", round=1
        )
        exchange = pool.exchange
        submit.contribute(exchange, federation, made)
        agreed = dataclasses.replace(federation.manifest, aggregator=choice)
        exchange.commit({"federation.json": agreed.to_json()}, "Change the aggregator")
        return exchange, made

    @pytest.mark.parametrize(("choice", "problem"), CHOICES)
    def test_the_round_stays_open_and_says_why(self, choice, problem):
        exchange, made = self.changed(choice)
        before = exchange.snapshot()
        now = repository.current(exchange, Trust(everything=True))
        assert now.manifest.aggregator == choice
        for attempt in (
            lambda: closing.close_if_due(exchange, now, 1.0),
            lambda: submit.contribute(exchange, now, made),
            lambda: submit.check_participant(exchange, now, "ben"),
        ):
            with pytest.raises(FederationError) as caught:
                attempt()
            assert problem in str(caught.value)
            assert "\n" not in str(caught.value)
        assert exchange.snapshot() == before

    @pytest.mark.parametrize(("choice", "problem"), CHOICES)
    def test_status_shows_the_manifest_and_what_is_wrong(self, choice, problem):
        exchange, _ = self.changed(choice)
        now = repository.current(exchange, Trust(everything=True))
        values = status.status(exchange, now, 1.0)
        assert problem in values["problem"]
        assert values["manifest"]["aggregator"]["name"] == choice.name
        (one,) = values["contributions"].values()
        assert (one["accepted"], one["reason"]) == (False, values["problem"])
        files = now.snapshot.files.items()
        given = [file.size for path, file in files if "contributions/1/ann/" in path]
        assert len(given) > 1
        assert one["bytes"] == sum(given)
        assert not values["due"]
        assert f"cannot close the round: {values['problem']}" in status.table(values)
