"""The run folder: what stands in it, which save is the best, and what is refused."""

import contextlib
import errno
import json
import shutil
import subprocess
import sys

import mlx.core as mx
import pytest

import tests.tiny as tiny
from comigs_mlx.config import read_yaml
from comigs_mlx.errors import RunError
from comigs_mlx.model.base import fingerprint, load_base
from comigs_mlx.options import TrainConfig
from comigs_mlx.runs import experts, place
from comigs_mlx.runs.folder import RunFolder
from comigs_mlx.runs.session import session
from comigs_mlx.training.records import Boundary
from tests.runs.compare import tree
from tests.training.setting import same, values


@pytest.fixture
def copy(trained, tmp_path):
    """The folder of a trained run, to be spoilt."""
    return shutil.copytree(trained(), tmp_path / "run")


def config_of(tiny_folder, text_folder, run, **options):
    from comigs_mlx.config import from_dict

    paths = {"model": str(tiny_folder()), "data": str(text_folder), "run": str(run)}
    return from_dict(TrainConfig, {**tiny.TRAINING, **paths, **options})


def silent(text):
    pass


class TestContent:
    def test_comigs_json_describes_base_and_mixture(self, trained, tiny_folder):
        run = trained(generalists=2, specialists=3, rank=4, alpha=6, num_layers=1)
        base = load_base(str(tiny_folder()))
        info = json.loads((run / "comigs.json").read_text())
        mlp = ["mlp.down_proj", "mlp.gate_proj", "mlp.up_proj"]
        attention = [f"self_attn.{name}_proj" for name in "koqv"]
        assert info == {
            "format_version": 1,
            "base_model": {
                "id": str(tiny_folder()),
                "fingerprint": fingerprint(base.model, base.config),
            },
            "generalists": 2,
            "specialists": 3,
            "rank": 4,
            "scale": pytest.approx(6 / 4**0.5),
            "top_k": 2,
            "router": "topk",
            "router_options": {"bias": False, "entropy": 0.0, "soft_training": False},
            "num_layers": 1,
            "attention_lora": True,
            "targets": mlp + attention,
        }

    def test_files_are_where_the_format_says(self, trained):
        run = trained(generalists=2)
        for name in (
            "config.yaml",
            "comigs.json",
            "generalist/adapters.safetensors",
            "generalist/adapter_config.json",
            "generalist-1/adapters.safetensors",
            "generalist-1/adapter_config.json",
            "specialist/experts.safetensors",
            "router/router.safetensors",
            "metrics.jsonl",
        ):
            assert (run / name).is_file(), name
        assert (run / "state").is_dir()

    def test_metrics_have_one_object_a_report(self, trained):
        lines = (trained() / "metrics.jsonl").read_text().splitlines()
        reports = [json.loads(line) for line in lines]
        assert [report["step"] for report in reports] == [4, 6]
        for report in reports:
            assert report.keys() == {
                "step",
                "train_loss",
                "router_loss",
                "valid_loss",
                "learning_rate",
                "expert_share",
                "tokens_per_second",
                "peak_memory_gb",
            }
            assert report["expert_share"].keys() == {"generalist", "specialist"}

    def test_config_yaml_is_the_whole_configuration(self, trained, tiny_folder):
        found = read_yaml(trained() / "config.yaml")
        assert found["model"] == str(tiny_folder())
        assert tiny.TRAINING.items() <= found.items()
        assert found["learning_rate"] == 2e-3
        assert found["resume"] is False

    def test_saves_are_bounded(self, trained):
        run = trained(save_every=1, keep=3)
        names = [f"step-{n:07d}" for n in (4, 5, 6)]
        assert sorted(p.name for p in (run / "state").iterdir()) == names
        assert len(list((run / "best").iterdir())) == 1


