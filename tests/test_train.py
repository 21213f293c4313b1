"""`python -m comigs_mlx.train`, as a user gives it."""

import functools
import itertools
import json
import shutil
import sys
import types
from importlib.machinery import ModuleSpec

import pytest

import tests.tiny as tiny
from comigs_mlx import sync, train
from comigs_mlx.config import read_yaml
from comigs_mlx.options import TrainConfig, train_config
from comigs_mlx.platform.mac import notification
from comigs_mlx.platform.mac.awake import awake as real_awake
from comigs_mlx.runs.folder import RunFolder
from comigs_mlx.runs.session import session
from comigs_mlx.train import main
from comigs_mlx.training.level import Level
from comigs_mlx.training.trainer import Trainer
from tests.runs.compare import same_run, tree
from tests.training.setting import same, values


@pytest.fixture
def options(tiny_folder, text_folder, tmp_path):
    paths = {"model": tiny_folder(), "data": text_folder, "run": tmp_path / "run"}
    return {**tiny.TRAINING, **paths}


def refused(outcome, *expected):
    code, out, err = outcome
    assert (code, out) == (2, ""), err
    *_, last = err.splitlines()
    assert last.startswith("error: "), err
    for text in expected:
        assert text in last
    assert "Traceback" not in err


class TestOutput:
    def test_the_run_on_stdout_and_what_happens_on_stderr(self, cli, options):
        code, out, err = cli(main, **options)
        assert code == 0
        assert out == f"{options['run']}\n"
        lines = err.splitlines()
        assert "documents: train 200, valid 40, test 10" in lines
        counts = [line for line in lines if line.startswith("trainable: ")]
        blocks, rank = 2, 2
        mlp = blocks * rank * 3 * (32 + 64)  # A and B of three linears
        attention = blocks * rank * (2 * (32 + 32) + 2 * (32 + 16))  # q and o, k and v
        total = 2 * mlp + attention + blocks * 2 * 32
        assert counts == [
            f"trainable: generalist {mlp + attention:,}, specialist {mlp:,}, "
            f"router 128; in all {total:,}"
        ]
        assert any(line.startswith("step 1/12  expert loss ") for line in lines)
        assert any(line.startswith("step 12/12  router loss ") for line in lines)
        (last,) = (line for line in lines if line.startswith("step 6  train "))
        for word in ("router", "valid", "tokens/s", "generalist", "specialist", "GB"):
            assert word in last

    def test_notes_what_a_user_should_know(self, cli, options):
        _, _, err = cli(main, **{**options, "steps": 1})
        assert "note: the router will not be trained: --steps 1 is less than" in err


class TestRoundTrip:
    def test_config_yaml_trains_the_same_again(self, cli, options, trained, tmp_path):
        saved, run = trained() / "config.yaml", tmp_path / "again"
        assert cli(main, config=saved, run=run)[0] == 0
        same_run(run, trained())

    def test_flags_win_over_the_file(self, tmp_path):
        file = tmp_path / "my.yaml"
        file.write_text("rank: 4\nlearning-rate: 1e-4\nsteps: 7\n")
        config = train_config(["--config", str(file), "--steps", "9"])
        assert config.experts.rank == 4
        assert config.training.learning_rate == 1e-4
        assert config.training.steps == 9

    def test_conversations_resume_exactly_too(self, cli, options, tmp_path):
        given = {**options, "data": chats(tmp_path / "chats"), "grad_accumulation": 2}
        given |= {"seq_len": 64, "mask_prompt": True}
        assert cli(main, **given, seed=3)[0] == 0
        whole = options["run"].rename(tmp_path / "whole")
        config = train_config(tiny.flags(**given, seed=3))
        with session(config, lambda text: None) as opened:
            trainer = opened.trainer
            list(opened.run(stop=lambda: trainer.position.step == 3))
            assert trainer.position.step == 3
        assert cli(main, run=options["run"], resume=True)[0] == 0
        same_run(options["run"], whole)


