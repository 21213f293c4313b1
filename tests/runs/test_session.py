"""Which text reaches which level, and what a resume refuses or notes."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest

import tests.tiny as tiny
from comigs_mlx.config import from_dict, read_yaml
from comigs_mlx.data import content
from comigs_mlx.errors import (
    ConfigError,
    DataError,
    ModelError,
    RunError,
    UnsupportedModel,
)
from comigs_mlx.model import params
from comigs_mlx.model.tables import Tables
from comigs_mlx.options import TrainConfig, train_config
from comigs_mlx.runs import session as session_module
from comigs_mlx.runs.folder import RunFolder
from comigs_mlx.runs.session import _work, session
from comigs_mlx.training import checkpoint
from comigs_mlx.training.records import Boundary, Step
from tests.runs.compare import tree

EOS = 256
LETTERS = {"train": "abcdefgh", "valid": "ijklmnop", "test": "qrstuvwx"}
"""tiny.write_text gives each split an alphabet of its own."""


LEFT = ".config-0123456789abcdef.tmp.yaml"
"""A file that was being written when the process was killed."""


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


def test_the_seed_decides_the_order_of_the_text(config):
    def batches(seed):
        given = config_of(config.model, config.data.data, config.run, seed=seed)
        with session(given, quiet) as opened:
            sources = (opened.trainer.train, opened.trainer.router_train)
            found = [source.batch(0).tokens for source in sources]
        shutil.rmtree(given.folder)
        return found

    first, again, other = batches(3), batches(3), batches(4)
    for level in (0, 1):
        assert np.array_equal(first[level], again[level])
        assert not np.array_equal(first[level], other[level])


def test_taken_generalists_leave_everything_else_as_it_is(copy):
    """After a pull the save holds new generalists; training has gone on since."""
    with session(train_config(["--run", str(copy), "--resume"]), quiet) as opened:
        model = opened.trainer.mixture.model
        saved = params.flatten(params.select(model, params.ROLES))
        model.update(params.unflatten({p: a + 1.0 for p, a in saved.items()}))
        opened.take_generalists()
        now = params.flatten(params.select(model, params.ROLES))
        for path, array in saved.items():
            moved = 0.0 if params.role_of(path) == "generalist" else 1.0
            assert mx.allclose(now[path], array + moved, atol=1e-6), path


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


def chat_config(config, tmp_path):
    """Conversations of two very different lengths, in `config`'s place."""
    folder = tmp_path / "chats"
    folder.mkdir()
    rows = [
        {"prompt": f"who is {i}", "completion": "me " * (1 + 20 * (i % 2))}
        for i in range(20)
    ]
    lines = [json.dumps(row) for row in rows]
    (folder / "train.jsonl").write_text("\n".join(lines[:14]))
    (folder / "valid.jsonl").write_text("\n".join(lines[14:]))
    return config_of(config.model, folder, config.run, seq_len=128)


def refuse_to_tokenise(monkeypatch):
    from transformers import PreTrainedTokenizerFast

    stock = PreTrainedTokenizerFast._encode_plus

    def encode(self, text, *args, **options):
        # mlx-lm tokenises a few words of its own while it loads.
        assert isinstance(text, str)
        assert len(text) < 20
        return stock(self, text, *args, **options)

    monkeypatch.setattr(PreTrainedTokenizerFast, "_encode_plus", encode)


