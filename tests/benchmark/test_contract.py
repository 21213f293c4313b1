"""One suite over all cases, found on disk."""

import gc
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import pytest

from comigs_mlx import registry
from comigs_mlx.benchmark.case_results import is_ratio, read_section, section
from comigs_mlx.benchmark.measure import (
    Measured,
    Meter,
    Runner,
    Variant,
    collect,
    interleaved,
)
from comigs_mlx.benchmark.models import base_model
from comigs_mlx.benchmark.setting import Setting
from comigs_mlx.benchmark.spread import Spread
from comigs_mlx.model import params
from tests.benchmark.conftest import SHAPE

NAMES = registry.names("case")


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    return registry.load("case", request.param)


def measured(case, setting, rounds=1):
    makers = case.variants(setting)
    runner = Runner(makers, Meter(), setting.shared_bytes)
    return collect(interleaved(runner, list(makers), rounds))


def state(model):
    """Every module and array of a model, and what it computes."""
    modules = [(path, id(m), type(m)) for path, m in model.named_modules()]
    arrays = {p: id(a) for p, a in params.flatten(model.parameters()).items()}
    return modules, arrays, model(mx.array([[1, 2, 3]])).tolist()


@dataclass
class Measurement:
    """A case measured once, the base model before and after, and stray files."""

    setting: Setting
    measured: dict[str, Measured]
    before: tuple
    after: tuple
    strays: list[Path]

    def results(self, case):
        return case.results(self.measured, self.setting)


@pytest.fixture(scope="module")
def measurement(case, tmp_path_factory):
    here, scratch = (tmp_path_factory.mktemp(name) for name in ("here", "scratch"))
    setting = Setting(SHAPE, base_model("tiny"), scratch)
    before = state(setting.model)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        found = measured(case, setting, rounds=2)
    return Measurement(
        setting, found, before, state(setting.model), list(here.iterdir())
    )


def test_says_what_it_is(case):
    assert case.SUMMARY == case.SUMMARY.strip() != ""
    assert "\n" not in case.SUMMARY
    assert isinstance(case.ORDER, int)
    assert isinstance(case.TOKENS, int)
    assert isinstance(case.MAIN, tuple)


def test_every_case_has_its_own_place():
    orders = [registry.load("case", name).ORDER for name in NAMES]
    assert len(set(orders)) == len(NAMES)


def test_builds_nothing_before_it_is_asked(case, setting):
    gc.collect()
    before = Meter().active()
    makers = case.variants(setting)
    assert makers
    assert Meter().active() == before
    assert all(map(callable, makers.values()))


def test_variants_can_be_built_alone_and_in_any_order(case, setting):
    for name, make in reversed(list(case.variants(setting).items())):
        assert isinstance(make(), Variant), name


def test_reports_what_it_ran(case, measurement):
    found = measurement.results(case)
    assert found
    for name, one in found.items():
        assert isinstance(one, Spread), name
        assert 0 < one.low <= one.high, name
        assert one.low * (1 - 1e-9) <= one.value <= one.high * (1 + 1e-9), name
    assert read_section(section(found)) == found
    ratios = {name.split(".")[0] for name in found if is_ratio(name)}
    assert set(case.MAIN) <= ratios
    speed = {name for name in found if name.endswith("_tps")}
    assert bool(speed) == bool(case.TOKENS)


def test_the_base_model_is_left_as_it_was(measurement):
    assert measurement.after == measurement.before
    assert not params.flatten(measurement.setting.model.trainable_parameters())


def test_writes_nowhere_but_in_its_scratch_folder(measurement):
    assert measurement.strays == []


def test_headlines(case, measurement):
    found = section(measurement.results(case))
    if "plain_lora_s" in found:
        assert found["ratio"] == found["comigs_s"] / found["plain_lora_s"]
    if "plain_lora_tps" in found:
        expected = found["comigs_tps"] / found["plain_lora_tps"]
        assert found["ratio"] == pytest.approx(expected)
    assert {"comigs_s", "comigs_tps"} & found.keys()


def test_variants_of_the_training_step(setting):
    case = registry.load("case", "train_step")
    names = [
        "plain LoRA",
        "comigs, 1 expert",
        "comigs, 2 experts",
        "comigs, 4 experts",
        "naive, 2 experts",
    ]
    assert list(case.variants(setting)) == names
    runs = {
        name: Measured([1.0 + i, 3.0 + i], [10 + i] * 2) for i, name in enumerate(names)
    }
    found = section(case.results(runs, setting))
    assert found["by_experts"] == {"1": 1.5, "2": 2.0, "4": 2.5}
    assert found["naive_by_experts"] == {"2": 3.0}
    assert found["peak_memory_by_experts"] == {"1": 1.1, "2": 1.2, "4": 1.3}
    assert found["ratio"] == 2.0
    assert found["peak_memory_ratio"] == 1.2


def test_the_trained_variants_are_what_they_say(setting):
    """Same number of trainable values as LoRA for 1 expert, less its router."""
    from comigs_mlx.benchmark import plain

    lora = plain.attach(setting, setting.twin())
    mine = setting.mixture(1)
    sizes = params.counts(mine.model)
    plain_size = sum(
        a.size for a in params.flatten(lora.trainable_parameters()).values()
    )
    assert plain_size == sizes["generalist"]
    assert sizes["specialist"] == 0


def test_decoding_writes_the_tokens_it_counts(setting, monkeypatch):
    from comigs_mlx.benchmark import speaking

    calls = []

    class Model(type(setting.model)):
        def __call__(self, tokens, cache=None):
            calls.append(tokens.shape[1])
            return super().__call__(tokens, cache=cache)

    monkeypatch.setattr(setting.model, "__class__", Model)
    one = speaking.writing(setting, lambda: setting.model, prompt=5, tokens=7)
    assert setting.vocabulary == 64  # found out by a call, once
    calls.clear()
    one.before(1)
    assert sum(calls) == 5 + 1  # the prompt, and the first step under way
    one.run(1)
    assert sum(calls) == 5 + 7
    one.after(1)
    calls.clear()
    speaking.reading(setting, lambda: setting.model, 9).run(1)
    assert sum(calls) == 9
