"""The bilevel schedule, its records, and when it stops."""

import dataclasses
import math

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx.errors import TrainingError
from comigs_mlx.model import params
from comigs_mlx.options import ExpertOptions, SavingOptions, TrainingOptions
from comigs_mlx.training import checkpoint
from comigs_mlx.training.level import Level, StepResult, expert_group, router_group
from comigs_mlx.training.records import Boundary, Position, Report, Step
from tests.training.setting import (
    SHAPES,
    arrays,
    batch_of,
    changed,
    mixture_of,
    poison,
    poisoned,
    same,
    source,
    trainer_of,
    values,
)


def shape_of(events):
    """`E1 R1 report(1) |1` and so on, `*` where a validation loss was measured."""
    words = []
    for event in events:
        if isinstance(event, Step):
            words.append(f"{event.level[0].upper()}{event.index}")
        elif isinstance(event, Report):
            words.append(f"report({event.step})")
        else:
            words.append(f"|{event.step}{'*' * (event.valid_loss is not None)}")
    return " ".join(words)


class TestSchedule:
    def test_a_router_phase_follows_every_so_many_expert_steps(self):
        trainer = trainer_of(
            steps=7,
            router_every=3,
            router_steps=2,
            saving=SavingOptions(report_every=2, save_every=3),
        )
        assert trainer.steps_left == 7 + 2 * 2
        assert shape_of(trainer.run()) == (
            "E1 |1 E2 report(2) |2 E3 R1 R2 |3* E4 report(4) |4 E5 |5 "
            "E6 R3 R4 report(6) |6* E7 report(7) |7*"
        )
        assert trainer.steps_left == 0

    def test_steps_left_counts_both_levels(self):
        trainer = trainer_of(steps=5, router_every=2, router_steps=3)
        left = []
        for event in trainer.run():
            if isinstance(event, Step):
                left.append(trainer.steps_left)
        assert left == list(range(5 + 6))[::-1]

    def test_each_level_reads_its_own_batches_once_and_in_order(self):
        train, router_train = source(1), source(2)
        trainer = trainer_of(
            train=train, router_train=router_train, steps=4, grad_accumulation=3
        )
        list(trainer.run())
        assert train.asked == list(range(12))
        assert router_train.asked == [0, 1, 2, 3]

    def test_experts_learn_from_train_and_routers_from_valid(self):
        """The same as levels fed by hand: nothing else enters."""
        trainer = trainer_of(steps=2, router_every=2, router_steps=1)
        list(trainer.run())
        mixture = mixture_of()
        options = trainer.options
        experts = Level(mixture, [expert_group(options)], options)
        routers = Level(mixture, [router_group(options)], options)
        experts.step([batch_of([1, 0])])
        experts.step([batch_of([1, 1])])
        routers.step([batch_of([2, 0])])
        assert same(values(mixture), values(trainer.mixture))

    @pytest.mark.parametrize("router", ["joint", "none"])
    def test_without_alternation_no_validation_text_is_read(self, router):
        router_train = source(2)
        trainer = trainer_of(router_train=router_train, router=router)
        before = values(trainer.mixture)
        assert trainer.steps_left == 4
        assert "R" not in shape_of(trainer.run())
        assert router_train.asked == []
        moved = changed(before, values(trainer.mixture))
        routers = values(trainer.mixture, "router").keys()
        assert moved == (
            before.keys() if router == "joint" else before.keys() - routers
        )

    @pytest.mark.parametrize("router", ["alternating", "joint"])
    def test_a_single_expert_has_no_router_to_train(self, router):
        trainer = trainer_of(mixture_of(ExpertOptions(rank=2, specialists=0)))
        before = values(trainer.mixture, "router")
        assert (
            shape_of(trainer.run()) == "E1 |1 E2 |2* E3 report(3) |3 E4 report(4) |4*"
        )
        assert same(before, values(trainer.mixture, "router"))
        assert list(trainer.warnings()) == [
            "one expert only: there is nothing to route",
            "the run has its 4 steps already: raise --steps, "
            "or --rounds in a federation",
        ]

    def test_warns_where_the_router_would_never_be_trained(self):
        trainer = trainer_of(steps=4, router_every=5)
        (warning,) = trainer.warnings()
        assert warning == (
            "the router will not be trained: --steps 4 is less than --router-every 5"
        )
        assert not list(trainer_of().warnings())


