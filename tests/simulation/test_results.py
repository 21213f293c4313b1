"""The numbers of the table, by arithmetic."""

import csv
import dataclasses
import io
import math

import pytest

from comigs_mlx.simulation import report, results
from comigs_mlx.simulation.records import Outcome

CONFIG = {"rounds": 2, "local_steps": 3, "batch_size": 4, "seq_len": 5, "rank": 6}
CONFIG["model"] = "tiny"


def outcome(method, seed, ann, bob, tokens=(100, 300)):
    return Outcome(
        method=method,
        seed=seed,
        loss={"ann": math.log(ann), "bob": math.log(bob)},
        tokens=dict(zip(("ann", "bob"), tokens, strict=True)),
        speaks={"ann": "auto", "bob": "auto"},
        trainable={"ann": 10, "bob": 10},
        bytes_per_round=2e6,
        seconds=3.0,
        similarity={"experts": [], "cosines": []},
    )


OUTCOMES = [
    outcome("local", 0, 10, 20),
    outcome("local", 1, 14, 24),
    outcome("fedavg", 0, 9, 21),
    outcome("fedavg", 1, 12, 20),
]


@pytest.fixture
def table():
    return results.results(OUTCOMES, CONFIG, {"mlx": "1"})


def test_means_over_participants_then_seeds(table):
    found = table["methods"]["local"]
    assert found["perplexity"]["mean"] == pytest.approx(17)
    assert found["perplexity"]["std"] == pytest.approx(math.sqrt(8))  # of 15 and 19
    assert found["perplexity"]["per_participant"] == pytest.approx(
        {"ann": 12, "bob": 22}
    )
    losses = [math.log(x) for x in (10, 20, 14, 24)]
    assert found["loss"]["mean"] == pytest.approx(sum(losses) / 4)
    weighted = [10**0.25 * 20**0.75, 14**0.25 * 24**0.75]
    assert found["perplexity"]["token_weighted_mean"] == pytest.approx(
        sum(weighted) / 2
    )
    assert found["seconds"] == 3.0
    assert found["bytes_per_round"] == 2e6
    assert found["seeds"] == [0, 1]


def test_differences_are_paired_by_participant_and_seed(table):
    found = table["methods"]["fedavg"]["difference_to_local"]
    assert found["mean"] == pytest.approx((-1 + 1 - 2 - 4) / 4)
    low, high = found["ci95"]
    assert -4 <= low < -1.5 < high <= 1
    assert found["pairs"] == 4
    same = table["methods"]["local"]["difference_to_local"]
    assert (same["mean"], same["ci95"]) == (0.0, [0.0, 0.0])


def test_without_a_pair_there_is_no_difference():
    assert results.difference([outcome("x", 3, 1, 2)], OUTCOMES[:1]) is None
    assert results.difference([outcome("x", 0, 1, 2)], OUTCOMES[:1])["ci95"] is None
    one = results.results([outcome("x", 0, 4, 6)], CONFIG, {})["methods"]["x"]
    assert one["difference_to_local"] is None
    assert one["perplexity"]["std"] == 0.0


def test_an_interval_of_many_is_that_of_the_normal_distribution():
    values = [float(i % 11) for i in range(1100)]
    low, high = results.interval(values)
    half = 1.96 * math.sqrt(10 / 1100)
    assert (low, high) == (
        pytest.approx(5 - half, abs=0.02),
        pytest.approx(5 + half, abs=0.02),
    )


def test_the_tables_say_the_same(table):
    lines = report.markdown(table).splitlines()
    row = next(line for line in lines if line.startswith("| fedavg"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:4] == ["fedavg", "10.50", "20.50", "15.50"]
    assert "-1.50" in cells
    assert cells[-2:] == ["2.00", "3"]
    header = next(line for line in lines if line.startswith("| method"))
    assert header.count("|") == row.count("|")
    rows = list(csv.DictReader(io.StringIO(report.comma_separated(table))))
    assert len(rows) == 2 * 3
    bob = next(r for r in rows if (r["method"], r["participant"]) == ("local", "bob"))
    assert float(bob["perplexity"]) == pytest.approx(22)
    assert bob["test_tokens"] == "300"


@pytest.mark.parametrize(("count", "shown"), [(16, True), (17, False)])
def test_of_many_participants_the_table_has_the_means_and_the_csv_all(count, shown):
    names = [f"p{i:02}" for i in range(count)]
    one = dataclasses.replace(
        OUTCOMES[0], loss=dict.fromkeys(names, 1.0), tokens=dict.fromkeys(names, 9)
    )
    made = results.results([one], CONFIG, {"mlx": "1"})
    assert ("p00" in report.markdown(made)) == shown
    assert "| local |" in report.markdown(made)
    assert f"local,{names[-1]}," in report.comma_separated(made)