def chats(folder):
    folder.mkdir()
    for name, count in (("train", 30), ("valid", 8), ("test", 4)):
        rows = [
            {
                "messages": [
                    {"role": "user", "content": f"{name} {i}" * (i % 3 + 1)},
                    {"role": "assistant", "content": f"answer {i}" * (i % 4 + 1)},
                ]
            }
            for i in range(count)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
    return folder


class TestOptions:
    def test_packing_and_checkpointing_and_joint_training_run(self, cli, options):
        given = {**options, "router": "joint", "specialists": 2, "top_k": 2}
        code, _, err = cli(main, "--packing", "--grad-checkpoint", **given)
        assert code == 0, err
        info = json.loads((options["run"] / "comigs.json").read_text())
        assert (info["specialists"], info["top_k"]) == (2, 2)

    def test_checkpointing_changes_memory_only(self, cli, options, trained):
        assert cli(main, "--grad-checkpoint", **options)[0] == 0
        _, found = RunFolder(options["run"]).load()
        _, expected = RunFolder(trained()).load()
        found, expected = values(found), values(expected)
        for path, array in expected.items():
            assert abs(found[path] - array).max() <= 1e-5

    def test_another_seed_is_another_run(self, cli, options, trained):
        assert cli(main, **options, seed=1)[0] == 0
        _, found = RunFolder(options["run"]).load()
        _, expected = RunFolder(trained()).load()
        assert not same(values(found), values(expected))

    def test_the_default_run_is_named_after_the_data(self, tmp_path, monkeypatch):
        (here := tmp_path / "letters" / "drafts").mkdir(parents=True)
        monkeypatch.chdir(here)
        for data, name in (
            ("~/Notes/", "Notes"),
            ("a/b.txt", "b"),
            ("demo", "demo"),
            ("demo:code", "demo-code"),
            (".", "drafts"),
            ("..", "letters"),  # never the folder one stands in
            ("/", "run"),
        ):
            assert str(train_config(["--data", data]).folder) == f"runs/{name}"

    def test_nothing_given_is_the_demo(self):
        assert train_config([]) == TrainConfig()
        assert (TrainConfig().model, TrainConfig().data.data) == ("demo", "demo")


class TestTracker:
    def test_every_report_is_logged(self, cli, options, monkeypatch):
        calls, module = [], types.ModuleType("trackio")
        module.__spec__ = ModuleSpec("trackio", None)
        module.init = lambda **given: calls.append(("init", given))
        module.log = lambda metrics, step: calls.append(("log", step, metrics))
        module.finish = lambda: calls.append(("finish",))
        monkeypatch.setitem(sys.modules, "trackio", module)
        assert cli(main, **options, report_to="trackio")[0] == 0
        assert [call[:1] + call[1:2] * (call[0] == "log") for call in calls] == [
            ("init",),
            ("log", 4),
            ("log", 6),
            ("finish",),
        ]
        assert calls[0][1]["config"]["rank"] == 2
        lines = (options["run"] / "metrics.jsonl").read_text().splitlines()
        assert calls[1][2]["train_loss"] == json.loads(lines[0])["train_loss"]

    def test_a_missing_one_changes_nothing(self, cli, options, monkeypatch):
        monkeypatch.setitem(sys.modules, "trackio", None)
        outcome = cli(main, **options, report_to="trackio")
        refused(outcome, "pip install trackio")
        assert not options["run"].exists()


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"data": "/no/such/folder"}, "no such file or folder"),
            ({"model": "/no/such/model"}, "no model folder '/no/such/model'"),
            ({"steps": 0}, "--steps 0 must be at least 1"),
            ({"steps": "many"}, "invalid int value: 'many'"),
            ({"rank": 0}, "--rank 0 must be at least 1"),
            ({"top_k": 3}, "--top-k 3 is more than the 2 experts"),
            ({"learning_rate": "nan"}, "--learning-rate nan must be"),
            ({"generalist_importance": "-1"}, "--generalist-importance"),
            ({"balance_weight": "inf"}, "--balance-weight"),
            ({"router": "sometimes"}, "invalid choice: 'sometimes'"),
            ({"scaling": "3"}, "invalid choice: '3'"),
            ({"seq_len": 1000000}, "expected at least 1000001 tokens"),
            ({"mask_prompt": True}, "--mask-prompt"),
        ],
    )
    def test_what_cannot_work(self, cli, options, changes, expected):
        refused(cli(main, **{**options, **changes}), expected)
        assert not options["run"].exists()

    def test_too_little_text(self, cli, options, tmp_path):
        (tmp_path / "one.txt").write_text("one document\n")
        outcome = cli(main, **{**options, "data": tmp_path / "one.txt"})
        refused(outcome, "is empty (documents: ")
        assert not options["run"].exists()

    def test_a_model_that_does_not_fit(self, cli, options, tiny_folder):
        model = tiny_folder("mixtral")
        refused(cli(main, **{**options, "model": model}), "'mixtral'")
        assert not options["run"].exists()

    def test_a_run_that_exists_keeps_every_byte(self, cli, options, trained):
        run = shutil.copytree(trained(), options["run"])
        before = tree(run)
        refused(cli(main, **options), f"{run} exists: add --resume to continue it")
        outcome = cli(main, "--resume", run=run, rank=3)
        refused(outcome, "--rank is 2 there, 3 here")
        assert tree(run) == before

    def test_nothing_to_resume(self, cli, options):
        outcome = cli(main, "--resume", run=options["run"])
        refused(outcome, f"nothing to resume: there is no run at {options['run']}")
        assert not options["run"].exists()

    def test_a_folder_that_cannot_be_made(self, cli, options, tmp_path):
        (tmp_path / "file").write_text("mine")
        outcome = cli(main, **{**options, "run": tmp_path / "file" / "run"})
        refused(outcome, str(tmp_path / "file"))
        assert (tmp_path / "file").read_text() == "mine"