class TestRecords:
    def test_reports_are_means_since_the_last_one(self):
        trainer = trainer_of(
            steps=5,
            router_every=2,
            router_steps=3,
            saving=SavingOptions(report_every=2, save_every=4),
        )
        window, reports, boundaries = [], [], []
        for event in trainer.run():
            if isinstance(event, Step):
                window.append(event)
            elif isinstance(event, Boundary):
                boundaries.append(event)
            else:
                reports.append(event)
                for level, found in (
                    ("expert", event.train_loss),
                    ("router", event.router_loss),
                ):
                    own = [s for s in window if s.level == level]
                    tokens = sum(s.tokens for s in own)
                    total = sum(s.loss * s.tokens for s in own)
                    assert found == (pytest.approx(total / tokens) if own else None)
                assert sum(event.expert_share.values()) == pytest.approx(1.0)
                assert list(event.expert_share) == ["generalist", "specialist"]
                assert event.tokens_per_second > 0 < event.peak_memory_gb
                window = []
        assert [r.step for r in reports] == [2, 4, 5]
        assert [r.valid_loss is None for r in reports] == [True, False, False]
        assert reports[-1].router_loss is None
        cosine = (1 + math.cos(math.pi * 4 / 5)) / 2
        assert reports[-1].learning_rate == pytest.approx(2e-4 + 18e-4 * cosine)
        assert boundaries[-1].valid_loss == reports[-1].valid_loss
        assert boundaries[-1].valid_loss == trainer.evaluator.score(trainer.valid).loss

    def test_expert_share_is_weighted_by_tokens(self):
        short = batch_of(9, counted=2)
        trainer = trainer_of(train=source(1, {1: short}), steps=2, router="none")
        shares, tokens = [], []
        step = trainer.experts.step

        def noting(batches, *rest):
            result = step(batches, *rest)
            shares.append(result.share)
            tokens.append(result.tokens)
            return result

        trainer.experts.step = noting
        report = next(e for e in trainer.run() if isinstance(e, Report))
        assert tokens == [24, 4]
        expected = np.average(shares, axis=0, weights=tokens)
        assert list(report.expert_share.values()) == pytest.approx(expected.tolist())

    def test_trainable_counts_every_role(self):
        trainer = trainer_of()
        counted = {
            role: sum(a.size for a in values(trainer.mixture, role).values())
            for role in params.ROLES
        }
        assert trainer.trainable() == counted
        everything = params.flatten(trainer.mixture.model.trainable_parameters())
        assert sum(counted.values()) == sum(a.size for a in everything.values())


class TestStops:
    @pytest.mark.parametrize(
        ("level", "index", "expected"),
        [
            ("expert", 3, "expert step 4"),  # right after a router phase
            ("expert", 0, "expert step 1"),
            ("router", 1, "router step 2"),  # within a phase
        ],
    )
    def test_at_a_loss_that_is_no_number_and_keeps_the_values_before(
        self, level, index, expected
    ):
        bad = {index: poisoned(batch_of([5, index]))}
        sources = {"expert": "train", "router": "router_train"}
        mixture = mixture_of()
        poison(mixture)
        trainer = trainer_of(mixture, **{sources[level]: source(5, bad)}, steps=6)
        kept = [(values(mixture), optimisers(trainer))]

        def run():
            for _ in trainer.run():
                kept.append((values(mixture), optimisers(trainer)))

        with pytest.raises(TrainingError) as error:
            run()
        assert f"in {expected};" in str(error.value)
        assert "--learning-rate" in str(error.value)
        assert same(kept[-1][0], values(mixture))
        assert same(kept[-1][1], optimisers(trainer))
        done = trainer.position.step, trainer.position.router_step
        assert done == {3: (3, 2), 0: (0, 0), 1: (2, 1)}[index]

    def test_at_a_learning_rate_that_breaks_the_model(self):
        trainer = trainer_of(learning_rate=1e30, steps=6)
        with pytest.raises(TrainingError, match=r"NaN or infinite in expert step 2;"):
            list(trainer.run())

    def test_before_values_that_cannot_be_used_are_saved(self):
        """The step was finite, but what it led to is not."""
        saving = SavingOptions(save_every=1)
        trainer = trainer_of(learning_rate=1e30, steps=6, saving=saving)
        events = []
        with pytest.raises(
            TrainingError, match="validation loss is (nan|inf) after expert step 1"
        ):
            events.extend(trainer.run())
        assert shape_of(events) == "E1"

    @pytest.mark.parametrize(
        ("level", "role"), [("experts", "generalist"), ("routers", "router")]
    )
    def test_where_no_gradient_arrives(self, level, role):
        trainer = trainer_of(steps=6)
        cut_off(getattr(trainer, level))
        with pytest.raises(TrainingError) as error:
            list(trainer.run())
        assert str(error.value).startswith(
            f"no gradient reaches the {role} parameters in {level[:-1]} step 3"
        )

    @pytest.mark.parametrize("rate", [1e5, 1e6])
    @pytest.mark.parametrize("shape", ["k=E", "k<E", "k=1"])
    def test_divergence_is_called_so(self, shape, rate):
        trainer = trainer_of(mixture_of(SHAPES[shape]), learning_rate=rate, steps=20)
        with pytest.raises(TrainingError) as error:
            list(trainer.run())
        assert "no gradient reaches" not in str(error.value)
        assert "lower --learning-rate" in str(error.value)


