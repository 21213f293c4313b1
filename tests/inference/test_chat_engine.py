"""One base, many runs, many threads: nothing stale answers and nothing is mixed."""

import contextlib
import gc
import json
import shutil
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tests.tiny as tiny
from comigs_mlx import evaluate
from comigs_mlx.errors import ComigsError, ConfigError
from comigs_mlx.inference import generation as loop
from comigs_mlx.inference import lean, loaded_run, prior, rerouting, steering
from comigs_mlx.inference.chat_engine import ChatEngine, Settings, Stopped
from comigs_mlx.inference.generation import Generation
from comigs_mlx.inference.prompts import chat_tokens, own_text
from comigs_mlx.model.base import load_base
from comigs_mlx.runs.folder import RunFolder

OPTIONS = {"specialists": 2, "learning_rate": 0.05}
SAY = [{"role": "user", "content": "Dear diary"}]
GREEDY = Settings(temperature=0.0, max_tokens=6)


@pytest.fixture(scope="module")
def runs(trained):
    """Two runs of one shape, and one of another, on the same base."""
    other = trained(specialists=1, rank=3, learning_rate=0.05)
    return trained(**OPTIONS), trained(**OPTIONS, seed=1), other


@pytest.fixture
def engine():
    made = ChatEngine()
    yield made
    made.close()


def spoken(engine, messages=SAY, settings=GREEDY, **given):
    return list(engine.reply(messages, settings, **given))


def ids(tokens):
    return [token.id for token in tokens]


def generation(run, messages=SAY, settings=GREEDY, best=False):
    """The reply as `comigs_mlx.generate` makes it, with everything loaded anew."""
    base, mixture = RunFolder(run).load(best)
    prompt = chat_tokens(base.tokenizer, messages, settings.system)
    seeded = replace(settings, seed=settings.seed or 0)
    made = Generation(base, mixture, prompt, seeded)
    with mixture.selected(settings.selection):
        list(made)
    return made


def same_as(tokens, made):
    """Whether a reply is what `Generation` says, weights included."""
    told = made.trace().tokens[len(made.prompt) :]
    assert [(t.id, t.text) for t in tokens] == [(t.id, t.text) for t in told]
    found, expected = (np.array([t.weights for t in ts]) for ts in (tokens, told))
    assert np.abs(found - expected).max() < 1e-5
    reasons = [piece.finish_reason for piece in made.tokens]
    assert [token.finish_reason for token in tokens] == reasons
    return True


def turn(tokens, words="and then"):
    """The conversation goes on after a reply."""
    answer = {"role": "assistant", "content": "".join(t.text for t in tokens)}
    return [*SAY, answer, {"role": "user", "content": words}]


class TestLean:
    def test_is_found_and_kept_as_by_the_command(self, engine, runs, tmp_path):
        mine = shutil.copytree(runs[0], tmp_path / "mine")
        told = []
        kept = engine.calibrate_lean(engine.choose(mine), listen=told.append)
        ours = (mine / lean.FILE).read_text()
        shares = [one.done / one.total for one in told if one.what == "scoring"]
        assert shares == sorted(shares)
        assert 0.3 < shares[-1] <= 1.0
        evaluate.main(["--run", str(mine), "--calibrate-lean"])
        assert (mine / lean.FILE).read_text() == ours
        assert lean.read(mine / lean.FILE) == kept

    def test_a_search_that_is_stopped_keeps_nothing(self, engine, runs, tmp_path):
        mine = shutil.copytree(runs[0], tmp_path / "mine")
        info, parts = engine.choose(mine), []
        with pytest.raises(Stopped):
            engine.calibrate_lean(info, lambda: len(parts) > 2, parts.append)
        assert not (mine / lean.FILE).exists()

    def test_is_that_of_the_settings_or_of_the_run(self, engine, runs, tmp_path):
        """Also where it is calibrated while the run is open, and changed again."""
        mine = shutil.copytree(runs[0], tmp_path / "mine")
        engine.choose(mine)
        plain, leaning = GREEDY, replace(GREEDY, lean=2.0)
        assert same_as(before := spoken(engine), generation(mine))
        assert same_as(
            expected := spoken(engine, settings=leaning),
            generation(mine, settings=leaning),
        )
        assert [t.weights for t in expected] != [t.weights for t in before]
        folder = RunFolder(mine)
        trials = [lean.Trial(0.0, 2.0), lean.Trial(2.0, 1.0)]
        lean.keep(folder, folder.load()[1], trials, 9)
        assert spoken(engine) == expected
        assert spoken(engine, settings=replace(GREEDY, lean=0.0)) == before
        assert spoken(engine, settings=replace(GREEDY, selection="generalist"))
        (mine / lean.FILE).unlink()
        assert spoken(engine, settings=plain) == before

    def test_without_a_run(self, engine, tiny_folder):
        engine.choose(None, str(tiny_folder()))
        with pytest.raises(ConfigError, match="no experts to lean to: choose one"):
            spoken(engine, settings=replace(GREEDY, lean=1.0))