class TestNaN:
    def test_stops_names_the_step_and_keeps_the_last_save(self, cli, options, trained):
        """From a good save on, with a learning rate that breaks everything."""
        run = shutil.copytree(trained(), options["run"])
        whole = tree(run)
        flags = {"run": run, "steps": 12, "learning_rate": 1e30}
        code, out, err = cli(main, "--resume", **flags)
        assert (code, out) == (2, "")
        *_, last = err.splitlines()
        assert last.startswith("error: ")
        assert "step 8" in last
        assert "--learning-rate" in last
        found = tree(run)
        for name in whole:
            if name not in ("config.yaml", "metrics.jsonl"):
                assert found[name] == whole[name], name
        assert cli(main, "--resume", run=run, steps=8, learning_rate=1e-3)[0] == 0
        assert read_yaml(run / "config.yaml")["learning_rate"] == 1e-3
        assert (run / "state" / "step-0000008").is_dir()


WATCHDOG = "[METAL] Command buffer execution failed: Impacting Interactivity (0000000e)"


class TestTheGpuWatchdog:
    """macOS ends the work on the GPU in a step: the run goes on from its last save."""

    @pytest.fixture
    def killed(self, monkeypatch):
        """Let steps fail: those of these numbers, counted over all tries."""

        def at(*numbers, error=WATCHDOG):
            made, real = itertools.count(1), Level.step

            def step(*args, **options):
                if next(made) in numbers:
                    raise RuntimeError(error)
                return real(*args, **options)

            monkeypatch.setattr(Level, "step", step)

        return at

    @pytest.mark.parametrize("step", [1, 7], ids=["before a save", "after one"])
    def test_once_it_goes_on_by_itself_and_ends_the_same(
        self, cli, options, trained, killed, step
    ):
        killed(step)
        code, _, err = cli(main, **options)
        assert code == 0, err
        assert f"note: {WATCHDOG}: going on from the last save" in err
        same_run(options["run"], trained())

    @pytest.mark.parametrize("retries", [0, 2])
    def test_after_so_many_tries_it_says_what_helps(
        self, cli, options, killed, retries
    ):
        killed(*range(7, 20))
        code, out, err = cli(main, **options, retries=retries)
        assert (code, out) == (2, "")
        assert err.count("going on from the last save") == retries
        assert err.splitlines()[-1].startswith("error: macOS ended the work on the GPU")
        assert RunFolder(options["run"]).best() is not None  # the last save is kept

    def test_other_errors_are_not_tried_again(self, cli, options, killed):
        killed(7, error="[METAL] Command buffer execution failed: Insufficient Memory")
        code, _, err = cli(main, **options)
        assert code == 2
        assert "going on" not in err
        assert "not enough memory" in err


