"""Exact resume, and what is refused."""

import dataclasses
import json
import shutil

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx import registry
from comigs_mlx.errors import RunError
from comigs_mlx.model import params
from comigs_mlx.options import ExpertOptions, SavingOptions
from comigs_mlx.training import checkpoint
from comigs_mlx.training.records import Boundary, Position, Report, Step, Sums
from tests.training.setting import (
    SHAPES,
    arrays,
    batch_of,
    mixture_of,
    same,
    source,
    trainer_of,
    values,
)

IDENTITY = {"base_model": "abc", "experts": {"rank": 2}, "data": "def"}
SAVING = SavingOptions(report_every=3, save_every=2)


def new_trainer(options=None, **changes):
    """Rows of different numbers of counted tokens, so that weights matter."""
    short = {i: batch_of([1, i], counted=3) for i in range(0, 20, 3)}
    settings = {"steps": 7, "router_every": 2, "router_steps": 3, "saving": SAVING}
    mixture = mixture_of(options or SHAPES["k=E"])
    return trainer_of(mixture, train=source(1, short), **settings | changes)


def bits(trainer):
    groups = [group for level in trainer.levels for group in level.groups]
    states = [arrays(group.optimizer.state) for group in groups]
    return [values(trainer.mixture), *states]


def without_rates(groups):
    """A step sets the learning rate anew, from its number and the options."""
    return [{k: a for k, a in g.items() if k != "learning_rate"} for g in groups]


def records(events):
    return [
        dataclasses.replace(e, tokens_per_second=0, peak_memory_gb=0)
        if isinstance(e, Report)
        else e
        for e in events
    ]


OTHER_ROUTERS = sorted({*registry.names("router")} - {"topk"})


def routed(name):
    return dataclasses.replace(SHAPES["k<E"], router_type=name)


def until(trainer, step):
    """Run to the boundary after `step`; what was yielded."""
    seen = []
    for event in trainer.run():
        seen.append(event)
        if isinstance(event, Boundary) and event.step == step:
            return seen
    raise AssertionError(f"no boundary at {step}")