class TestPrior:
    def test_every_turn_has_that_of_the_first_message(self, engine, run):
        mine = run(**OPTIONS)
        evaluate.main(["--run", str(mine), "--calibrate-prior"])
        engine.choose(mine)
        told = replace(GREEDY, prior=1000.0)
        folder = RunFolder(mine)
        base, mixture = folder.load()
        say = [{"role": "user", "content": "Dear diary, today"}]
        asked = (told, folder, base, mixture, say[0]["content"], lambda: "")
        leaning = prior.with_prior(*asked)
        assert leaning.lean
        first = spoken(engine, say, told)
        assert same_as(first, generation(mine, say, leaning))
        answer = {"role": "assistant", "content": "it rained"}
        more = [*say, answer, {"role": "user", "content": "and then"}]
        assert same_as(spoken(engine, more, told), generation(mine, more, leaning))
        assert same_as(
            spoken(engine, say, replace(GREEDY, prior=0.0)), generation(mine, say)
        )


class TestReroute:
    def test_fits_to_what_the_assistant_said_and_to_pasted_text(self, engine, run):
        mine = run(**OPTIONS)
        engine.choose(mine)
        asked = replace(GREEDY, reroute=3, pasted="the keeper wrote down the wind")
        assert same_as(
            spoken(engine, SAY, replace(asked, pasted="")), generation(mine, SAY)
        )  # nothing but the user's own words
        answer = {"role": "assistant", "content": "it rained all day"}
        more = [*SAY, answer, {"role": "user", "content": "and then"}]
        for given in (asked, replace(asked, pasted="")):
            base, mixture = RunFolder(mine).load()
            tokens = rerouting.context(base, more, given.pasted)
            settings = rerouting.rerouted(given, mixture, tokens)
            assert np.any(settings.tilt)
            tokens = spoken(engine, more, given)
            assert same_as(tokens, generation(mine, more, settings))

    def test_is_stopped(self, engine, run):
        engine.choose(run(**OPTIONS))
        asked = replace(GREEDY, reroute=3, pasted="the keeper wrote down the wind")
        assert spoken(engine, SAY, asked, stop=lambda: True) == []


class TestSteer:
    TEXT = "zzzz qqqq " * 30

    def test_gives_settings_that_tilt(self, engine, runs):
        engine.choose(runs[0])
        told = []
        asked = (GREEDY, self.TEXT, 1.5)
        steered = engine.steer(*asked, listen=told.append)
        assert replace(steered, tilt=()) == GREEDY
        base, mixture = RunFolder(runs[0]).load()
        assert steered == steering.steered(GREEDY, base, mixture, self.TEXT, 1.5)
        assert told[-1].done == told[-1].total
        assert same_as(
            spoken(engine, settings=steered), generation(runs[0], settings=steered)
        )

    def test_is_stopped(self, engine, runs):
        engine.choose(runs[0])
        with pytest.raises(Stopped):
            engine.steer(GREEDY, self.TEXT, stop=lambda: True)

    def test_without_a_run(self, engine, tiny_folder):
        engine.choose(None, str(tiny_folder()))
        with pytest.raises(ConfigError, match="no experts to steer: choose one"):
            engine.steer(GREEDY, self.TEXT)


