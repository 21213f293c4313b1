"""The command: its contract on stdout, its files, its refusals."""

import json

import pytest

from comigs_mlx import bench, command, registry
from comigs_mlx.bench import main

LOOK = {"model": "tiny", "batch_size": 2, "seq_len": 8, "rank": 2, "rounds": 1}
FAST = {**LOOK, "cases": "router_step"}

ENVIRONMENT = {
    "chip",
    "machine",
    "cores",
    "memory_gb",
    "os",
    "python",
    "mlx",
    "mlx-lm",
    "comigs-mlx",
    "commit",
    "device",
}


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """(stdout, stderr) of one run of all cases, with files written and compared."""
    import contextlib
    import io

    file = tmp_path_factory.mktemp("bench") / "bench.json"
    out, err = io.StringIO(), io.StringIO()
    argv = ["--experts", "1,2", "--write", str(file)]
    for name, value in LOOK.items():
        argv += ["--" + name.replace("_", "-"), str(value)]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        main(argv)
    return out.getvalue(), err.getvalue(), file


class TestEverything:
    def test_the_last_line_is_json(self, everything):
        found = json.loads(everything[0].splitlines()[-1])
        cases = [(registry.load("case", name).ORDER, name) for name in bench.CASES]
        in_order = [name for _, name in sorted(cases)]
        assert list(found) == ["environment", "shape", *in_order]
        assert found["environment"].keys() == ENVIRONMENT
        assert found["environment"]["device"] in ("cpu", "gpu")
        assert found["shape"] == {**LOOK_SHAPE, "experts": [1, 2], "naive": [2]}

    def test_sections_have_the_public_names(self, everything):
        found = json.loads(everything[0].splitlines()[-1])
        step = found["train_step"]
        assert step["ratio"] == step["comigs_s"] / step["plain_lora_s"]
        assert step["by_experts"].keys() == {"1", "2"}
        assert step["by_experts"]["2"] == step["ratio"]
        assert step["naive_by_experts"].keys() == {"2"}
        assert step["peak_memory_ratio"] == step["peak_memory_by_experts"]["2"]
        for name in ("plain_lora_s", "comigs_s", "ratio"):
            low, high = step["spread"][name]
            assert low <= step[name] <= high
        assert {"plain_lora_s", "comigs_s", "ratio"} <= found["router_step"].keys()
        for name in ("prefill", "decode"):
            names = {"plain_lora_tps", "comigs_tps", "ratio", "base_ratio"}
            assert names <= found[name].keys()

    def test_people_get_a_table_for_each_case(self, everything):
        lines = everything[0].splitlines()
        for name in bench.CASES:
            assert f"{name}: {registry.load('case', name).SUMMARY}" in lines
        assert any(line.startswith("  naive, 2 experts ") for line in lines)

    def test_progress_is_on_stderr(self, everything):
        _, err, _ = everything
        assert "note: --rounds 1: a glimpse, not a measurement" in err
        assert "train_step 1/8  plain LoRA" in err
        assert "wrote " in err

    def test_the_file_holds_the_same_ratios(self, everything):
        out, _, file = everything
        printed, kept = json.loads(out.splitlines()[-1]), json.loads(file.read_text())
        assert kept["environment"] == printed["environment"]
        assert kept["train_step"]["ratio"] == printed["train_step"]["ratio"]
        assert "comigs_s" not in kept["train_step"]
        assert kept["save"] == {"spread": {}}


LOOK_SHAPE = {**LOOK, "experts": [], "naive": []}


class TestJson:
    def test_is_alone_on_stdout(self, cli):
        code, out, err = cli(main, "--json", **FAST)
        assert code == 0
        assert out.count("\n") == 1
        assert json.loads(out).keys() == {"environment", "shape", "router_step"}
        assert "router_step 1/4" in err

    def test_also_with_a_comparison(self, cli, everything):
        code, out, _ = cli(main, "--json", compare=everything[2], **FAST)
        assert code == 0
        assert out.count("\n") == 1
        assert json.loads(out)["compare"].keys() == {"file", "worse", "notes"}


