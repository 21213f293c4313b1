"""Experiment trackers, by stand-ins: which calls they get and what stays here."""

import dataclasses
import os
import sys
import types
from importlib.machinery import ModuleSpec

import pytest

from comigs_mlx.errors import ConfigError
from comigs_mlx.runs.loggers import logger
from comigs_mlx.training.records import Report

REPORT = Report(
    step=20,
    train_loss=2.5,
    router_loss=None,
    valid_loss=2.25,
    learning_rate=1e-3,
    expert_share={"generalist": 0.75, "specialist": 0.25},
    tokens_per_second=100.0,
    peak_memory_gb=0.5,
)
METRICS = {
    "step": 20,
    "train_loss": 2.5,
    "valid_loss": 2.25,
    "learning_rate": 1e-3,
    "expert_share/generalist": 0.75,
    "expert_share/specialist": 0.25,
    "tokens_per_second": 100.0,
    "peak_memory_gb": 0.5,
}


@pytest.fixture
def tracker(monkeypatch):
    """Name -> the calls that a stand-in of this package gets."""

    def make(name):
        calls, module = [], types.ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        for function in ("init", "log", "finish"):
            note = lambda *a, _f=function, **k: calls.append((_f, a, k))
            setattr(module, function, note)
        monkeypatch.setitem(sys.modules, name, module)
        return calls

    for variable in ("WANDB_MODE", "SWANLAB_MODE"):
        monkeypatch.setenv(variable, "to be put back")
        monkeypatch.delenv(variable)
    return make


@pytest.mark.parametrize(
    ("name", "key"),
    [("wandb", "name"), ("trackio", "name"), ("swanlab", "experiment_name")],
)
def test_a_tracker_is_opened_told_and_closed(tracker, name, key):
    calls = tracker(name)
    with logger(name, "runs/notes", {"rank": 8}) as log:
        log(dataclasses.asdict(REPORT))
    start = {"project": "comigs_mlx", "config": {"rank": 8}, key: "runs/notes"}
    assert calls == [
        ("init", (), start),
        ("log", (METRICS,), {"step": 20}),
        ("finish", (), {}),
    ]


def test_a_tracker_is_closed_when_training_stops_early(tracker):
    calls = tracker("trackio")
    with pytest.raises(KeyboardInterrupt), logger("trackio", "run", {}):
        raise KeyboardInterrupt
    assert [name for name, _, _ in calls] == ["init", "finish"]


@pytest.mark.parametrize("name", ["wandb", "swanlab"])
def test_metrics_stay_on_the_device_unless_the_user_says_otherwise(
    tracker, name, monkeypatch
):
    tracker(name)
    variable = f"{name.upper()}_MODE"
    with logger(name, "run", {}):
        assert os.environ[variable] == "offline"
    monkeypatch.setenv(variable, "online")
    with logger(name, "run", {}):
        assert os.environ[variable] == "online"


@pytest.mark.parametrize("name", ["wandb", "swanlab", "trackio"])
def test_a_missing_package_is_named_with_how_to_install_it(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError) as error, logger(name, "run", {}):
        pass
    assert str(error.value).startswith(f"--report-to {name}: ")
    assert f"pip install {name}" in str(error.value)


def test_without_a_tracker_nothing_is_imported(monkeypatch):
    for name in ("wandb", "swanlab", "trackio"):
        monkeypatch.setitem(sys.modules, name, None)
    with logger(None, "run", {}) as log:
        assert log(dataclasses.asdict(REPORT)) is None
