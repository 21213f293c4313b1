"""Which text reaches which level, and what a resume refuses or notes."""

import shutil

import numpy as np
import pytest

import tests.tiny as tiny
from comigs_mlx.config import from_dict, read_yaml
from comigs_mlx.errors import ConfigError, DataError, RunError, UnsupportedModel
from comigs_mlx.options import TrainConfig, train_config
from comigs_mlx.runs.folder import RunFolder
from comigs_mlx.runs.session import session
from comigs_mlx.training.records import Boundary, Step
from tests.runs.compare import tree

EOS = 256
LETTERS = {"train": "abcdefgh", "valid": "ijklmnop", "test": "qrstuvwx"}
"""tiny.write_text gives each split an alphabet of its own."""


def config_of(model, text, run, **options):
    paths = {"model": str(model), "data": str(text), "run": str(run)}
    return from_dict(TrainConfig, {**tiny.TRAINING, **paths, **options})


@pytest.fixture
def config(tiny_folder, text_folder, tmp_path):
    return config_of(tiny_folder(), text_folder, tmp_path / "run")


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained(), tmp_path / "copy")


def quiet(text):
    pass


def letters(batches):
    """The letters that occur in batches of single bytes."""
    tokens = np.unique(np.concatenate([batch.tokens.ravel() for batch in batches]))
    alphabet = byte_alphabet()
    return {alphabet[t] for t in tokens.tolist() if t != EOS} - {" ", "\n"}