class TestChoose:
    def test_describes_the_run(self, engine, runs, tiny_folder):
        info = engine.choose(runs[0])
        assert info.run == str(runs[0])
        assert info.base_id == str(tiny_folder())
        assert info.experts == ["generalist", "specialist", "specialist-1"]
        assert info.layers == ["model.layers.0.mlp", "model.layers.1.mlp"]
        assert info.step == tiny.TRAINING["steps"]
        assert info.selections == ["auto", "base", "generalist", "specialist"]
        assert engine.info == info

    def test_without_a_run_only_the_base_speaks(self, engine, runs, tiny_folder):
        info = engine.choose(None, str(tiny_folder()))
        assert (info.run, info.experts, info.layers) == (None, [], [])
        assert info.selections == ["base"]
        tokens = spoken(engine)
        assert all(token.weights == [] for token in tokens)
        alone = generation(runs[0], settings=replace(GREEDY, selection="base"))
        assert ids(tokens) == [piece.id for piece in alone.tokens]
        with pytest.raises(ConfigError, match="no specialist without a run"):
            spoken(engine, settings=replace(GREEDY, selection="specialist"))

    def test_every_run_speaks_as_if_loaded_alone(self, engine, runs):
        for run in (*runs, *reversed(runs)):
            engine.choose(run)
            assert same_as(spoken(engine), generation(run))

    def test_the_base_is_loaded_once(self, runs, tiny_folder):
        said = []
        engine = ChatEngine(said.append)
        for run in (*runs, None, runs[0]):
            engine.choose(run, str(tiny_folder()))
        engine.close()
        assert said == [f"loading {tiny_folder()}"]

    def test_same_shape_keeps_the_modules_another_one_does_not(self, engine, runs):
        mixtures = []
        for run in runs:
            engine.choose(run)
            mixtures.append(engine._loaded._mixture)
        assert mixtures[0] is mixtures[1]
        assert mixtures[1] is not mixtures[2]

    def test_another_base_replaces_the_first(self, engine, runs, trained):
        engine.choose(runs[0])
        old = weakref.ref(engine._loaded.base.model)
        other = trained("gpt2", **OPTIONS)
        engine.choose(other)
        gc.collect()
        assert old() is None
        assert same_as(spoken(engine), generation(other))

    def test_the_revision_of_the_base_a_run_was_trained_on(
        self, engine, runs, tmp_path, monkeypatch
    ):
        """What is upstream by now may be another model."""
        run = shutil.copytree(runs[0], tmp_path / "run")
        info = json.loads((run / "comigs.json").read_text())
        info["base_model"]["revision"] = "0123abc"
        (run / "comigs.json").write_text(json.dumps(info))
        asked = []

        def load(model, say, revision):
            asked.append(revision)
            return load_base(model, say)

        monkeypatch.setattr(loaded_run, "load_base", load)
        engine.choose(run)
        assert asked == ["0123abc"]

    def test_the_best_save(self, engine, runs):
        info = engine.choose(runs[0], best=True)
        assert info.best
        assert info.step == RunFolder(runs[0]).best()[0]
        assert same_as(spoken(engine), generation(runs[0], best=True))

    def test_to_the_best_save_and_back(self, engine, run):
        copy = run(**OPTIONS)
        best = RunFolder(copy).best()
        assert best is not None
        for number in range(4):
            info = engine.choose(copy, best=bool(number % 2))
            assert info.best == bool(number % 2)
            assert same_as(spoken(engine), generation(copy, best=info.best))

    def test_a_model_without_a_chat_template_says_so(
        self, engine, tiny_folder, tmp_path
    ):
        folder = shutil.copytree(tiny_folder(), tmp_path / "plain")
        file = folder / "tokenizer_config.json"
        settings = json.loads(file.read_text())
        file.write_text(json.dumps({**settings, "chat_template": None}))
        assert engine.choose(None, str(tiny_folder())).chat
        assert not engine.choose(None, str(folder)).chat
        assert len(spoken(engine)) == GREEDY.max_tokens

    @pytest.mark.parametrize("moment", range(4))
    def test_stopped_while_loading(self, engine, runs, moment):
        """Nothing is chosen then; later the same choice works."""
        asked = []
        engine.choose(runs[0], stop=lambda: asked.append(1))
        engine.close()
        assert len(asked) > moment - 1
        again = ChatEngine()
        calls = iter(range(100))
        if moment < len(asked):
            with pytest.raises(Stopped):
                again.choose(runs[0], stop=lambda: next(calls) == moment)
            assert again.info is None
        again.choose(runs[0])
        assert same_as(spoken(again), generation(runs[0]))
        again.close()

    def test_loading_tells_its_progress(self, engine, runs):
        told = []
        engine.choose(runs[0], listen=told.append)
        assert {one.what for one in told} == {"loading"}
        done = [one.done for one in told]
        assert done == sorted(done)
        assert done[-1] == told[-1].total
        engine.choose(runs[0], listen=told.append)  # nothing to load
        assert len(told) == len(done)

    def test_what_is_not_there(self, engine, runs, tmp_path):
        with pytest.raises(ComigsError, match="choose a run or a base model first"):
            spoken(engine)
        with pytest.raises(ComigsError, match="choose a run or a base model first"):
            engine.score("some text", ["base"])
        with pytest.raises(ComigsError, match=r"no run at .*nowhere"):
            engine.choose(tmp_path / "nowhere")
        with pytest.raises(ComigsError, match="no model folder"):
            engine.choose(None, str(tmp_path / "nothing"))

    @pytest.mark.parametrize(
        ("file", "content", "text"),
        [
            ("comigs.json", b"{", "is damaged"),
            ("router/router.safetensors", b"no", "cannot read"),
        ],
    )
    def test_a_broken_run_is_refused_and_does_not_answer(
        self, engine, runs, tmp_path, file, content, text
    ):
        broken = shutil.copytree(runs[0], tmp_path / "broken")
        (broken / file).write_bytes(content)
        engine.choose(runs[1])
        with pytest.raises(ComigsError, match=text):
            engine.choose(broken)
        engine.choose(runs[1])
        assert same_as(spoken(engine), generation(runs[1]))

    def test_a_run_of_another_base_under_that_name_is_refused(
        self, engine, runs, tmp_path
    ):
        foreign = shutil.copytree(runs[0], tmp_path / "foreign")
        info = json.loads((foreign / "comigs.json").read_text())
        info["base_model"]["fingerprint"] = "0" * 64
        (foreign / "comigs.json").write_text(json.dumps(info))
        engine.choose(runs[0])
        with pytest.raises(ComigsError, match="is not the base model"):
            engine.choose(foreign)
        assert engine.info is None