@pytest.mark.parametrize(
    ("step", "changes"),
    [
        (1, {}),
        (2, {}),  # after a router phase; the report window goes on
        (6, {}),  # a report has just been made
        (4, {"grad_accumulation": 3}),
        (5, {"grad_checkpoint": True, "options": SHAPES["k<E"]}),
        (4, {"router": "joint", "options": SHAPES["k=1"]}),
        (3, {"router": "none"}),
        *((2, {"options": routed(name)}) for name in OTHER_ROUTERS),
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, step, changes):
    whole = new_trainer(**changes)
    expected = records(whole.run())

    first = new_trainer(**changes)
    before = until(first, step)
    saved = checkpoint.save(first, tmp_path, IDENTITY, keep=2)
    kept = without_rates(bits(first))

    second = new_trainer(**changes)
    assert not all(map(same, without_rates(bits(second)), kept))
    stored = checkpoint.restore(second, saved, IDENTITY)
    assert stored == IDENTITY
    assert all(map(same, without_rates(bits(second)), kept))
    assert second.steps_left == first.steps_left

    after = list(second.run())
    assert records([*before, *after]) == expected
    assert all(map(same, bits(second), bits(whole)))
    for event in after:
        if isinstance(event, Report):
            assert event.tokens_per_second > 0


def test_saving_changes_nothing(tmp_path):
    whole, other = new_trainer(), new_trainer()
    expected = records(whole.run())
    found = []
    for event in other.run():
        found.append(event)
        if isinstance(event, Boundary):
            checkpoint.save(other, tmp_path, IDENTITY, keep=1)
    assert records(found) == expected
    assert all(map(same, bits(other), bits(whole)))


def test_a_resume_takes_its_own_learning_rates(tmp_path):
    first = new_trainer(learning_rate=1e-3)
    until(first, 2)
    saved = checkpoint.save(first, tmp_path, IDENTITY, keep=1)
    second = new_trainer(learning_rate=4e-3)
    checkpoint.restore(second, saved, IDENTITY)
    until(second, 4)
    rate = second.routers.groups[0].optimizer.learning_rate.item()
    assert rate == pytest.approx(4e-3)
    cosine = (1 + np.cos(np.pi * 3 / 7)) / 2
    rate = second.experts.groups[0].optimizer.learning_rate.item()
    assert rate == pytest.approx(4e-4 + 36e-4 * cosine)


class TestMoreSteps:
    """Resumed with another number of steps, the learning rate does not jump."""

    RATE = 4e-3

    def trainer(self, steps, rate=RATE):
        return new_trainer(steps=steps, learning_rate=rate, router="none")

    def rates(self, trainer):
        """Step -> learning rate of the steps still to be made."""
        optimizer = trainer.experts.groups[0].optimizer
        return {
            event.index: optimizer.learning_rate.item()
            for event in trainer.run()
            if isinstance(event, Step)
        }

    def saved(self, trainer, folder, step):
        until(trainer, step)
        return checkpoint.save(trainer, folder, IDENTITY, keep=9)

    def cosine(self, high, low, share):
        return low + (high - low) * (1 + np.cos(np.pi * share)) / 2

    def test_it_goes_on_from_where_it_was(self, tmp_path):
        first = self.trainer(8)
        saved = self.saved(first, tmp_path, 4)
        second = self.trainer(14)
        checkpoint.restore(second, saved, IDENTITY)
        start = self.cosine(4e-3, 4e-4, 4 / 8)
        assert self.rates(second) == {
            step: pytest.approx(self.cosine(start, 4e-4, (step - 5) / 10), rel=1e-6)
            for step in range(5, 15)
        }

    def test_after_the_end_it_stays_at_the_lowest(self, tmp_path):
        saved = self.saved(self.trainer(6), tmp_path, 6)
        second = self.trainer(10)
        checkpoint.restore(second, saved, IDENTITY)
        lowest = pytest.approx(4e-4, rel=1e-6)
        assert self.rates(second) == dict.fromkeys(range(7, 11), lowest)

    def test_fewer_steps_end_it_earlier(self, tmp_path):
        saved = self.saved(self.trainer(12), tmp_path, 3)
        second = self.trainer(5)
        checkpoint.restore(second, saved, IDENTITY)
        start = self.cosine(4e-3, 4e-4, 3 / 12)
        assert list(self.rates(second).values()) == pytest.approx(
            [start, self.cosine(start, 4e-4, 0.5)], rel=1e-6
        )

    def test_another_rate_begins_where_it_is_asked_for(self, tmp_path):
        saved = self.saved(self.trainer(6), tmp_path, 6)
        second = self.trainer(8, rate=1e-3)
        checkpoint.restore(second, saved, IDENTITY)
        expected = [1e-3, self.cosine(1e-3, 1e-4, 0.5)]
        assert list(self.rates(second).values()) == pytest.approx(expected, rel=1e-6)

    def test_what_was_prolonged_resumes_bit_for_bit(self, tmp_path):
        saved = self.saved(self.trainer(6), tmp_path / "a", 4)
        whole = self.trainer(12)
        checkpoint.restore(whole, saved, IDENTITY)
        broken = self.trainer(12)
        checkpoint.restore(broken, saved, IDENTITY)
        again = self.saved(broken, tmp_path / "b", 8)
        second = self.trainer(12)
        checkpoint.restore(second, again, IDENTITY)
        expected, found = self.rates(whole), self.rates(second)
        assert found == {step: expected[step] for step in range(9, 13)}
        assert all(map(same, bits(second), bits(whole)))

    def test_a_save_without_a_schedule_takes_the_options_before(self, tmp_path):
        """As written before there was a word of it."""
        saved = self.saved(self.trainer(8), tmp_path, 4)
        forget(saved, "schedule")
        second = self.trainer(14)
        before = {"steps": 8, "learning_rate": self.RATE}
        checkpoint.restore(second, saved, IDENTITY, before)
        start = self.cosine(4e-3, 4e-4, 4 / 8)
        assert self.rates(second)[5] == pytest.approx(start, rel=1e-6)
        same_end = self.trainer(8)
        checkpoint.restore(same_end, saved, IDENTITY, before)
        assert same_end.schedule == self.trainer(8).schedule


def forget(save, name):
    """Rewrite the state of a save without one of its fields."""
    file = save / checkpoint.STATE
    state = json.loads(file.read_text())
    content = {k: v for k, v in state.items() if k not in (name, "seal")}
    seal = checkpoint._seal(content)
    file.write_text(json.dumps({**content, "seal": seal}))


def test_only_the_last_saves_are_kept(tmp_path):
    trainer = new_trainer()
    (tmp_path / "step-of-mine").mkdir()
    for event in trainer.run():
        if isinstance(event, Boundary):
            checkpoint.save(trainer, tmp_path, IDENTITY, keep=3)
    names = [f"step-{n:07d}" for n in (5, 6, 7)]
    assert [path.name for path in checkpoint.saves(tmp_path)] == names
    assert checkpoint.latest(tmp_path).name == names[-1]
    assert sorted(p.name for p in tmp_path.iterdir()) == [*names, "step-of-mine"]


def test_without_a_save_there_is_nothing_to_resume(tmp_path):
    for states in (tmp_path, tmp_path / "missing"):
        with pytest.raises(RunError, match="nothing to resume: .* no complete save"):
            checkpoint.latest(states)


def test_a_save_that_fails_leaves_none(tmp_path, monkeypatch):
    trainer = new_trainer()
    until(trainer, 2)
    monkeypatch.setattr(checkpoint, "write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        checkpoint.save(trainer, tmp_path, IDENTITY, keep=1)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    trainer = new_trainer()
    until(trainer, 2)
    return checkpoint.save(trainer, tmp_path_factory.mktemp("saved"), IDENTITY, keep=1)


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / saved.name)


def refused(save, identity=IDENTITY, options=None):
    """The reason why a fresh trainer does not take `save`; it must not be changed."""
    trainer = new_trainer(options)
    before = bits(trainer)
    with pytest.raises(RunError) as error:
        checkpoint.restore(trainer, save, identity)
    assert all(map(same, bits(trainer), before))
    assert trainer.position == Position()
    assert "\n" not in str(error.value)
    return str(error.value)


class TestRefused:
    @pytest.mark.parametrize("name", ["values", "optimizer_state", "trainer_state"])
    def test_incomplete(self, copy, name):
        (file,) = copy.glob(f"{name}.*")
        file.unlink()
        reason = refused(copy)
        assert reason.startswith(f"cannot read {file} (No such file or directory")
        assert reason.endswith("remove its folder to resume from the save before")

    @pytest.mark.parametrize("name", ["values", "optimizer_state"])
    @pytest.mark.parametrize("place", [0, 0.5, 0.999])
    def test_one_changed_byte(self, copy, name, place):
        file = copy / f"{name}.safetensors"
        content = bytearray(file.read_bytes())
        content[int(place * len(content))] ^= 1
        file.write_bytes(content)
        reason = refused(copy)
        assert reason == (
            f"cannot read {file}, which is damaged or incomplete (it has changed since "
            "it was written): remove its folder to resume from the save before"
        )

    def test_any_changed_byte_of_the_state_that_matters(self, copy):
        file = copy / "trainer_state.json"
        content, meant = file.read_bytes(), json.loads(file.read_bytes())
        trainer, before = new_trainer(), bits(new_trainer())
        checked = 0
        for place in range(0, len(content), 3):
            changed = bytearray(content)
            changed[place] ^= 2
            try:
                if json.loads(changed) == meant:  # white space
                    continue
            except ValueError:
                pass
            file.write_bytes(changed)
            with pytest.raises(RunError, match="which is damaged|has format"):
                checkpoint.restore(trainer, copy, IDENTITY)
            checked += 1
        assert checked > 100
        assert all(map(same, bits(trainer), before))

    def test_truncated(self, copy):
        file = copy / "trainer_state.json"
        file.write_bytes(file.read_bytes()[:-20])
        assert f"{file}, which is damaged or incomplete" in refused(copy)

    def test_another_format_version(self, copy):
        file = copy / "trainer_state.json"
        file.write_text('{"format_version": 2, "whatever": "comes"}')
        assert refused(copy).endswith("has format 2, this version reads 1: update")

    def test_another_base_model(self, copy):
        reason = refused(copy, {**IDENTITY, "base_model": "xyz"})
        assert reason == (
            f"{copy} belongs to another run: base_model is 'abc' there, 'xyz' here"
        )

    def test_other_experts(self, copy):
        reason = refused(copy, {**IDENTITY, "experts": {"rank": 4}})
        assert "experts is {'rank': 2} there, {'rank': 4} here" in reason

    @pytest.mark.parametrize(
        "options", [ExpertOptions(rank=4), SHAPES["k<E"], ExpertOptions(num_layers=1)]
    )
    def test_other_shapes_under_the_same_identity(self, copy, options):
        assert "its tensors have other names or shapes" in refused(
            copy, IDENTITY, options
        )


def test_values_are_those_of_the_mixture(saved):
    trainer = new_trainer()
    until(trainer, 2)
    assert same(arrays(checkpoint.load_values(saved)), values(trainer.mixture))
    assert all(a.dtype == mx.float32 for a in checkpoint.load_values(saved).values())


def test_position_survives_json():
    position = Position(3, 4, Sums(1.1, 7, [0.1, 0.2]), Sums(0.3, 2, [1 / 3, 2 / 3]))
    assert Position.from_dict(json.loads(json.dumps(position.to_dict()))) == position


def test_between_two_boundaries_there_are_steps():
    """What the parametrised test above relies on: saves fall at different phases."""
    events = list(new_trainer().run())
    words = [e.level for e in events if isinstance(e, Step)]
    assert words == ["expert", *(["expert", *["router"] * 3, "expert"] * 3)]


def test_other_values_in_a_save_leave_position_and_optimisers(tmp_path):
    trainer = new_trainer()
    until(trainer, 4)
    saved = checkpoint.save(trainer, tmp_path, IDENTITY, keep=1)
    position, kept = trainer.position.to_dict(), without_rates(bits(trainer)[1:])
    assert position["router_step"] > 0
    others = {p: a + 1 for p, a in checkpoint.load_values(saved).items()}
    checkpoint.replace_values(saved, others)
    again = new_trainer()
    checkpoint.restore(again, saved, IDENTITY)
    assert again.position.to_dict() == position
    assert all(map(same, without_rates(bits(again)[1:]), kept))
    assert same(values(again.mixture), arrays(params.unflatten(others)))