class TestBest:
    @pytest.fixture(scope="class")
    @classmethod
    def saved(cls, tiny_folder, text_folder, tmp_path_factory):
        """Saves whose validation losses are made up; what the mixture was at each."""
        run = tmp_path_factory.mktemp("best") / "run"
        config = config_of(tiny_folder, text_folder, run, learning_rate=0.1)
        losses, seen = {1: 3.0, 2: 2.0, 3: None, 4: 2.0, 5: 2.5}, {}
        with session(config, silent) as opened:
            for event in opened.trainer.run():
                if isinstance(event, Boundary) and event.step in losses:
                    boundary = Boundary(event.step, losses[event.step])
                    opened.folder.save(opened.trainer, boundary, opened.identity)
                    seen[event.step] = values(opened.trainer.mixture)
        return RunFolder(run), seen

    def test_is_the_first_save_of_the_lowest_validation_loss(self, saved):
        folder, _ = saved
        assert folder.best() == (2, 2.0)
        assert [p.name for p in (folder.path / "best").iterdir()] == ["step-0000002"]

    def test_can_be_loaded_like_the_last_one(self, saved):
        folder, seen = saved
        assert not same(seen[2], seen[5])
        _, mixture = folder.load(best=True)
        assert same(values(mixture), seen[2])
        _, mixture = folder.load()
        assert same(values(mixture), seen[5])

    def test_made_again_replaces_itself(self, tiny_folder, text_folder, tmp_path):
        """After a resume with other text or rates the old one is of no run at all."""
        config = config_of(tiny_folder, text_folder, tmp_path / "run")
        with session(config, silent) as opened:
            for loss in (2.0, 3.0):
                boundary = Boundary(1, loss)
                opened.folder.save(opened.trainer, boundary, opened.identity)
        assert opened.folder.best() == (1, 3.0)

    def test_is_refused_where_there_is_none(self, saved, tmp_path):
        copy = shutil.copytree(saved[0].path, tmp_path / "run")
        (copy / "best" / "step-0000002" / "router" / "router.safetensors").unlink()
        with pytest.raises(
            RunError, match="step-0000002 is incomplete: leave out --best"
        ):
            RunFolder(copy).load(best=True)
        shutil.rmtree(copy / "best")
        with pytest.raises(RunError, match="has no best save yet"):
            RunFolder(copy).load(best=True)

    @pytest.mark.parametrize(
        "content",
        ["[]", '{"step": 1.5, "valid_loss": 2}', '{"step": 2}', "[" * 100_000],
    )
    def test_a_damaged_note_of_it_is_no_best_save(self, saved, tmp_path, content):
        copy = shutil.copytree(saved[0].path, tmp_path / "run")
        (copy / "best" / "step-0000002" / "best.json").write_text(content)
        assert RunFolder(copy).best() is None


class TestInterruptedSave:
    """Experts of an older step than the newest state, or missing."""

    @pytest.mark.parametrize("name", ["generalist", "specialist", "router"])
    @pytest.mark.parametrize("how", ["older", "missing"])
    def test_is_repaired_from_the_state(self, copy, trained, name, how):
        (file,) = (copy / name).glob("*.safetensors")
        whole = file.read_bytes()
        zeros = {p: 0 * a for p, a in mx.load(str(file)).items()}
        if how == "older":
            mx.save_safetensors(str(file), zeros, {"format": "mlx", "step": "4"})
        else:
            file.unlink()
        _, mixture = RunFolder(copy).load()
        _, expected = RunFolder(trained()).load()
        assert same(values(mixture), values(expected))
        assert file.read_bytes() == whole

    @pytest.fixture
    def halved(self, copy):
        """A run whose last save was interrupted before the router."""
        next((copy / "router").iterdir()).unlink()
        return copy

    @pytest.mark.parametrize("reason", ["No space left", "Read-only file system"])
    def test_is_read_where_nothing_can_be_written(
        self, halved, trained, monkeypatch, reason
    ):
        def refuse(*_):
            raise OSError(28, reason)

        monkeypatch.setattr(experts, "write", refuse)
        _, mixture = RunFolder(halved).load()
        _, expected = RunFolder(trained()).load()
        assert same(values(mixture), values(expected))

    def test_is_read_where_not_even_a_lock_can_be_had(
        self, halved, trained, monkeypatch
    ):
        def refuse(self):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(RunFolder, "in_use", refuse)
        _, mixture = RunFolder(halved).load()
        _, expected = RunFolder(trained()).load()
        assert same(values(mixture), values(expected))

    def test_a_reader_writes_nothing_into_a_run_that_trains(self, halved):
        with RunFolder(halved).in_use():
            before = tree(halved)
            RunFolder(halved).load()
            assert tree(halved) == before

    def test_a_reader_does_not_take_a_run_back(self, halved, monkeypatch):
        """Training went on and saved between its reading and its writing."""
        real = RunFolder.in_use

        @contextlib.contextmanager
        def late(folder):
            with real(folder):
                newest = max((folder.path / "state").iterdir())
                newest.rename(newest.with_name("step-0000999"))
                yield

        monkeypatch.setattr(RunFolder, "in_use", late)
        RunFolder(halved).load()
        assert not list((halved / "router").iterdir())

    def test_without_a_state_it_is_said(self, copy):
        (copy / "router" / "router.safetensors").unlink()
        shutil.rmtree(copy / "state")
        with pytest.raises(RunError, match="has no complete experts, and no save in"):
            RunFolder(copy).load()

    def test_without_a_state_whole_experts_do(self, copy, trained):
        shutil.rmtree(copy / "state")
        _, mixture = RunFolder(copy).load()
        _, expected = RunFolder(trained()).load()
        assert same(values(mixture), values(expected))

    def test_a_torn_line_of_metrics_is_dropped(self, copy):
        whole = (copy / "metrics.jsonl").read_text()
        first = whole.splitlines(keepends=True)[0]
        (copy / "metrics.jsonl").write_text(whole + '{"step": 6, "train_lo')
        RunFolder(copy).cut_metrics(6)
        assert (copy / "metrics.jsonl").read_text() == whole
        RunFolder(copy).cut_metrics(5)
        assert (copy / "metrics.jsonl").read_text() == first


