"""The options of the commands: their help, their ranges, `--resume`, `--experts`."""

import importlib
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

import comigs_mlx
from comigs_mlx import registry
from comigs_mlx.bench import BenchConfig
from comigs_mlx.chat import ChatConfig
from comigs_mlx.config import dump_yaml, from_dict, leaves, read_yaml, to_dict
from comigs_mlx.errors import ConfigError
from comigs_mlx.evaluate import EvaluateConfig
from comigs_mlx.generate import GenerateConfig
from comigs_mlx.options import (
    CHANGEABLE,
    ExpertOptions,
    TrainConfig,
    parse_experts,
    train_config,
)
from comigs_mlx.reports.options import ReportConfig
from comigs_mlx.simulation.options import SimulateConfig

PACKAGE = Path(comigs_mlx.__file__).parent
COMMANDS = sorted(
    path.stem
    for path in PACKAGE.glob("*.py")
    if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
)
CONFIGS = {
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "generate": GenerateConfig,
    "chat": ChatConfig,
    "report": ReportConfig,
}
HEAVY = ("mlx.core", "mlx_lm", "numpy", "transformers", "huggingface_hub", "yaml")
HEAVY += ("gradio",)
PROGRAMS = {"__main__": r"comigs_mlx COMMAND", "app": r"(comigs_mlx\.)?app"}
"""What is called otherwise than `comigs_mlx.<command>`, as a pattern."""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_works_without_importing_anything_heavy(command):
    """It must not take seconds, nor need a model, a GPU or the network."""
    code = (
        "import sys\n"
        f"from comigs_mlx.{command} import main\n"
        "code = 0\ntry:\n    main(['--help'])\n"
        "except SystemExit as done:\n    code = done.code\n"
        "print('code', code)\n"
        f"print('heavy', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-2:] == ["code 0", "heavy []"]
    program = PROGRAMS.get(command, rf"comigs_mlx\.{command}")
    assert re.search(rf"^usage: python -m {program} ", done.stdout, re.MULTILINE)
    assert done.stderr == ""


def test_the_first_commands_are_there():
    assert {"train", "evaluate", "generate"} <= set(COMMANDS)


@pytest.mark.parametrize("command", CONFIGS)
def test_every_option_stands_in_help_with_a_sentence(command, capsys):
    main = importlib.import_module(f"comigs_mlx.{command}").main
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert done.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for field in leaves(CONFIGS[command]):
        assert f"--{field.name.replace('_', '-')}" in text
        assert len(field.metadata["help"]) > 5
        assert field.metadata["help"] in text


@pytest.mark.parametrize("kind", CONFIGS.values())
def test_option_names_are_used_once(kind):
    """The YAML form is flat: two options of one name would overwrite each other."""
    names = [field.name for field in leaves(kind)]
    assert len(names) == len(set(names))


def test_the_public_flags_of_train():
    stable = (
        "model data run steps batch_size seq_len rank specialists generalists top_k "
        "learning_rate router_every router_steps seed resume save_every "
        "grad_accumulation grad_checkpoint mask_prompt num_layers report_to"
    )
    assert set(stable.split()) <= {field.name for field in leaves(TrainConfig)}


def test_defaults_are_the_papers_setting():
    config = TrainConfig()
    experts, training = config.experts, config.training
    assert (experts.generalists, experts.specialists, experts.top_k) == (1, 1, 2)
    assert (experts.rank, experts.alpha) == (8, 16.0)
    assert experts.scale == pytest.approx(16 / math.sqrt(8))
    assert (training.learning_rate, training.weight_decay) == (2e-3, 0.01)
    assert (training.router_every, training.router_steps) == (30, 10)
    assert training.balance_weight == 0.01
    assert config.model == config.data.data == "demo"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"rank": 0}, "--rank 0 must be at least 1"),
        ({"top_k": 0}, "--top-k 0 must be at least 1"),
        ({"specialists": -1}, "--specialists -1 must be at least 0"),
        (
            {"generalists": 0, "specialists": 0},
            "--generalists and --specialists are both 0: need at least one expert",
        ),
        (
            {"top_k": 3},
            "--top-k 3 is more than the 2 experts: lower it, or raise --generalists or "
            "--specialists",
        ),
        ({"alpha": 0.0}, "--alpha 0.0 must be a number above 0"),
        ({"alpha": math.nan}, "--alpha nan must be a finite number"),
        ({"alpha": math.inf}, "--alpha inf must be a finite number"),
        ({"num_layers": 0}, "--num-layers 0 must be at least 1, or -1 for all"),
        ({"num_layers": -2}, "--num-layers -2 must be at least 1, or -1 for all"),
        (
            {"router_type": "magic"},
            "--router-type: unknown router 'magic': choose one of "
            + ", ".join(registry.names("router")),
        ),
        ({"batch_size": 0}, "--batch-size 0 must be at least 1"),
        ({"memory_limit": 0}, "--memory-limit 0.0 must be from 0.1 to 100000 (GB)"),
        (
            {"memory_limit": math.nan},
            "--memory-limit nan must be a finite number",
        ),
        (
            {"memory_limit": math.inf},
            "--memory-limit inf must be a finite number",
        ),
        ({"seq_len": 0}, "--seq-len 0 must be at least 1"),
        ({"steps": 0}, "--steps 0 must be at least 1"),
        ({"grad_accumulation": 0}, "--grad-accumulation 0 must be at least 1"),
        ({"router_every": 0}, "--router-every 0 must be at least 1"),
        ({"router_steps": 0}, "--router-steps 0 must be at least 1"),
        ({"seed": -1}, "--seed -1 must be at least 0"),
        ({"learning_rate": 0.0}, "--learning-rate 0.0 must be a number above 0"),
        ({"learning_rate": math.inf}, "--learning-rate inf must be a finite number"),
        ({"weight_decay": -0.1}, "--weight-decay -0.1 must be at least 0"),
        ({"weight_decay": math.inf}, "--weight-decay inf must be a finite number"),
        ({"balance_weight": math.nan}, "--balance-weight nan must be a finite number"),
        (
            {"generalist_importance": -1.0},
            "--generalist-importance -1.0 must be at least 0",
        ),
        ({"report_every": 0}, "--report-every 0 must be at least 1"),
        ({"save_every": 0}, "--save-every 0 must be at least 1"),
        ({"keep": 0}, "--keep 0 must be at least 1"),
        ({"valid_batches": 0}, "--valid-batches 0 must be at least 1"),
        ({"batch_size": 2**16 + 1}, "--batch-size 65537 must be at most 65536"),
        ({"seq_len": 2**62}, f"--seq-len {2**62} must be at most 16777216"),
        ({"rank": 2**32}, "--rank 4294967296 must be at most 65536"),
        ({"specialists": 2000}, "--specialists 2000 must be at most 1024"),
        ({"dp_clip": 1.0}, "--dp-clip and --dp-noise go together: give both"),
        ({"dp_noise": 1.0}, "--dp-clip and --dp-noise go together: give both"),
    ],
)
def test_values_out_of_range_are_named(values, text):
    with pytest.raises(ConfigError) as error:
        from_dict(TrainConfig, values)
    assert text in str(error.value).splitlines()