class TestReply:
    @pytest.mark.parametrize("selection", ["base", "generalist", (0.2, 0.3, 0.5)])
    def test_is_the_generation_s(self, engine, runs, selection):
        settings = replace(GREEDY, selection=selection, system="Be kind.")
        engine.choose(runs[0])
        found = spoken(engine, settings=settings)
        assert same_as(found, generation(runs[0], settings=settings))

    def test_a_seed_draws_the_generation_s_tokens(self, engine, runs):
        engine.choose(runs[0])
        settings = Settings(temperature=1.3, top_p=0.9, max_tokens=8, seed=5)
        found = spoken(engine, settings=settings)
        assert same_as(found, generation(runs[0], settings=settings))
        assert ids(spoken(engine, settings=replace(settings, seed=6))) != ids(found)

    def test_without_a_seed_every_reply_is_another(self, engine, runs):
        engine.choose(runs[0])
        settings = Settings(temperature=1.5, top_p=1.0, max_tokens=12)
        found = {tuple(ids(spoken(engine, settings=settings))) for _ in range(3)}
        assert len(found) == 3

    def test_alternatives_are_the_likeliest_of_a_full_pass(self, engine, runs):
        engine.choose(runs[0])
        settings = Settings(temperature=1.3, max_tokens=4, seed=3)
        tokens = spoken(engine, settings=settings)
        base, mixture = RunFolder(runs[0]).load()
        read = chat_tokens(base.tokenizer, SAY)
        for token in tokens:
            logits, _ = mixture(mx.array([read]))
            probabilities = np.array(mx.softmax(logits[0, -1]))
            likeliest = np.argsort(-probabilities)[:5]
            assert ids(token.alternatives) == likeliest.tolist()
            found = [other.probability for other in token.alternatives]
            assert np.allclose(found, probabilities[likeliest], atol=1e-5)
            texts = [own_text(base.tokenizer, i) for i in likeliest.tolist()]
            assert [other.text for other in token.alternatives] == texts
            assert token.own == own_text(base.tokenizer, token.id)
            read.append(token.id)

    def test_stop_is_asked_before_each_token(self, engine, runs):
        engine.choose(runs[0])
        answers = iter([False, False, False, True])
        tokens = spoken(engine, stop=lambda: next(answers))
        assert ids(tokens) == ids(spoken(engine))[:3]
        assert tokens[-1].finish_reason is None
        assert spoken(engine, stop=lambda: True) == []

    def test_a_message_longer_than_the_context(self, engine, runs):
        engine.choose(runs[0])
        most = engine._loaded.base.context
        with pytest.raises(ConfigError) as error:
            spoken(engine, [{"role": "user", "content": "x" * most}])
        assert "tokens long" in str(error.value)
        assert f"reads at most {most:,}: shorten it" in str(error.value)

    def test_a_conversation_longer_than_the_context_loses_its_oldest_turns(
        self, engine, runs
    ):
        engine.choose(runs[0])
        said, told = [], []
        for number in range(8):
            user = {"role": "user", "content": f"{number} of many"}
            said += [user, {"role": "assistant", "content": "yes"}]
        said.pop()
        tokens = spoken(engine, said, listen=told.append)
        (left_out,) = {one.left_out for one in told}
        assert left_out > 0
        assert left_out % 2 == 0
        assert engine.left_out(said, Settings(max_tokens=12)) == left_out
        assert same_as(tokens, generation(runs[0], said[left_out:]))
        spoken(engine, said[:3], listen=told.append)
        assert told[-1].left_out == 0
        assert engine.left_out(said[:3], Settings(max_tokens=12)) == 0

    def test_a_turn_that_was_stopped_does_not_end_the_conversation(self, engine, runs):
        """Templates of Gemma's kind want roles that alternate."""
        engine.choose(runs[0])
        tokenizer = engine.tokenizer._tokenizer
        before = tokenizer.chat_template
        tokenizer.chat_template = (
            "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) "
            "%}{{ raise_exception('no') }}{% endif %}{{ m.content }}{% endfor %}"
        )
        try:
            assert spoken(engine, SAY, stop=lambda: True) == []
            assert spoken(engine, [*SAY, {"role": "user", "content": "Go on"}])
        finally:
            tokenizer.chat_template = before

    def test_half_a_character(self, engine, runs):
        engine.choose(runs[0])
        for messages, settings in (
            ([{"role": "user", "content": "x\ud83d"}], GREEDY),
            (SAY, replace(GREEDY, system="x\ud83d")),
        ):
            with pytest.raises(ConfigError, match="is not text in UTF-8: its char"):
                spoken(engine, messages, settings)
        assert len(spoken(engine)) == GREEDY.max_tokens

    def test_reading_tells_its_progress(self, engine, runs, monkeypatch):
        monkeypatch.setattr(loop, "chunk_tokens", lambda: 8)
        engine.choose(runs[0])
        told = []
        spoken(engine, listen=told.append)
        prompt = len(chat_tokens(engine.tokenizer, SAY))
        done = [*range(0, prompt - 1, 8), prompt - 1, prompt]
        assert [one.done for one in told] == done
        assert {(one.what, one.total) for one in told} == {("reading", prompt)}

    def test_a_reply_ends_where_the_context_does(self, engine, runs):
        engine.choose(runs[0])
        base = engine._loaded.base
        prompt = len(chat_tokens(base.tokenizer, SAY))
        room = base.context - prompt - 3
        long = [{"role": "user", "content": SAY[0]["content"] + "x" * room}]
        tokens = spoken(engine, long, replace(GREEDY, max_tokens=50))
        assert len(tokens) == 3
        assert tokens[-1].finish_reason == "length"

    @pytest.mark.parametrize(
        ("wrong", "text"),
        [
            ({"temperature": -1.0}, "temperature -1.0 must be from 0 to 100"),
            ({"temperature": float("nan")}, "temperature nan must be"),
            ({"top_p": 0.0}, "top-p 0.0 must be above 0 and at most 1"),
            ({"max_tokens": 0}, "max tokens 0 must be at least 1"),
            ({"temperature": float("inf")}, "temperature inf must be"),
            ({"top_p": float("nan")}, "top-p nan must be above 0 and at most 1"),
            ({"seed": -1}, "seed -1 must be from 0"),
            ({"seed": 2**64}, f"seed {2**64} must be from 0"),
            ({"selection": "everyone"}, "unknown experts 'everyone'"),
            ({"selection": (1.0,)}, "expected 3 weights"),
        ],
    )
    def test_settings_that_cannot_work(self, engine, runs, wrong, text):
        engine.choose(runs[0])
        with pytest.raises(ConfigError, match=text):
            spoken(engine, settings=replace(GREEDY, **wrong))
        assert len(spoken(engine)) == GREEDY.max_tokens

    def test_an_empty_conversation(self, engine, runs):
        engine.choose(runs[0])
        with pytest.raises(ConfigError, match="the conversation is empty"):
            spoken(engine, [])