class TestTokenCache:
    @pytest.fixture(autouse=True)
    def root(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        return tmp_path / "cache" / "comigs_mlx" / "tokens"

    def first_batches(self, config):
        with session(config, quiet) as opened:
            trainer = opened.trainer
            sources = (trainer.train, trainer.router_train)
            return [*[s.batch(i) for s in sources for i in range(3)], *trainer.valid]

    @pytest.mark.parametrize("kind", ["text", "chat"])
    def test_the_next_run_does_not_tokenise(
        self, kind, config, tmp_path, root, monkeypatch
    ):
        if kind == "chat":
            config = chat_config(config, tmp_path)
        first = self.first_batches(config)
        assert len(list(root.iterdir())) == 2  # train and valid
        shutil.rmtree(config.folder)
        refuse_to_tokenise(monkeypatch)
        again = self.first_batches(config)
        for one, two in zip(first, again, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))

    def test_without_it_nothing_is_written_and_the_batches_are_the_same(
        self, config, root
    ):
        off = config_of(config.model, config.data.data, config.run, token_cache=False)
        without = self.first_batches(off)
        assert not root.exists()
        shutil.rmtree(config.folder)
        for one, two in zip(without, self.first_batches(config), strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))

    def test_a_cache_that_cannot_be_written_stops_nothing(self, config, root):
        root.parent.parent.mkdir()
        root.parent.write_text("in the way")
        notes = []
        with session(config, notes.append):
            pass
        assert sum("tokens cannot be kept" in note for note in notes) == 1

    def test_each_text_is_tokenised_once(self, config, monkeypatch):
        asked = []
        stock = content.token_stream

        def count(samples, *args):
            asked.append(len(samples))
            return stock(samples, *args)

        monkeypatch.setattr(content, "token_stream", count)
        off = config_of(config.model, config.data.data, config.run, token_cache=False)
        self.first_batches(off)
        assert asked == [200, 40]

    def test_can_be_switched_on_a_resume(self, copy):
        flags = ["--run", str(copy), "--resume", "--no-token-cache"]
        assert not train_config(flags).data.token_cache


def test_several_padded_lengths_are_announced(config, tmp_path):
    notes = []
    with session(chat_config(config, tmp_path), notes.append):
        pass
    (train,) = (note for note in notes if note.startswith("note: train: "))
    assert train.startswith("note: train: 2 padded lengths: ")


def test_a_memory_limit_below_the_base_model_is_noted(config, monkeypatch):
    monkeypatch.setattr("mlx.core.get_active_memory", lambda: 3 * 10**9)
    options = {"memory_limit": 2.0}
    limited = config_of(config.model, config.data.data, config.run, **options)
    notes, before = [], mx.get_memory_limit()
    with session(limited, notes.append):
        assert mx.get_memory_limit() == 2 * 10**9
    assert mx.get_memory_limit() == before
    assert any("--memory-limit 2.0 GB is less than the base" in note for note in notes)


class TestSameTokens:
    """The same text must become the same tokens when a run goes on."""

    def resumed(self, run):
        notes = []
        with session(train_config(["--run", str(run), "--resume"]), notes.append):
            return [note for note in notes if note.startswith("note")]

    @pytest.fixture
    def mine(self, tiny_folder, text_folder, tmp_path):
        """(template) -> a trained run on chats, on a base of its own."""

        def make(template=tiny.CHATML):
            base = shutil.copytree(tiny_folder(), tmp_path / "base")
            set_template(base, template)
            rows = [
                json.dumps(
                    {
                        "messages": [
                            {"role": "user", "content": f"question {i}"},
                            {"role": "assistant", "content": f"answer {i}"},
                        ]
                    }
                )
                for i in range(40)
            ]
            (text := tmp_path / "chats").mkdir()
            (text / "train.jsonl").write_text("\n".join(rows[:31]))
            (text / "valid.jsonl").write_text("\n".join(rows[31:]))
            config = config_of(base, text, tmp_path / "mine", seq_len=48)
            with session(config, quiet) as opened:
                list(opened.run(lambda: False))
            return base, config.folder

        return make

    def test_nothing_changed_is_not_noted(self, mine):
        _, run = mine()
        assert self.resumed(run) == []

    def test_another_template_is_refused_before_anything_is_written(self, mine):
        base, run = mine()
        set_template(base, tiny.CHATML.replace("{{ m.role }}", "{{ m.role | upper }}"))
        before = tree(run)
        with pytest.raises(RunError, match="tokenizer or chat template has changed"):
            self.resumed(run)
        assert tree(run) == before

    def test_a_template_that_writes_the_date_is_noted_at_once(self, mine):
        _, run = mine("{{ strftime_now('%Y-%m-%d %H:%M:%S.%f') }}" + tiny.CHATML)
        notes = self.resumed(run)
        assert any("the chat template writes the date" in note for note in notes)

    def test_a_template_that_writes_the_date_may_not_change_otherwise(self, mine):
        dated = "{{ strftime_now('%Y-%m-%d %H:%M:%S.%f') }}" + tiny.CHATML
        base, run = mine(dated)
        set_template(base, dated.replace("{{ m.role }}", "{{ m.role | upper }}"))
        with pytest.raises(RunError, match="tokenizer or chat template has changed"):
            self.resumed(run)

    def test_another_tokenizer_is_refused(self, mine):
        base, run = mine()
        file = base / "tokenizer.json"
        content = json.loads(file.read_text())
        vocabulary = content["model"]["vocab"]
        vocabulary["a"], vocabulary["e"] = vocabulary["e"], vocabulary["a"]
        file.write_text(json.dumps(content))
        with pytest.raises(RunError, match="tokenizer or chat template has changed"):
            self.resumed(run)

    def test_another_number_of_parts_is_noted(self, mine, monkeypatch):
        _, run = mine()
        monkeypatch.setattr(session_module.cpu_streams, "count", lambda rows: 7)
        (note,) = self.resumed(run)
        assert note.startswith("note: a batch is computed in another number")

    def test_a_save_of_an_older_version_knows_no_tokens(self, mine):
        _, run = mine()
        for save in (run / "state").iterdir():
            file = save / "trainer_state.json"
            state = json.loads(file.read_text())
            for name in ("tokens", "tokenizer", "lanes"):
                del state["identity"][name]
            del state["seal"]
            state["seal"] = checkpoint._seal(state)
            file.write_text(json.dumps(state))
        assert self.resumed(run) == []