def byte_alphabet():
    """Token id -> character, for the tokenizer of `tiny.write_tokenizer`."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


@pytest.mark.parametrize("router", ["alternating", "joint", "none"])
def test_every_level_sees_its_own_split_and_none_sees_test(config, router):
    config = from_dict(
        TrainConfig,
        {**tiny.TRAINING, "model": config.model, "data": config.data.data}
        | {"run": config.run, "router": router, "grad_accumulation": 2},
    )
    seen = {"experts": [], "routers": [], "valid": []}

    def noting(owner, name, function):
        def call(batches, *args):
            batches = list(batches)
            seen[owner] += batches
            return function(batches, *args)

        return call

    with session(config, quiet) as opened:
        trainer = opened.trainer
        trainer.experts.step = noting("experts", "step", trainer.experts.step)
        if trainer.routers is not None:
            trainer.routers.step = noting("routers", "step", trainer.routers.step)
        trainer.evaluator.score = noting("valid", "score", trainer.evaluator.score)
        list(opened.run(stop=lambda: False))
    space = {byte_alphabet()[0]} | {"\u0120", "\u010a"}  # ByteLevel's space, newline
    assert letters(seen["experts"]) - space == set(LETTERS["train"])
    assert letters(seen["valid"]) - space == set(LETTERS["valid"])
    if router == "alternating":
        assert letters(seen["routers"]) - space == set(LETTERS["valid"])
    else:
        assert seen["routers"] == []
    assert len(seen["experts"]) == 2 * 6


def test_documents_are_counted(config):
    with session(config, quiet) as opened:
        assert opened.documents == {"train": 200, "valid": 40, "test": 10}


def test_stopping_saves_at_the_next_boundary_and_nowhere_else(config):
    events = []
    with session(config, quiet) as opened:
        for event in opened.run(stop=lambda: len(events) > 4):
            events.append(event)
        states = sorted(p.name for p in opened.folder.states.iterdir())
    # E1 |1 E2 R1 R2 |2 (a save) and stop
    assert [e.level for e in events if isinstance(e, Step)] == [*["expert"] * 2] + [
        "router"
    ] * 2
    assert isinstance(events[-1], Boundary)
    assert states == ["step-0000002"]


class TestResume:
    def resumed(self, run, *flags):
        return train_config(["--run", str(run), "--resume", *flags])

    def test_takes_every_option_from_the_run(self, copy):
        config = self.resumed(copy)
        assert config.experts.rank == tiny.TRAINING["rank"]
        assert config.saving.save_every == tiny.TRAINING["save_every"]
        assert config.folder == copy
        assert config.resume

    def test_goes_on_with_more_steps_and_remembers_them(self, copy):
        with session(self.resumed(copy, "--steps", "8"), quiet) as opened:
            assert opened.trainer.position.step == 6
            list(opened.run(stop=lambda: False))
        assert opened.trainer.position.step == 8
        again = self.resumed(copy)
        assert again.training.steps == 8
        assert read_yaml(copy / "config.yaml")["resume"] is False
        fresh = from_dict(TrainConfig, {"run": str(copy)})
        with (
            pytest.raises(RunError, match="exists: add --resume"),
            session(fresh, quiet),
        ):
            pass

    @pytest.mark.parametrize(
        ("flag", "value", "there", "here"),
        [
            ("--rank", "4", "2", "4"),
            ("--specialists", "2", "1", "2"),
            ("--seed", "1", "0", "1"),
            ("--router-every", "3", "2", "3"),
            ("--model", "demo", None, "'demo'"),
            ("--data", "demo", None, "'demo'"),
        ],
    )
    def test_refuses_other_options(self, copy, flag, value, there, here):
        before = tree(copy)
        with pytest.raises(ConfigError) as error:
            self.resumed(copy, flag, value)
        expected = f"--resume continues the run as it was: {flag} is "
        assert str(error.value).startswith(expected)
        assert f"{here} here" in str(error.value)
        assert there is None or f"{there} there" in str(error.value)
        assert tree(copy) == before

    def test_accepts_the_same_options_again(self, copy):
        assert self.resumed(copy, "--rank", "2", "--alpha", "16").experts.rank == 2

    def test_notes_text_that_has_changed(self, copy, text_folder, tmp_path):
        text = shutil.copytree(text_folder, tmp_path / "text")
        rewrite(copy / "config.yaml", str(text_folder), str(text))
        notes = []
        with session(self.resumed(copy), notes.append):
            pass
        assert not any("changed" in note for note in notes)
        with (text / "train.txt").open("a") as file:
            file.write("\n\none more document\n")
        with session(self.resumed(copy), notes.append):
            pass
        assert any(
            note.startswith("note: the text has changed since the run was saved")
            for note in notes
        )

    def test_refuses_a_base_model_that_has_changed(self, copy, tiny_folder, tmp_path):
        model = tiny.write_model(tmp_path / "model", seed=3)
        rewrite(copy / "config.yaml", str(tiny_folder()), str(model))
        before = tree(copy)
        config = self.resumed(copy)
        with (
            pytest.raises(RunError, match="belongs to another run: base_model is"),
            session(config, quiet),
        ):
            pass
        assert tree(copy) == before

    def test_refuses_a_damaged_save_and_takes_the_one_before(self, copy):
        file = copy / "state" / "step-0000006" / "values.safetensors"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        before, config = tree(copy), self.resumed(copy)
        with pytest.raises(RunError, match="is damaged"), session(config, quiet):
            pass
        assert tree(copy) == before
        shutil.rmtree(file.parent)
        with session(config, quiet) as opened:
            assert opened.trainer.position.step == 4

    def test_a_finished_run_has_nothing_left_to_do(self, copy):
        before = tree(copy)
        with session(self.resumed(copy), quiet) as opened:
            assert opened.trainer.steps_left == 0
            assert list(opened.run(stop=lambda: False)) == []
        changed = {name for name in before if tree(copy)[name] != before[name]}
        assert changed <= {"config.yaml"}  # the copy's own path


class TestNothingIsWritten:
    """Everything is checked before the run's folder is made."""

    def test_for_text_that_is_too_short(self, config, tmp_path):
        text = tiny.write_text(tmp_path / "short", documents=5)
        (text / "valid.txt").write_text("few words\n")
        config = config_of(config.model, text, config.run)
        with pytest.raises(DataError, match="expected at least 17 tokens"):
            session(config, quiet).__enter__()
        assert not config.folder.exists()

    def test_for_a_model_that_does_not_fit(self, config, tiny_folder):
        model = tiny_folder("mixtral")
        config = config_of(model, config.data.data, config.run)
        with pytest.raises(UnsupportedModel, match="'mixtral' is itself a mixture"):
            session(config, quiet).__enter__()
        assert not config.folder.exists()

    def test_into_a_folder_that_holds_something(self, config):
        config.folder.mkdir()
        (config.folder / "thesis.tex").write_text("mine")
        with pytest.raises(RunError, match="exists: add --resume"):
            session(config, quiet).__enter__()
        assert [p.name for p in config.folder.iterdir()] == ["thesis.tex"]

    def test_into_a_file(self, config):
        config.folder.write_text("mine")
        with pytest.raises(RunError, match="is a file: choose a folder with --run"):
            session(config, quiet).__enter__()
        assert config.folder.read_text() == "mine"

    def test_while_another_process_trains_there(self, config):
        config.folder.mkdir()
        with (
            RunFolder(config.folder).in_use(),
            pytest.raises(RunError, match="is in use by another process"),
            session(config, quiet),
        ):
            pass
        assert [p.name for p in config.folder.iterdir()] == [".lock"]


def rewrite(file, old, new):
    content = file.read_text()
    assert old in content
    file.write_text(content.replace(old, new))