class TestSettings:
    """Every setting of `Settings` reaches the reply; what it does: test_settings.py."""

    def test_a_stop_word_ends_it(self, engine, runs):
        engine.choose(runs[0])
        whole = "".join(token.text for token in spoken(engine))
        word = whole[2:4]
        tokens = spoken(engine, settings=replace(GREEDY, stop=("never", word)))
        assert "".join(token.text for token in tokens) == whole[: whole.index(word)]
        assert tokens[-1].finish_reason == "stop"

    def test_a_bias_bans_a_token(self, engine, runs):
        engine.choose(runs[0])
        first = spoken(engine)[0].id
        tokens = spoken(engine, settings=replace(GREEDY, logit_bias={first: -1e9}))
        assert first not in ids(tokens)

    def test_a_bias_of_an_unknown_token(self, engine, runs):
        engine.choose(runs[0])
        with pytest.raises(ComigsError, match="the logit bias"):
            spoken(engine, settings=replace(GREEDY, logit_bias={10**6: 1.0}))

    def test_arguments_reach_the_template(self, engine, runs, monkeypatch):
        engine.choose(runs[0])
        tokenizer, seen = engine.tokenizer, []
        real = tokenizer.apply_chat_template

        def apply(*args, **named):
            seen.append(named)
            return real(*args, **named)

        monkeypatch.setattr(tokenizer, "apply_chat_template", apply, raising=False)
        arguments = {"enable_thinking": False}
        spoken(engine, settings=replace(GREEDY, template_args=arguments))
        assert seen
        assert all(one["enable_thinking"] is False for one in seen)

    @pytest.mark.parametrize(
        "reserved", ["tokenize", "return_tensors", "continue_final_message"]
    )
    def test_arguments_that_change_what_it_returns(self, engine, runs, reserved):
        engine.choose(runs[0])
        settings = replace(GREEDY, template_args={reserved: True})
        with pytest.raises(ConfigError, match=f"must not set {reserved}"):
            spoken(engine, settings=settings)