def cut_off(level):
    """No gradient of the loss reaches this level's parameters any more."""
    stock = level._objective

    def stopped(tokens, mask):
        loss, stats = stock(tokens, mask)
        return mx.stop_gradient(loss), stats

    level._objective = stopped


class TestNoGradientByRight:
    """Chance and success are no defects."""

    def test_where_no_token_chose_the_specialist(self):
        mixture = mixture_of(ExpertOptions(rank=2, top_k=1))
        for site in mixture.sites:  # every token chooses the generalist
            site.mlp.router.weight = mx.zeros_like(site.mlp.router.weight)
        trainer = trainer_of(mixture, steps=6, router="none")
        steps = [event for event in trainer.run() if isinstance(event, Step)]
        assert len(steps) == 6
        assert sum(trainer.experts.step([batch_of(1)]).share[1:]) == 0

    def test_where_nothing_is_left_to_learn(self):
        trainer = trainer_of(steps=6)
        for index in range(1, 7):
            norms = {"generalist": 0.0, "specialist": 0.0}
            result = StepResult(1e-5, 24, [0.5, 0.5], norms)
            trainer._check_gradients(result, "expert", index)

    def test_where_a_run_was_resumed(self):
        trainer = trainer_of(steps=6)
        norms = {"generalist": 1.0, "specialist": 0.0}
        for index in range(70, 76):
            result = StepResult(2.0, 24, [0.5, 0.5], norms)
            trainer._check_gradients(result, "expert", index)


def optimisers(trainer):
    return arrays([g.optimizer.state for level in trainer.levels for g in level.groups])


@pytest.mark.parametrize("options", [{}, {"grad_checkpoint": True}])
def test_the_same_seed_gives_the_same_bits(options):
    runs = []
    for _ in range(2):
        trainer = trainer_of(**options)
        events = [timeless(event) for event in trainer.run()]
        runs.append((events, values(trainer.mixture)))
    assert runs[0][0] == runs[1][0]
    assert same(runs[0][1], runs[1][1])


def timeless(event):
    if isinstance(event, Report):
        return dataclasses.replace(event, tokens_per_second=0.0, peak_memory_gb=0.0)
    return event


def test_training_lowers_the_loss_of_what_can_be_learned():
    """Rows of one repeated token: experts and routers both get better at them."""
    row = np.full((2, 13), 7, np.int32)
    easy = batch_of(0)._replace(tokens=row)
    always = dict.fromkeys(range(200), easy)
    trainer = trainer_of(
        mixture_of(ExpertOptions()),
        train=source(1, always),
        router_train=source(2, always),
        steps=60,
        router_every=10,
        learning_rate=1e-2,
    )
    steps = [event for event in trainer.run() if isinstance(event, Step)]
    assert steps[-1].loss < 0.5 * steps[0].loss


