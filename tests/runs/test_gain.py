"""Whether a training has helped is read from what was measured on the test split."""

import json
import math

import pytest

from comigs_mlx import evaluate
from comigs_mlx.runs import gain
from comigs_mlx.runs.gain import Gain


def write(run, *lines):
    text = "".join(f"{line}\n" for line in lines)
    (run / "held_out.jsonl").write_text(text)


def line(step, base_loss, loss):
    values = {"step": step, "base_loss": base_loss, "loss": loss, "tokens": 10}
    return json.dumps(values)


def test_the_last_measurement_counts(tmp_path):
    write(tmp_path, line(5, 3.0, 4.0), line(9, math.log(40), math.log(30)), '{"st')
    found = gain.read(tmp_path)
    assert found.perplexities == pytest.approx((40, 30))
    assert found.better == pytest.approx(0.25)
    assert str(found) == "from 40.0 to 30.0, 25 % better"


def test_worse_is_said():
    worse = Gain(math.log(20), math.log(25), 10)
    assert str(worse) == "from 20.0 to 25.0, 25 % worse"


def test_without_a_measurement_nothing_is_claimed(tmp_path):
    assert gain.read(tmp_path) is None


def test_what_training_measures_is_what_evaluate_measures(trained, cli):
    run = trained()
    code, out, _ = cli(evaluate.main, "--run", str(run), "--split", "test", "--json")
    assert code == 0
    losses = {
        name: values["loss"] for name, values in json.loads(out)["results"].items()
    }
    found = gain.read(run)
    assert found.base_loss == pytest.approx(losses["base"], rel=1e-4)
    assert found.loss == pytest.approx(losses["mixture"], rel=1e-4)
