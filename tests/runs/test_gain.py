"""Whether a training has helped is read from what was measured on the test split."""

import json
import math

import numpy as np
import pytest

from comigs_mlx import evaluate
from comigs_mlx.data.batches import Batch
from comigs_mlx.runs import gain, held_out
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


class Counting:
    """An evaluator whose losses are known, and how often it was asked."""

    def __init__(self):
        self.asked = []

    def batch_losses(self, batch, experts):
        self.asked.append((int(batch.documents.flat[0]), experts))
        losses = np.full(batch.mask.shape, 3.0 if experts == "base" else 2.0)
        return losses, np.zeros((*batch.mask.shape, 2))


def batches(count):
    shape = (1, 4)
    return [
        Batch(np.zeros((1, 5), int), np.ones(shape), np.full(shape, document))
        for document in range(count)
    ]


def test_base_and_mixture_are_measured_on_the_same_text_in_no_order():
    counting = Counting()
    found = held_out.measure(counting, batches(20), clock=lambda: 0.0)
    assert (found.base_loss, found.loss, found.tokens) == (3.0, 2.0, 80)
    first, second = counting.asked[::2], counting.asked[1::2]
    assert [d for d, _ in first] == [d for d, _ in second] != list(range(20))
    assert sorted(d for d, _ in first) == list(range(20))


def test_on_a_slow_machine_less_is_measured():
    times = iter(range(0, 1000, 11))  # eleven seconds from one look to the next
    counting = Counting()
    found = held_out.measure(counting, batches(20), clock=lambda: next(times))
    assert found.tokens == 3 * 4
    assert held_out.measure(Counting(), [], clock=lambda: 0.0) is None