@pytest.mark.parametrize("kind", [EvaluateConfig, BenchConfig, SimulateConfig])
@pytest.mark.parametrize("name", ["batch_size", "seq_len"])
def test_bounds_of_a_size_are_the_same_in_every_command(kind, name):
    most = {f.name: f.metadata["most"] for f in leaves(TrainConfig)}[name]
    with pytest.raises(ConfigError, match=f"must be at most {most}"):
        from_dict(kind, {name: most + 1})
    with pytest.raises(ConfigError) as error:  # others are missing or not there
        from_dict(kind, {name: most, "no_such_option": 1})
    assert "at most" not in str(error.value)


def test_all_mistakes_of_all_groups_are_said_at_once():
    values = {"rank": "8", "steps": 0, "batch_size": 0, "keep": 0, "colour": 1}
    with pytest.raises(ConfigError) as error:
        from_dict(TrainConfig, values)
    assert sorted(str(error.value).splitlines()) == [
        "--batch-size 0 must be at least 1",
        "--keep 0 must be at least 1",
        "--steps 0 must be at least 1",
        "rank: expected int, got '8'",
        "unknown option 'colour'",
    ]


@pytest.mark.parametrize("kind", CONFIGS.values())
def test_defaults_survive_yaml(kind, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(dump_yaml(kind()), encoding="utf-8")
    assert read_yaml(file) == to_dict(kind())


class TestExpertOptions:
    def test_names_in_order(self):
        names = ExpertOptions(generalists=2, specialists=3).names
        assert names == [
            "generalist",
            "generalist-1",
            "specialist",
            "specialist-1",
            "specialist-2",
        ]
        assert len(set(names)) == ExpertOptions(generalists=2, specialists=3).experts

    @pytest.mark.parametrize(
        ("scaling", "scale"), [("rslora", 16 / math.sqrt(4)), ("lora", 16 / 4)]
    )
    def test_scale(self, scaling, scale):
        assert ExpertOptions(rank=4, scaling=scaling).scale == scale

    def test_default_top_k_is_lowered_to_a_single_expert(self):
        config = from_dict(TrainConfig, {"specialists": 0})
        assert config.experts.resolved().top_k == 1
        assert ExpertOptions(specialists=4).resolved().top_k == 2


class TestFolder:
    @pytest.mark.parametrize(
        ("values", "folder"),
        [
            ({}, "runs/demo"),
            ({"data": "/home/me/Notes/"}, "runs/Notes"),
            ({"data": "diary.txt"}, "runs/diary"),
            ({"data": "demo:code"}, "runs/demo-code"),
            ({"data": "owner/texts"}, "runs/texts"),
            ({"data": "/"}, "runs/run"),
            ({"data": "x", "run": "here/there"}, "here/there"),
        ],
    )
    def test_run_folder(self, values, folder):
        assert from_dict(TrainConfig, values).folder == Path(folder)

    def test_home_is_expanded(self, monkeypatch):
        monkeypatch.setenv("HOME", "/somewhere")
        config = from_dict(TrainConfig, {"run": "~/runs/a"})
        assert config.folder == Path("/somewhere/runs/a")


class TestResume:
    @pytest.fixture
    def run(self, tmp_path):
        """A run trained with rank 4, and flags that continue it."""
        folder = tmp_path / "run"
        folder.mkdir()
        values = {"run": str(folder), "rank": 4, "steps": 20, "learning_rate": 1e-5}
        config = from_dict(TrainConfig, values)
        (folder / "config.yaml").write_text(dump_yaml(config), encoding="utf-8")
        return ["--run", str(folder), "--resume"]

    def test_options_come_from_the_run(self, run):
        config = train_config(run)
        assert (config.experts.rank, config.training.steps) == (4, 20)
        assert config.training.learning_rate == 1e-5
        assert config.resume

    def test_what_may_change_is_taken_from_the_flags(self, run):
        config = train_config([*run, "--steps", "40", "--keep", "5", "--rank", "4"])
        assert (config.training.steps, config.saving.keep) == (40, 5)

    def test_what_may_not_change_is_refused_all_at_once(self, run):
        with pytest.raises(ConfigError) as error:
            train_config([*run, "--rank", "8", "--seed", "1", "--steps", "40"])
        lines = str(error.value).splitlines()
        assert len(lines) == 2
        assert lines[0].startswith("--resume continues the run as it was: --")
        assert any("--rank is 4 there, 8 here" in line for line in lines)
        assert any("--seed is 0 there, 1 here" in line for line in lines)
        assert "drop it or start a new --run" in lines[1]

    def test_without_a_run_there_is_nothing_to_resume(self, tmp_path):
        with pytest.raises(ConfigError, match="nothing to resume: there is no run at"):
            train_config(["--run", str(tmp_path / "none"), "--resume"])

    def test_changeable_options_exist(self):
        assert {field.name for field in leaves(TrainConfig)} >= CHANGEABLE


@pytest.mark.parametrize(
    ("text", "selection"),
    [
        ("auto", "auto"),
        ("base", "base"),
        ("generalist", "generalist"),
        ("0.3,0.7", (0.3, 0.7)),
        ("1", (1.0,)),
        ("0, 1e-1 ,.5", (0.0, 0.1, 0.5)),
        ("", ""),
    ],
)
def test_experts_are_a_name_or_numbers(text, selection):
    assert parse_experts(text) == selection


@pytest.mark.parametrize("text", ["0.3;0.7", "0.3,", "specialist-1", "1,two"])
def test_experts_that_are_neither(text):
    with pytest.raises(ConfigError) as error:
        parse_experts(text)
    assert str(error.value) == (
        f"--experts {text}: expected auto, base, generalist, specialist, or weights "
        "such as 0.3,0.7"
    )


@pytest.mark.parametrize("name", ["dp_clip", "dp_noise"])
def test_clipping_and_noise_go_together(name):
    """One alone would give no privacy, and the user would not know."""
    with pytest.raises(ConfigError) as caught:
        from_dict(TrainConfig, {name: 1.0})
    assert str(caught.value) == "--dp-clip and --dp-noise go together: give both"
    from_dict(TrainConfig, {"dp_clip": 1.0, "dp_noise": 1.0})