class TestPaths:
    """A path means the same from every folder."""

    def test_a_run_used_from_elsewhere(
        self, tiny_folder, text_folder, tmp_path, monkeypatch
    ):
        here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
        shutil.copytree(tiny_folder(), here / "bases" / "tiny")
        shutil.copytree(text_folder, here / "text")
        elsewhere.mkdir()
        monkeypatch.chdir(here)
        given = {**tiny.TRAINING, "model": "bases/tiny", "data": "text", "run": "mine"}
        with session(train_config(tiny.flags(**given)), quiet) as opened:
            list(opened.run(lambda: False))
        assert read_yaml(here / "mine/config.yaml")["model"] == str(here / "bases/tiny")
        assert RunFolder("mine").read_info()["base_model"]["id"].startswith(str(here))
        monkeypatch.chdir(elsewhere)
        RunFolder(here / "mine").load()
        resume = ["--run", str(here / "mine"), "--resume"]
        for extra in ([], ["--model", "../here/bases/tiny", "--data", "../here/text"]):
            with session(train_config([*resume, *extra]), quiet):
                pass

    def test_a_folder_that_is_not_here_is_another_option(self, copy):
        with pytest.raises(ConfigError, match="--model is .* there, 'some/model' here"):
            train_config(["--run", str(copy), "--resume", "--model", "some/model"])

    def test_the_embedded_demo_is_no_folder(self, tmp_path, monkeypatch):
        (tmp_path / "demo").mkdir()
        monkeypatch.chdir(tmp_path)
        config = train_config(["--model", "demo", "--data", "demo"])
        assert (config.model, config.data.data) == ("demo", "demo")


def conversations(folder, **answers):
    """train.jsonl and so on, one conversation an answer."""
    folder.mkdir()
    for name, texts in answers.items():
        rows = (
            {
                "messages": [
                    {"role": "user", "content": f"{name} {i}"},
                    {"role": "assistant", "content": text},
                ]
            }
            for i, text in enumerate(texts)
        )
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines)
    return folder


