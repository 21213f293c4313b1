from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from comigs_mlx.config import dump_yaml, to_dict
from comigs_mlx.errors import ConfigError
from comigs_mlx.options import DataOptions, Reading, ReadingGiven, TrainConfig
from comigs_mlx.runs.held_out import data_options

ANN = Reading(me=("Ann", "+49 1"), columns="text=body", pause_hours=2.0)


def test_a_text_is_read_as_the_run_read_its_own(tmp_path: Path) -> None:
    saved = tmp_path / "config.yaml"
    saved.write_text(dump_yaml(TrainConfig(data=DataOptions(reading=ANN))))
    assert data_options(saved, {})["reading"] == ANN
    given = to_dict(ReadingGiven(me=("Bob",), columns=""))
    expected = dataclasses.replace(ANN, me=("Bob",), columns="")
    assert data_options(saved, given)["reading"] == expected


def test_runs_from_before_these_options_have_the_defaults(tmp_path: Path) -> None:
    saved = tmp_path / "config.yaml"
    saved.write_text("data: notes\nseq_len: 7\n")
    found = data_options(saved, {})
    assert (found["reading"], found["seq_len"]) == (Reading(), 7)
    assert data_options(tmp_path / "none.yaml", {})["reading"] == Reading()
    with pytest.raises(ConfigError, match="--pause-hours"):
        data_options(saved, {"pause_hours": 0.0})


def test_what_may_be_given_again_is_all_that_says_how_to_read() -> None:
    names = [field.name for field in dataclasses.fields(Reading)]
    assert [field.name for field in dataclasses.fields(ReadingGiven)] == names