class TestPromptCache:
    """Read before or not: the answer is that of an engine who has read nothing."""

    @pytest.fixture
    def read(self, engine, monkeypatch):
        """(messages, settings) -> a reply, and how many prompt tokens it read."""
        counts = []
        real = loop.responses

        def counting(recorder, tokenizer, prompt, *rest):
            counts.append(len(prompt))
            return real(recorder, tokenizer, prompt, *rest)

        monkeypatch.setattr(loop, "responses", counting)

        def reply(messages=SAY, settings=GREEDY):
            return spoken(engine, messages, settings), counts[-1]

        return reply

    def test_the_next_turn_reads_only_what_is_new(self, engine, runs, read):
        engine.choose(runs[0])
        first, all_of_it = read()
        prompt = chat_tokens(engine.tokenizer, SAY)
        assert all_of_it == len(prompt)
        tokens, count = read(turn(first))
        longer = chat_tokens(engine.tokenizer, turn(first))
        assert 0 < count < len(longer) - len(prompt) + 1
        assert same_as(tokens, generation(runs[0], turn(first)))

    def test_the_same_again_reads_one_token(self, engine, runs, read):
        engine.choose(runs[0])
        first, _ = read()
        second, count = read()
        assert count == 1
        assert ids(second) == ids(first)
        assert same_as(second, generation(runs[0]))

    def test_an_edited_turn_keeps_what_stands_before_it(self, engine, runs, read):
        engine.choose(runs[0])
        first, _ = read()
        read(turn(first))
        edited = turn(first, "but no")
        tokens, count = read(edited)
        assert 0 < count < len(chat_tokens(engine.tokenizer, edited))
        assert same_as(tokens, generation(runs[0], edited))

    def test_a_stopped_reply_leaves_what_it_has_read(self, engine, runs, read):
        engine.choose(runs[0])
        answers = iter([False, False, True])
        part = spoken(engine, stop=lambda: next(answers))
        tokens, count = read(turn(part))
        assert count < len(chat_tokens(engine.tokenizer, turn(part)))
        assert same_as(tokens, generation(runs[0], turn(part)))

    def test_another_selection_reads_all(self, engine, runs, read):
        engine.choose(runs[0])
        _, all_of_it = read()
        for selection in ("specialist", "base", (0.5, 0.5, 0.0), "auto"):
            settings = replace(GREEDY, selection=selection)
            tokens, count = read(settings=settings)
            assert count == (1 if selection == "auto" else all_of_it)
            assert same_as(tokens, generation(runs[0], settings=settings))

    def test_another_run_reads_all(self, engine, runs, read):
        engine.choose(runs[0])
        _, all_of_it = read()
        for run in (runs[1], runs[2], runs[0]):
            engine.choose(run)
            tokens, count = read()
            assert count == (1 if run == runs[0] else all_of_it)
            assert same_as(tokens, generation(run))

    def test_new_values_of_the_run_read_all(self, engine, runs, read, tmp_path):
        """What a pull, or more training, leaves in the run's files."""
        run = shutil.copytree(runs[0], tmp_path / "run")
        info = engine.choose(run)
        before, all_of_it = read()
        file = run / "generalist" / "adapters.safetensors"
        louder = {name: 3 * array for name, array in load_file(file).items()}
        step = {"step": str(tiny.TRAINING["steps"])}
        save_file(louder, file, step)
        assert engine.choose(run) == info
        after, count = read()
        assert count == all_of_it
        assert ids(after) != ids(before)
        assert same_as(after, generation(run))

    def test_the_same_values_again_read_nothing_anew(self, engine, runs, read):
        engine.choose(runs[0])
        read()
        engine.choose(runs[0])
        assert read()[1] == 1

    def test_a_sliding_window(self, engine, trained, read):
        """A cache that cannot be cut back is not used again."""
        run = trained("gemma3_text", **OPTIONS)
        engine.choose(run)
        long = [{"role": "user", "content": "x" * 30}]
        first = read(long)[0]
        for messages in (long, [*long, *turn(first)[1:]], SAY):
            assert same_as(read(messages)[0], generation(run, messages))


