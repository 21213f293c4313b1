"""What every export format keeps, found from the folder of the formats."""

import dataclasses

import mlx.core as mx
import numpy as np
import pytest
import yaml

from comigs_mlx import registry
from comigs_mlx.exports import merging
from comigs_mlx.exports.job import Job
from comigs_mlx.runs.folder import RunFolder
from tests.exports.conftest import TRAINED

FORMATS = registry.names("export")
TOKENS = mx.array([[3, 14, 15, 92, 65, 35, 89, 79]])
CLOSE = {"float32": 2e-6, "float16": 3e-3, "bfloat16": 3e-2, "q8_0": 3e-2}
"""Type -> how far it moves logits, relative to their size."""


@pytest.fixture(scope="module", params=FORMATS)
def name(request):
    if request.param == "gguf":
        pytest.importorskip("gguf")
    return request.param


@pytest.fixture(scope="module")
def kind(name):
    return registry.load("export", name)


@pytest.fixture(scope="module")
def job(trained):
    base, mixture = RunFolder(trained(**TRAINED)).load()
    weights = [[0.4, 0.6]] * 2
    return Job(base, mixture, merging.merge(mixture, weights, "stack"), "mine", "")


def far(a, b):
    a, b = np.array(a, np.float32), np.array(b, np.float32)
    return np.sqrt(((a - b) ** 2).mean() / (b**2).mean())


def test_the_written_files_compute_the_merged_adapter(kind, job, tmp_path):
    before, _ = job.mixture(TOKENS)
    with merging.in_place(job.mixture, job.adapter):
        expected, _ = job.mixture(TOKENS)
    with job.mixture.selected("base"):
        base, _ = job.mixture(TOKENS)
    assert far(base, expected) > 2 * max(CLOSE.values())
    for dtype in kind.DTYPES:
        given = dataclasses.replace(job, dtype=dtype)
        kind.check(given)
        folder = tmp_path / dtype
        folder.mkdir()
        kind.write(given, folder)
        with kind.read_back(given, folder) as written, written.selected("base"):
            logits, _ = written(TOKENS)
        assert far(logits, expected) < CLOSE[dtype]
    after, _ = job.mixture(TOKENS)
    assert mx.array_equal(before, after)


def test_the_usual_type_is_one_that_it_writes(kind, job):
    assert kind.usual_dtype(job.base) in kind.DTYPES
    assert kind.SUMMARY
    assert kind.RELATION in ("adapter", "finetune", "quantized", "merge")


def test_a_card_with_the_measured_numbers(name, kind, exported, tmp_path):
    results = exported(name)
    text = (tmp_path / "out" / "README.md").read_text()
    _, metadata, body = text.split("---\n", 2)
    assert yaml.safe_load(metadata)["library_name"] == kind.LIBRARY
    assert f"| gap | {results['gap']:+.4f} |" in body
    losses = results["loss"]
    assert results["gap"] == pytest.approx(losses["export"] - losses["mixture"])
    assert results["split"] == "test"
    assert str(tmp_path) not in text  # a card may be passed on
    assert any(str(tmp_path / "out") in line for line in results["next"])
    assert set(results["files"]) == {f.name for f in (tmp_path / "out").iterdir()}
