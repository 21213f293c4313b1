"""Whether two run folders hold the same."""

import json

from comigs_mlx.config import read_yaml

TIMES = {"tokens_per_second", "peak_memory_gb"}


def content(run):
    """Everything a run holds: its files' bytes, and its metrics without times."""
    found = {}
    for file in sorted(run.rglob("*")):
        if file.is_file() and file.name not in (".lock", "config.yaml"):
            found[str(file.relative_to(run))] = file.read_bytes()
    lines = found.pop("metrics.jsonl").decode().splitlines()
    reports = [json.loads(line) for line in lines]
    return found, [{k: r[k] for k in r.keys() - TIMES} for r in reports]


def same_run(run, whole):
    found, reports = content(run)
    expected, expected_reports = content(whole)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
    assert reports == expected_reports
    configs = [read_yaml(folder / "config.yaml") for folder in (run, whole)]
    assert [config.pop("run") for config in configs]
    assert configs[0] == configs[1]


def tree(folder):
    """File -> bytes; without the lock."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != ".lock"
    }