class TestRefused:
    def refused(self, run):
        with pytest.raises(RunError) as error:
            RunFolder(run).load()
        return str(error.value)

    def change(self, run, **entries):
        info = json.loads((run / "comigs.json").read_text())
        (run / "comigs.json").write_text(json.dumps({**info, **entries}))

    def test_no_run(self, tmp_path):
        reason = self.refused(tmp_path / "nothing")
        assert reason.startswith(f"no run at {tmp_path / 'nothing'}")
        assert "python -m comigs_mlx.train --run" in reason

    def test_another_format_version(self, copy):
        self.change(copy, format_version=2)
        assert self.refused(copy).endswith("has format 2, this version reads 1: update")

    @pytest.mark.parametrize("content", ["", "{", "[]", "3", "{}", "\x00"])
    def test_damaged_description(self, copy, content):
        (copy / "comigs.json").write_text(content)
        assert "comigs.json, which is damaged or incomplete" in self.refused(copy)

    @pytest.mark.parametrize(
        "entries",
        [
            {"rank": "8"},
            {"rank": 0},
            {"scale": None},
            {"router": "nonsense"},
            {"generalists": 0, "specialists": 0},
            {"base_model": None},
            {"base_model": {"id": 3}},
        ],
    )
    def test_description_of_no_mixture(self, copy, entries):
        self.change(copy, **entries)
        assert "comigs.json does not describe" in self.refused(copy)

    @pytest.mark.parametrize("entries", [{"rank": 3}, {"specialists": 2}])
    def test_experts_of_another_shape(self, copy, entries):
        self.change(copy, **entries)
        assert "has shape" in self.refused(copy)

    def test_another_base_model(self, copy, tmp_path):
        other = tiny.write_model(tmp_path / "other", seed=1)
        self.change(
            copy,
            base_model={
                **json.loads((copy / "comigs.json").read_text())["base_model"],
                "id": str(other),
            },
        )
        reason = self.refused(copy)
        assert reason.startswith(f"{other} is not the base model {copy} was trained on")

    def test_a_second_process(self, copy):
        """The lock is the operating system's: it goes when its owner does."""
        hold = (
            "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); "
            "lock.acquire(); print('held', flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", hold, str(copy / ".lock")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as owner:
            assert owner.stdout.readline() == b"held\n"
            with pytest.raises(RunError) as error, RunFolder(copy).in_use():
                pass
            owner.kill()
        assert str(error.value).startswith(f"{copy} is in use by another process")
        with RunFolder(copy).in_use():
            pass

    @pytest.mark.parametrize("code", [errno.ENOTSUP, errno.ENOLCK])
    def test_a_file_system_without_locks(self, copy, monkeypatch, code):
        def flock(*_):
            raise OSError(code, "Operation not supported")

        monkeypatch.setattr("fcntl.flock", flock)
        with pytest.raises(RunError) as caught, RunFolder(copy).in_use():
            pass
        assert str(caught.value) == (
            f"{copy} is on a file system without locks (Operation not supported): "
            "choose a folder on a local disk with --run"
        )
        assert not place.is_locked(copy / ".lock")
        RunFolder(copy).load()  # reading needs none


def test_a_run_asks_for_the_revision_of_the_base_it_was_trained_on(
    trained, tmp_path, monkeypatch
):
    copy = shutil.copytree(trained(), tmp_path / "run")
    file = copy / "comigs.json"
    info = json.loads(file.read_text())
    assert "revision" not in info["base_model"]  # of a folder
    asked = []

    def load(model_id, report, revision):
        asked.append(revision)
        return load_base(model_id, report)

    monkeypatch.setattr("comigs_mlx.runs.folder.load_base", load)
    RunFolder(copy).load()
    info["base_model"]["revision"] = "0123abc"
    file.write_text(json.dumps(info))
    RunFolder(copy).load()
    assert asked == [None, "0123abc"]