class TestLongerValidation:
    @pytest.mark.parametrize("router", ["alternating", "none"])
    def test_the_memory_said_is_that_of_the_longest_batch(
        self, config, tmp_path, router
    ):
        short = ["ok"] * 20
        said = {}
        for name, valid in (("short", short), ("long", ["word " * 90] * 6)):
            text = conversations(tmp_path / name, train=short, valid=valid)
            options = {"seq_len": 512, "router": router}
            one = config_of(config.model, text, tmp_path / f"run-{name}", **options)
            notes = []
            with session(one, notes.append):
                (said[name],) = (n for n in notes if n.startswith("memory: "))
        assert "(2 x 32 tokens)" in said["short"]
        assert "(2 x 512 tokens)" in said["long"]

    @pytest.mark.parametrize(
        ("router", "trained"), [("alternating", 512), ("none", 32)]
    )
    def test_routers_learn_from_it_and_its_loss_is_measured(
        self, config, tmp_path, router, trained
    ):
        text = conversations(
            tmp_path / "text", train=["ok"] * 20, valid=["word " * 90] * 6
        )
        options = {"seq_len": 512, "router": router}
        one = config_of(config.model, text, tmp_path / "run-work", **options)
        with session(one, quiet) as opened:
            work = _work(one, opened.trainer)
        assert (work.seq_len, work.measured) == (trained, 512)

    def test_chooses_the_best_save_with_its_share(self, config, tmp_path):
        valid = ["ok"] * 40 + ["word " * 60] * 40
        text = conversations(tmp_path / "text", train=["ok"] * 20, valid=valid)
        options = {"seq_len": 512, "valid_batches": 4}
        run = tmp_path / "run-share"
        with session(config_of(config.model, text, run, **options), quiet) as opened:
            batches = opened.trainer.valid
        long = sum(int((b.mask.sum(1) > 100).sum()) for b in batches)
        short = sum(int((b.mask.sum(1) > 0).sum()) for b in batches) - long
        assert (short, long) == (4, 4)


class TestNothingIsWritten:
    """Everything is checked before the run's folder is made."""

    def test_for_windows_past_the_table_of_positions(self, config, tiny_folder):
        options = {"seq_len": 129}
        config = config_of(tiny_folder("gpt2"), config.data.data, config.run, **options)
        with pytest.raises(ConfigError, match="129 .* 128 .* --seq-len to at most 128"):
            session(config, quiet).__enter__()
        assert not config.folder.exists()

    def test_for_tokens_that_the_base_does_not_know(self, config, monkeypatch):
        known = Tables(vocabulary=EOS)
        monkeypatch.setattr("comigs_mlx.model.base.tables_of", lambda model: known)
        with pytest.raises(ModelError, match=f"the train text has token id {EOS}"):
            session(config, quiet).__enter__()
        assert not config.folder.exists()

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

    def test_into_a_folder_with_somebody_s_hidden_files(self, config):
        """A home folder may hold nothing else."""
        config.folder.mkdir()
        (config.folder / ".profile").write_text("mine")
        with pytest.raises(RunError, match="exists: add --resume"):
            session(config, quiet).__enter__()
        assert [p.name for p in config.folder.iterdir()] == [".profile"]

    @pytest.mark.parametrize(
        "name",
        [
            ".lock",
            ".train.json",
            ".train.log",
            ".train.told.json",
            ".train.told.json.tmp",
            ".DS_Store",
            LEFT,
        ],
    )
    def test_what_a_killed_start_left_is_in_nobody_s_way(self, config, name):
        config.folder.mkdir()
        (config.folder / name).touch()
        with session(config, quiet) as opened:
            assert opened.trainer.position.step == 0

    def test_into_a_file(self, config):
        config.folder.write_text("mine")
        with pytest.raises(RunError, match="is a file: choose a folder with --run"):
            session(config, quiet).__enter__()
        assert config.folder.read_text() == "mine"

    def test_when_another_process_was_faster(self, config, monkeypatch):
        """It began and ended while this one was still reading its text."""
        real = session_module.load_base

        def slow(*arguments, **options):
            monkeypatch.setattr(session_module, "load_base", real)
            with session(config, quiet) as other:
                list(other.run(lambda: False))
            return real(*arguments, **options)

        monkeypatch.setattr(session_module, "load_base", slow)
        with (
            pytest.raises(RunError, match="exists: add --resume"),
            session(config, quiet),
        ):
            pass
        lines = (config.folder / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [4, 6]
        assert RunFolder(config.folder).load()

    def test_while_another_process_trains_there(self, config):
        config.folder.mkdir()
        with (
            RunFolder(config.folder).in_use(),
            pytest.raises(RunError, match="is in use by another process"),
            session(config, quiet),
        ):
            pass
        assert [p.name for p in config.folder.iterdir()] == [".lock"]


def set_template(base, template):
    file = base / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "chat_template": template}))


def rewrite(file, old, new):
    content = file.read_text()
    assert old in content
    file.write_text(content.replace(old, new))
