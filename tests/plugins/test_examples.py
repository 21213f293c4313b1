"""The examples of docs/plugins.md, installed outside the package and used."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tests.federation.sharing as sharing
import tests.tiny as tiny
from comigs_mlx import bench, export, registry, simulate, train
from comigs_mlx.data.splits import load_splits
from comigs_mlx.federation.aggregation.aggregate import aggregate, misnamed
from comigs_mlx.federation.exchanges.memory import MemoryExchange
from comigs_mlx.federation.exchanges.open import open_exchange
from comigs_mlx.federation.formats.tensor_source import Arrays
from comigs_mlx.simulation.datasets.dividing import PartitionConfig, partition

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
EXAMPLES = {
    (kind, name): code
    for kind, name, code in re.findall(
        r"^Example: the (\w+) `(\w+)`.*?```python\n(.*?)```", TEXT, re.S | re.M
    )
}
SUITES = {
    "aggregator": "tests/federation/aggregation/aggregators/test_contract.py",
    "case": "tests/benchmark/test_contract.py",
    "export": "tests/exports/formats/test_contract.py",
    "exchange": "tests/federation/exchanges/test_contract.py",
    "format": "tests/data/test_contract.py",
    "method": "tests/simulation/methods/test_contract.py",
    "partition": "tests/simulation/datasets/partition/test_contract.py",
    "router": "tests/model/routers/test_contract.py",
    "source": "tests/data/sources/test_contract.py",
    "teacher": "tests/training/teachers/test_contract.py",
    "worker": "tests/simulation/workers/test_contract.py",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder that holds every example as if pip had installed its package."""
    root = tmp_path_factory.mktemp("site")
    info = root / "examples-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: examples\nVersion: 1.0\n"
    )
    groups = []
    for (kind, name), code in EXAMPLES.items():
        (root / f"example_{name}.py").write_text(code, encoding="utf-8")
        groups.append(f"[{registry.GROUPS[kind]}]\n{name} = example_{name}\n")
    (info / "entry_points.txt").write_text("\n".join(groups))
    return root


@pytest.fixture
def installed(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)


def test_every_kind_has_one_complete_example_of_at_most_30_lines():
    assert sorted(kind for kind, _ in EXAMPLES) == sorted(registry.KINDS)
    for key, code in EXAMPLES.items():
        lines = [line for line in code.splitlines() if line.strip()]
        assert len(lines) <= 30, (key, len(lines))


def test_every_suite_is_named_where_its_kind_is_explained():
    assert SUITES.keys() == registry.KINDS.keys()
    for suite in SUITES.values():
        assert f"`{suite}`" in TEXT
        assert (ROOT / suite).is_file()