def test_options_reach_the_optimisers():
    trainer = trainer_of(learning_rate=5e-3, weight_decay=0.25)
    for level in trainer.levels:
        (group,) = level.groups
        assert group.optimizer.weight_decay == 0.25
        assert group.optimizer.betas == [0.9, 0.95]
        assert group.optimizer.bias_correction
        assert group.optimizer.learning_rate.item() == pytest.approx(5e-3)
    assert TrainingOptions().learning_rate == 2e-3
    assert mx.array_equal(trainer.experts.groups[0].optimizer.step, mx.array(0))


class TestGrowingK:
    """SMoE-Dropout: k grows over all expert steps."""

    @pytest.fixture
    def seen(self, monkeypatch):
        """k of every step, as the level is told."""
        told, real = [], Level.step

        def step(level, batches, number=0, k=None):
            told.append((level.trains_routers, k))
            return real(level, batches, number, k)

        monkeypatch.setattr(Level, "step", step)
        return told

    def test_from_the_first_to_the_last(self, seen):
        options = ExpertOptions(rank=2, specialists=3, top_k=4)
        trainer = trainer_of(
            mixture_of(options), steps=6, router_every=3, router_steps=1, top_k_from=2
        )
        list(trainer.run())
        experts = [k for is_router, k in seen if not is_router]
        assert experts == [round(2 + 2 * t / 6) for t in range(6)]
        assert [k for is_router, k in seen if is_router] == [3, 4]

    def test_a_step_uses_that_many(self):
        options = ExpertOptions(rank=2, specialists=3, top_k=4)
        mixture = mixture_of(options, std=0.3)
        options = TrainingOptions()
        level = Level(mixture, [expert_group(options)], options)
        chosen = []
        for site in mixture.sites:
            routing = site.mlp._routing
            choose = routing.choose

            def spying(x, choose=choose):
                choice = choose(x)
                chosen.append(choice.weights.shape[-1])
                return choice

            routing.choose = spying
        for k in (2, 3, None):
            chosen.clear()
            assert level.step([batch_of(0)], k=k).finite
            assert set(chosen) == {k or 4}

    def test_fixed_without_it(self, seen):
        list(trainer_of(mixture_of(), steps=2, router_every=2).run())
        assert {k for _, k in seen} == {None}

    def test_a_start_that_is_not_below_is_remarked(self):
        trainer = trainer_of(mixture_of(), steps=2, top_k_from=2)
        assert any("top-k does not grow" in text for text in trainer.warnings())


class TestPatience:
    """A save every 2 steps measures the validation loss."""

    def trainer(self, losses, patience=2, steps=20):
        saving = SavingOptions(report_every=50, save_every=2, patience=patience)
        trainer, given = trainer_of(steps=steps, saving=saving), iter(losses)
        trainer._valid_loss = lambda: next(given)
        return trainer

    def test_stops_after_so_many_without_a_better_one(self):
        """An equal loss is no better one."""
        trainer = self.trainer([3.0, 2.0, 2.5, 1.9, 1.9, 2.0])
        *_, report, boundary = trainer.run()
        assert boundary == Boundary(12, 2.0)
        assert (report.step, report.valid_loss) == (12, 2.0)
        assert (trainer.position.best, trainer.position.stale) == (1.9, 2)
        assert trainer.stopped_early
        assert trainer.steps_left == 0
        assert list(trainer.run()) == []
        (warning,) = trainer.warnings()
        assert "stopped early at step 12: raise --patience 2" in warning

    def test_a_resumed_run_keeps_the_count(self, tmp_path):
        saved, resumed = self.trainer([2.0, 2.5]), self.trainer([2.1])
        for event in saved.run():
            if isinstance(event, Boundary) and event.step == 4:
                break
        checkpoint.save(saved, tmp_path, {}, 1)
        checkpoint.restore(resumed, checkpoint.latest(tmp_path), {})
        *_, boundary = resumed.run()
        assert boundary == Boundary(6, 2.1)

    def test_0_never_stops(self):
        trainer = self.trainer([2.0, 3.0, 3.0, 3.0], patience=0, steps=8)
        *_, boundary = trainer.run()
        assert boundary == Boundary(8, 3.0)
        assert not trainer.stopped_early

    @pytest.mark.parametrize("before", [None, 2.0])
    def test_nan_is_never_the_best(self, before):
        position = Position(best=before)
        position.measured(float("nan"))
        assert (position.best, position.stale) == (before, 1)