class TestNotifications:
    """The run's name and its state, and only where its user may have gone away."""

    @pytest.fixture
    def shown(self, monkeypatch):
        found = []
        monkeypatch.setattr(notification, "show", lambda *words: found.append(words))
        return found

    def test_at_the_end_of_a_long_run_which_stays_awake(
        self, options, shown, monkeypatch
    ):
        started = []
        monkeypatch.setattr(train, "NOTIFY_SECONDS", 0)
        awake = functools.partial(real_awake, start=started.append)
        monkeypatch.setattr("comigs_mlx.platform.mac.awake.awake", awake)
        main(tiny.flags(**{**options, "steps": 1}))
        assert shown == [("run", "training is done")]
        assert [argv[1] for argv in started] == ["-is"]

    def test_where_it_failed(self, cli, options, shown, monkeypatch):
        monkeypatch.setattr(train, "NOTIFY_SECONDS", 0)
        refused(cli(main, **{**options, "data": options["run"] / "none"}), "none")
        assert shown == [("run", "training has failed")]

    def test_not_of_a_short_run_or_unwanted(self, cli, options, shown, monkeypatch):
        cli(main, **{**options, "data": options["run"] / "none"})
        monkeypatch.setattr(train, "NOTIFY_SECONDS", 0)
        cli(main, "--no-notify", **{**options, "data": options["run"] / "none"})
        assert shown == []


class TestPatience:
    @pytest.fixture
    def measured(self, monkeypatch):
        """Let every measurement be one higher than the one before."""
        losses = itertools.count(3.0)
        monkeypatch.setattr(Trainer, "_valid_loss", lambda trainer: next(losses))

    def test_ends_early_with_the_best_save_and_can_go_on(self, cli, options, measured):
        run = options["run"]
        code, out, err = cli(main, **options, patience=1)
        assert (code, out) == (0, f"{run}\n")
        assert "stopped early at step 4: " in err
        assert "the best save, of step 2 (valid 3.000), is used with --best" in err
        assert RunFolder(run).best() == (2, 3.0)
        code, _, err = cli(main, run=run, resume=True)
        assert code == 0
        assert "raise --patience 1 to go on" in err
        code, _, err = cli(main, run=run, resume=True, patience=0)
        assert "stopped early" not in err
        assert RunFolder(run).read_info()
        assert sorted(path.name for path in (run / "state").iterdir())[-1].endswith("6")

    def test_in_a_federation_it_contributes_what_it_has(
        self, cli, options, measured, tmp_path
    ):
        """It stops within its second round, which it ends there."""
        place, model = tmp_path / "place", options.pop("model")
        options.pop("steps")
        shape = {"rank": options["rank"], "model": model}
        founding = {"federation": place, "quorum": 1, **shape}
        assert cli(sync.main, "init", **founding)[0] == 0
        joined = {"federation": place, "participant": "ann", "wait": 0}
        rounds = {"rounds": 3, "local_steps": 4, "save_every": 2, "patience": 2}
        code, _, err = cli(main, **{**options, **joined, **rounds, "model": model})
        assert code == 0, err
        assert "stopped early at step 6: " in err
        assert "step 6  contributed to round 2" in err