@pytest.mark.usefixtures("installed")
class TestInUse:
    def test_router(self, tiny_folder, text_folder, tmp_path, cli):
        given = {"model": tiny_folder(), "data": text_folder, "run": tmp_path / "run"}
        flags = {**tiny.TRAINING, **given, "router_type": "cosine"}
        assert cli(train.main, **flags)[0] == 0
        written = json.loads((tmp_path / "run" / "comigs.json").read_text())
        assert written["router"] == "cosine"

    def test_teacher(self, tiny_folder, text_folder, tmp_path, cli):
        given = {"model": tiny_folder(), "data": text_folder, "run": tmp_path / "run"}
        flags = {**tiny.TRAINING, **given, "teach": "flat:weight=0.5"}
        code, _, err = cli(train.main, **flags)
        assert code == 0, err

    def test_aggregator_with_an_option(self):
        current = sharing.tensors()
        moved = [sharing.moved(current, seed, 0.1) for seed in (1, 2)]
        given = [Arrays("ann", moved[0], 100), Arrays("bob", moved[1], 900)]
        assert not list(misnamed("root_tokens:power=0.5"))
        assert list(misnamed("root_tokens:power=2"))
        result = aggregate("root_tokens", given, Arrays("", current), {"power": 0.5})
        assert result.weights == pytest.approx({"ann": 0.25, "bob": 0.75})
        for name, values in result.shared:
            expected = 0.25 * moved[0][name] + 0.75 * moved[1][name]
            assert np.allclose(values, expected, atol=1e-6)

    def test_method(self, tiny_folder, tmp_path, cli):
        for seed, user in enumerate(("ann", "bob")):
            tiny.write_text(tmp_path / "users" / user, documents=40, seed=seed)
        flags = {
            "users": tmp_path / "users",
            "out": tmp_path / "out",
            "model": tiny_folder(),
            "method": "late-fedavg",
            "rounds": 2,
            "local_steps": 1,
            "batch_size": 2,
            "seq_len": 16,
            "rank": 2,
        }
        assert cli(simulate.main, **flags)[0] == 0
        results = json.loads((tmp_path / "out" / "results.json").read_text())
        assert list(results["methods"]) == ["late-fedavg"]

    def test_worker(self, tiny_folder, tmp_path, cli):
        tiny.write_text(tmp_path / "users" / "ann", documents=40)
        flags = {
            "users": tmp_path / "users",
            "out": tmp_path / "out",
            "model": tiny_folder(),
            "backend": "in_reverse",
            "rounds": 1,
            "local_steps": 1,
            "batch_size": 2,
            "seq_len": 16,
            "rank": 2,
        }
        argv = ["--method", "local", "fedavg", *tiny.flags(**flags)]
        code, _, err = cli(simulate.main, *argv)
        assert code == 0, err
        begun = [line for line in err.splitlines() if line.endswith(": 1 steps")]
        assert [line.split(",")[0] for line in begun] == ["fedavg", "local"]

    def test_export(self, trained, tmp_path, cli):
        flags = {"run": trained(), "format": "npz", "out": tmp_path / "out"}
        code, said, err = cli(export.main, **flags, max_gap=9)
        assert code == 0, err
        assert f"unzip -l {tmp_path / 'out'}/adapter.npz" in said
        assert set(np.load(tmp_path / "out" / "adapter.npz"))

    def test_format(self, tmp_path):
        for i in range(60):
            spoken = f"1\n00:00:01,000 --> 00:00:02,000\nHello {i}.\n"
            (tmp_path / f"{i}.srt").write_text(spoken)
        splits = load_splits(str(tmp_path))
        assert splits.report.files == {"subtitles": 60}
        texts = [s["text"] for s in (*splits.train, *splits.valid, *splits.test)]
        assert sorted(texts) == sorted(f"Hello {i}." for i in range(60))

    def test_source(self, tmp_path):
        file = tmp_path / "all.sayings"
        file.write_text("".join(f"saying {i}\n" for i in range(60)))
        splits = load_splits(str(file))
        texts = [s["text"] for s in (*splits.train, *splits.valid, *splits.test)]
        assert sorted(texts) == sorted(f"saying {i}" for i in range(60))

    def test_exchange(self):
        exchange = open_exchange("inmemory://pool")
        assert isinstance(exchange, MemoryExchange)
        exchange.create()
        exchange.commit({"a": b"1"}, "one")
        assert list(open_exchange("inmemory://pool").snapshot().files) == ["a"]

    def test_partition(self, tmp_path):
        rows = [{"text": f"document {i}", "label": "a"} for i in range(200)]
        data = tmp_path / "all.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        counts = partition(
            PartitionConfig(data=str(data), out=str(tmp_path / "out"), by="in_turn")
        )
        assert {who: sum(c.values()) for who, c in counts.items()} == {
            f"p{i}": 50 for i in range(4)
        }


def test_case(folder):
    """In its own process: the command lists its cases when it is imported."""
    flags = "--model tiny --cases forward --rounds 1 --json --batch-size 1 --seq-len 8"
    command = [sys.executable, "-m", bench.__name__, *flags.split()]
    done = child(command, folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["forward"]["comigs_s"] > 0


def child(command, folder):
    path = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


def test_the_contract_suites_hold_for_the_examples(folder):
    """Each suite finds the examples by name, and each name meets some tests."""
    chosen = " or ".join(name.replace("_", "-") for _, name in EXAMPLES)
    chosen += " or " + " or ".join(name for _, name in EXAMPLES)
    flags = ["-p", "no:randomly", "-n", "0", "-v", "-x", "-k", chosen]
    done = child([sys.executable, "-m", "pytest", *flags, *SUITES.values()], folder)
    assert done.returncode == 0, done.stdout[-5000:]
    for _, name in EXAMPLES:
        assert re.search(f"{name.replace('_', '[_-]')}.*PASSED", done.stdout), name