class TestThreads:
    def test_conversations_with_several_runs_do_not_mix(self, engine, runs):
        infos = [engine.choose(run) for run in runs[:2]]
        expected = [generation(run) for run in runs[:2]]
        found = [[], []]

        def talk(index):
            for _ in range(3):
                found[index].append(spoken(engine, info=infos[index]))

        threads = [threading.Thread(target=talk, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        for replies, made in zip(found, expected, strict=True):
            assert len(replies) == 3
            assert all(same_as(reply, made) for reply in replies)
        first, second = ([p.id for p in made.tokens] for made in expected)
        assert first != second

    def test_a_reply_may_be_read_from_several_threads(self, engine, runs):
        engine.choose(runs[0])
        reply, tokens = engine.reply(SAY, GREEDY), []
        for _ in range(GREEDY.max_tokens):
            thread = threading.Thread(target=lambda: tokens.append(next(reply)))
            thread.start()
            thread.join(60)
        assert same_as(tokens, generation(runs[0]))

    def test_a_reply_nobody_listens_to_ends(self, engine, runs):
        engine.choose(runs[0])
        endless = replace(GREEDY, max_tokens=100_000)
        reply = engine.reply(SAY, endless)
        next(reply)
        reply.close()
        assert len(spoken(engine)) == GREEDY.max_tokens

    def test_a_second_caller_waits_its_turn(self, engine, runs):
        engine.choose(runs[0])
        held, go = threading.Event(), threading.Event()

        def stop():
            held.set()
            return not go.wait(60)

        first = []
        thread = threading.Thread(
            target=lambda: first.append(spoken(engine, stop=stop))
        )
        thread.start()
        assert held.wait(60)
        later = []
        second = threading.Thread(target=lambda: later.append(engine.choose(runs[1])))
        second.start()
        second.join(0.1)
        assert not later
        go.set()
        thread.join(60)
        second.join(60)
        assert same_as(first[0], generation(runs[0]))
        assert later[0].run == str(runs[1])

    def test_closing_ends_what_is_said(self, runs):
        engine = ChatEngine()
        engine.choose(runs[0])
        reply = engine.reply(SAY, replace(GREEDY, max_tokens=100_000))
        next(reply)
        engine.close()
        assert len(list(reply)) < 100_000
        with pytest.raises(ComigsError, match="the engine is closed"):
            engine.choose(runs[0])

    def test_closing_ends_what_is_loaded(self, runs):
        engine = ChatEngine()
        begun, go = threading.Event(), threading.Event()

        def listen(progress):
            begun.set()
            assert go.wait(60)

        failed = []

        def choose():
            with contextlib.suppress(Stopped):
                failed.append(engine.choose(runs[0], listen=listen))

        thread = threading.Thread(target=choose)
        thread.start()
        assert begun.wait(60)
        closer = threading.Thread(target=engine.close)
        closer.start()
        while not engine._worker.closed:
            time.sleep(0.001)
        go.set()
        closer.join(60)
        thread.join(60)
        assert failed == []

    def test_who_is_gone_frees_the_model(self, runs):
        engine = ChatEngine()
        engine.choose(runs[0])
        spoken(engine)
        model = weakref.ref(engine._loaded.base.model)
        del engine
        gc.collect()
        assert model() is None


class TestMemory:
    @pytest.mark.parametrize(
        "error",
        [
            RuntimeError("[malloc_or_wait] Unable to allocate 9000000000 bytes."),
            RuntimeError("[metal::malloc] Attempting to allocate 9 bytes which is"),
            RuntimeError("[METAL] Command buffer failed: Insufficient Memory (0008)"),
            MemoryError(),
        ],
    )
    def test_no_room_becomes_a_sentence(self, error):
        """Texts as Metal is known to say them; none could be provoked on this CPU."""
        mended = []
        with (
            pytest.raises(ComigsError, match="out of memory: close other programs"),
            loaded_run._memory(lambda: mended.append(True)),
        ):
            raise error
        assert mended == [True]

    def test_other_errors_stay_what_they_are(self):
        with (
            pytest.raises(RuntimeError, match="something else"),
            loaded_run._memory(lambda: None),
        ):
            raise RuntimeError("something else")

    def test_many_replies_and_runs_keep_nothing(self, engine, runs):
        def active():
            for run in runs:
                engine.choose(run)
                spoken(engine, settings=replace(GREEDY, max_tokens=40))
            gc.collect()
            return mx.get_active_memory()

        active()
        used = [active() for _ in range(5)]  # a leak grows every time
        few = 4096  # some scalars, which come and go; a prompt cache is 60 kB
        assert min(used[3:]) <= max(used[:2]) + few


def test_importing_the_speaker_loads_no_mlx():
    code = (
        "import sys, comigs_mlx.inference.chat_engine, comigs_mlx.runs.listing; "
        "print([m for m in ('mlx.core', 'mlx_lm', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_paths_may_be_texts(engine, runs):
    assert engine.choose(str(runs[0])).run == str(Path(runs[0]))


PROGRAM = """
import sys
from comigs_mlx.inference.chat_engine import Settings, ChatEngine
engine = ChatEngine()
engine.choose(None, sys.argv[1])
said = engine.reply([{"role": "user", "content": "x"}], Settings(max_tokens=10**6))
next(said)
if sys.argv[2] == "raise":
    raise KeyboardInterrupt
sys.exit(3)
"""


@pytest.mark.parametrize(("how", "code"), [("raise", -2), ("exit", 3)])
def test_a_program_that_ends_while_it_speaks_ends_as_it_says(tiny_folder, how, code):
    """Without `close`, in the middle of an answer: no abort, and at once."""
    command = [sys.executable, "-c", PROGRAM, str(tiny_folder()), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode in (code, 130), done.stderr
    assert "terminate called" not in done.stderr
