"""Ratios kept in a file: what is written, and when one counts as worse."""

import json

import pytest

from comigs_mlx.benchmark import saved_ratios
from comigs_mlx.benchmark.spread import Spread
from comigs_mlx.errors import ConfigError

WHERE = {"chip": "abacus", "device": "cpu", "mlx": "1", "mlx-lm": "2"}
CASES = {
    "train_step": {
        "plain_lora_s": Spread(2.0, 1.9, 2.1),
        "ratio": Spread(0.9, 0.8, 1.0),
        "by_experts.4": Spread(1.1, 1.0, 1.2),
        "naive_by_experts.2": Spread(1.4, 1.3, 1.5),
    },
    "decode": {
        "comigs_tps": Spread(50.0, 40.0, 60.0),
        "ratio": Spread(0.95, 0.9, 1.0),
    },
}


@pytest.fixture
def file(tmp_path, shape):
    path = tmp_path / "docs" / "bench.json"
    saved_ratios.write(path, saved_ratios.content(WHERE, shape, CASES))
    return path


def new(case, name, found):
    return {**CASES, case: {**CASES[case], name: found}}


class TestFile:
    def test_holds_ratios_and_never_seconds(self, file, shape):
        content = json.loads(file.read_text())
        assert content["environment"] == WHERE
        assert content["shape"] == shape.to_dict()
        assert content["train_step"]["ratio"] == 0.9
        assert content["train_step"]["by_experts"] == {"4": 1.1}
        text = file.read_text()
        assert "plain_lora_s" not in text
        assert "comigs_tps" not in text

    def test_is_read_back(self, file, shape):
        found = saved_ratios.read(file)
        assert found.environment == WHERE
        assert found.shape == shape.to_dict()
        assert found.cases["decode"] == {"ratio": Spread(0.95, 0.9, 1.0)}
        assert found.cases["train_step"].keys() == {
            "ratio",
            "by_experts.4",
            "naive_by_experts.2",
        }

    def test_may_hold_cases_of_another_version(self, file):
        content = json.loads(file.read_text())
        file.write_text(json.dumps({**content, "of_tomorrow": 5}))
        assert "of_tomorrow" not in saved_ratios.read(file).cases

    @pytest.mark.parametrize("text", ["", "[]", "{}", "3", '{"environment": {}}'])
    def test_anything_else_is_refused(self, tmp_path, text):
        path = tmp_path / "other.json"
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"other.json holds no benchmark ratios"):
            saved_ratios.read(path)

    @pytest.mark.parametrize("damage", [{"ratio": 5}, {"spread": {"ratio": [1]}}])
    def test_a_damaged_section_is_refused(self, file, damage):
        content = json.loads(file.read_text())
        file.write_text(json.dumps({**content, "decode": damage}))
        with pytest.raises(ConfigError, match="holds no benchmark ratios"):
            saved_ratios.read(file)

    def test_a_missing_one_is_refused(self, tmp_path):
        with pytest.raises(ConfigError, match="cannot read .*: No such file"):
            saved_ratios.read(tmp_path / "none.json")


class TestWorse:
    @pytest.mark.parametrize(
        ("old", "new", "expected"),
        [
            (Spread(1.0, 0.9, 1.1), Spread(1.5, 1.4, 1.6), True),
            (Spread(1.0, 0.9, 1.1), Spread(1.05, 1.04, 1.06), False),  # in old range
            (Spread(1.0, 0.9, 1.1), Spread(1.2, 0.9, 1.3), False),  # old in new range
            (Spread(1.0, 0.9, 1.1), Spread(0.5, 0.4, 0.6), False),  # better
            (Spread(1.0, 1.0, 1.0), Spread(1.01, 1.01, 1.01), False),  # too little
            (Spread(1.0, 1.0, 1.0), Spread(1.03, 1.03, 1.03), True),
        ],
    )
    def test_where_less_is_better(self, old, new, expected):
        assert saved_ratios.worse(old, new, higher_is_better=False) is expected

    @pytest.mark.parametrize(
        ("old", "new", "expected"),
        [
            (Spread(1.0, 0.9, 1.1), Spread(0.5, 0.4, 0.6), True),
            (Spread(1.0, 0.9, 1.1), Spread(0.95, 0.94, 0.96), False),
            (Spread(1.0, 0.9, 1.1), Spread(1.5, 1.4, 1.6), False),
        ],
    )
    def test_where_more_is_better(self, old, new, expected):
        assert saved_ratios.worse(old, new, higher_is_better=True) is expected


class TestChanges:
    def test_nothing_got_worse_than_itself(self, file):
        found = list(saved_ratios.changes(saved_ratios.read(file), CASES))
        names = ["train_step.ratio", "train_step.by_experts.4", "decode.ratio"]
        assert [one.name for one in found] == names
        assert not any(one.worse for one in found)

    @pytest.mark.parametrize(
        ("case", "name", "now"),
        [
            ("train_step", "ratio", Spread(2.0, 1.9, 2.1)),
            ("train_step", "by_experts.4", Spread(2.0, 1.9, 2.1)),
            ("decode", "ratio", Spread(0.5, 0.4, 0.6)),
        ],
    )
    def test_a_main_ratio_that_got_worse_is_named(self, file, case, name, now):
        found = list(
            saved_ratios.changes(saved_ratios.read(file), new(case, name, now))
        )
        assert [one.name for one in found if one.worse] == [f"{case}.{name}"]
        lines = saved_ratios.table(found).splitlines()
        marked = [line.split()[0] for line in lines if "WORSE" in line]
        assert marked == [f"{case}.{name}"]

    def test_others_are_not_judged(self, file):
        slow = new("train_step", "naive_by_experts.2", Spread(9.0, 9.0, 9.0))
        found = saved_ratios.changes(saved_ratios.read(file), slow)
        assert not any(one.worse for one in found)

    def test_only_what_both_have(self, file):
        assert [
            one.name
            for one in saved_ratios.changes(
                saved_ratios.read(file), {"decode": CASES["decode"]}
            )
        ] == ["decode.ratio"]


def test_differences_are_said(file, shape):
    import dataclasses

    old = saved_ratios.read(file)
    assert list(saved_ratios.differences(old, WHERE, shape)) == []
    other = dataclasses.replace(shape, seq_len=99, rounds=9, experts=(2,))
    notes = list(saved_ratios.differences(old, {**WHERE, "chip": "M9"}, other))
    assert notes == [
        "not comparable: seq len was 8, is 99",
        "chip was 'abacus', is 'M9'",
    ]