class TestCompare:
    def doctored(self, everything, tmp_path, ratio):
        content = json.loads(everything[2].read_text())
        content["router_step"] = {"ratio": ratio, "spread": {"ratio": [ratio, ratio]}}
        path = tmp_path / "old.json"
        path.write_text(json.dumps(content))
        return path

    @pytest.mark.parametrize(
        ("ratio", "worse"), [(1e-9, ["router_step.ratio"]), (1e9, [])]
    )
    def test_names_what_got_worse(self, cli, everything, tmp_path, ratio, worse):
        path = self.doctored(everything, tmp_path, ratio)
        code, out, err = cli(main, compare=path, **FAST)
        assert code == 0
        *_, verdict, last = out.splitlines()
        expected = f"  worse by more than the spread: {', '.join(worse) or 'none'}"
        assert verdict == expected
        assert json.loads(last)["compare"] == {
            "file": str(path),
            "worse": worse,
            "notes": [],
        }
        assert "not comparable" not in err

    def test_says_when_sizes_differ(self, cli, everything):
        given = {**FAST, "seq_len": 9}
        code, _, err = cli(main, compare=everything[2], **given)
        assert code == 0
        assert "not comparable: seq len was 8, is 9" in err

    def test_a_bad_file_costs_no_work(self, cli, tmp_path):
        code, out, err = cli(main, compare=tmp_path / "none.json", **FAST)
        assert (code, out) == (2, "")
        assert "error: cannot read " in err
        assert "router_step" not in err


class TestRefused:
    @pytest.mark.parametrize(
        ("flags", "expected"),
        [
            ({"rounds": 0}, "--rounds 0 must be at least 1"),
            ({"batch_size": 0}, "--batch-size 0 must be at least 1"),
            ({"seq_len": -1}, "--seq-len -1 must be at least 1"),
            ({"rank": 0}, "--rank 0 must be at least 1"),
            ({"experts": "0,2"}, "--experts 0,2: expected numbers of at least 1"),
            ({"experts": "two"}, "--experts two: expected numbers of at least 1"),
            ({"experts": ""}, "--experts : expected numbers of at least 1"),
            ({"cases": "nap"}, "--cases nap: choose from aggregation, attach"),
            ({"cases": ","}, "--cases is empty: choose from"),
            ({"against": "HEAD", "write": "x.json"}, "drop --compare and --write"),
            ({"against": "no-such-commit"}, "--against no-such-commit: "),
            ({"model": "/no/such/model"}, "no model folder '/no/such/model'"),
        ],
    )
    def test_in_one_line(self, cli, flags, expected, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        code, out, err = cli(main, **{**FAST, "rounds": 5, **flags})
        assert (code, out) == (2, "")
        (last,) = err.splitlines()
        assert last.startswith("error: ")
        assert expected in last
        assert list(tmp_path.iterdir()) == []

    def test_several_problems_at_once(self, cli):
        code, _, err = cli(main, rounds=0, cases="nap")
        assert code == 2
        assert len(err.splitlines()) == 2

    def test_cases_that_cannot_be_measured_against_a_commit(self, cli, monkeypatch):
        from comigs_mlx.benchmark import trees

        monkeypatch.setattr(trees, "resolve", lambda root, name: "0" * 40)
        code, _, err = cli(main, against="HEAD", cases="decode", rounds=5)
        assert code == 2
        assert err == "error: --against measures train_step and router_step only\n"


def test_an_interrupt_is_clean(cli, monkeypatch):
    from comigs_mlx.benchmark import measure

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(measure.Runner, "run", stop)
    code, out, err = cli(main, **FAST)
    assert (code, out) == (command.INTERRUPTED, "")
    assert err.splitlines()[-1] == "interrupted"


def test_against_prints_old_and_new(cli, monkeypatch):
    from comigs_mlx.benchmark import against, trees

    def turns(root, commit, shape, cases):
        assert (commit, list(cases)) == ("0" * 40, ["router_step"])
        for index in range(shape.rounds + 1):
            for tree, seconds in (("old", 2.0), ("new", 1.0)):
                yield against.TreeRun("router_step", "ours", tree, index, seconds)

    monkeypatch.setattr(trees, "resolve", lambda root, name: "0" * 40)
    monkeypatch.setattr(against, "turns", turns)
    code, out, err = cli(main, against="HEAD", **FAST)
    assert code == 0, err
    *table, last = out.splitlines()
    assert table[-1].split()[:4] == ["ours", "2.000", "1.000", "0.50"]
    found = json.loads(last)
    assert found["against"]["commit"] == "0" * 40
    assert found["against"]["router_step"]["ours"]["ratio"] == 0.5
    assert "run 1/" in err


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1,2,4", (1, 2, 4)), (" 8 , 2", (8, 2)), ("2,2", (2,)), ("2,", (2,)), ("-1", ())],
)
def test_numbers_of_experts(text, expected):
    assert bench._counts(text) == expected


def test_help_teaches(cli):
    code, out, _ = cli(main, "--help")
    assert code == 0
    for word in (
        "--against HEAD~1",
        "glimpse",
        "gpt2",
        "default: 1,2,4,8",
        *bench.CASES,
    ):
        assert word in " ".join(out.split())
