"""`python -m comigs_mlx.generate`, against mlx-lm and a plain forward pass."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest

from comigs_mlx import evaluate, generate
from comigs_mlx.generate import main
from comigs_mlx.inference import generation as inference
from comigs_mlx.inference import lean, rerouting
from comigs_mlx.inference.generation import Recorder
from comigs_mlx.inference.settings import Settings
from comigs_mlx.runs.folder import RunFolder
from tests.runs.compare import tree

OPTIONS = {"specialists": 2, "steps": 4, "learning_rate": 0.02}
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def run(trained):
    return trained(**OPTIONS)


def generated(cli, run, prompt="hello", **options):
    code, out, err = cli(main, run=run, prompt=prompt, **options)
    assert code == 0, err
    assert out.endswith("\n")
    return out[:-1]


def prompt_ids(tokenizer, prompt):
    messages = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )


class TestText:
    @pytest.mark.parametrize("family", ["llama", "gpt2"])
    def test_of_base_is_mlx_lm_s_own(self, cli, trained, tiny_folder, family):
        run = trained(family, **OPTIONS)
        model, tokenizer = mlx_lm.load(str(tiny_folder(family)))
        prompt = prompt_ids(tokenizer, "hello")
        expected = mlx_lm.generate(model, tokenizer, prompt=prompt, max_tokens=24)
        assert expected
        assert generated(cli, run, experts="base", max_tokens=24) == expected

    def test_of_the_generalist_is_the_adapter_s_in_mlx_lm(self, cli, run, tiny_folder):
        adapter = str(run / "generalist")
        model, tokenizer = mlx_lm.load(str(tiny_folder()), adapter_path=adapter)
        prompt = prompt_ids(tokenizer, "hello")
        expected = mlx_lm.generate(model, tokenizer, prompt=prompt, max_tokens=24)
        assert generated(cli, run, experts="generalist", max_tokens=24) == expected

    def test_fused_is_the_expert_alone(self, cli, run):
        expected = generated(cli, run, experts="generalist", max_tokens=24)
        found = generated(cli, run, experts="generalist", fuse=True, max_tokens=24)
        assert found == expected != generated(cli, run, experts="base", max_tokens=24)

    def test_without_the_template_continues_the_prompt(self, cli, run, tiny_folder):
        model, tokenizer = mlx_lm.load(str(tiny_folder()))
        ids = tokenizer.encode("hello", add_special_tokens=False)
        assert len(ids) == 5
        expected = mlx_lm.generate(model, tokenizer, prompt=ids, max_tokens=8)
        flags = {"ignore_chat_template": True, "experts": "base", "max_tokens": 8}
        assert generated(cli, run, **flags) == expected

    def test_of_auto_is_greedy_over_full_forward_passes(self, cli, run):
        base, mixture = RunFolder(run).load()
        tokens = list(prompt_ids(base.tokenizer, "hello"))
        made = []
        for _ in range(8):
            logits, _ = mixture(mx.array([tokens]))
            made.append(int(mx.argmax(logits[0, -1])))
            tokens.append(made[-1])
            if made[-1] in base.tokenizer.eos_token_ids:
                made.pop()
                break
        expected = base.tokenizer.decode(made)
        assert generated(cli, run, max_tokens=8) == expected

    def test_selections_differ(self, cli, run):
        texts = {
            generated(cli, run, experts=who, max_tokens=24)
            for who in ("base", "generalist", "specialist", "auto", "0.1,0.2,0.7")
        }
        assert len(texts) >= 4

    def test_a_seed_decides_what_is_drawn(self, cli, run):
        options = {"temp": 1.0, "max_tokens": 16}
        first = generated(cli, run, seed=1, **options)
        assert generated(cli, run, seed=1, **options) == first
        assert generated(cli, run, seed=2, **options) != first

    def test_ends_before_a_stop_word(self, cli, run):
        whole = generated(cli, run, max_tokens=24)
        word = whole[5:8]
        found = generated(cli, run, max_tokens=24, stop=word)
        assert found == whole[: whole.index(word)]
        listed = json.dumps(["never said", word])
        assert generated(cli, run, max_tokens=24, stop=listed) == found

    @pytest.mark.parametrize("flag", ["chat_template_args", "chat_template_config"])
    def test_arguments_reach_the_chat_template(self, cli, run, monkeypatch, flag):
        from comigs_mlx.inference import prompts

        seen, real = [], prompts.chat_tokens
        monkeypatch.setattr(
            prompts, "chat_tokens", lambda *given: seen.append(given) or real(*given)
        )
        arguments = '{"enable_thinking": false}'
        generated(cli, run, max_tokens=1, **{flag: arguments})
        assert seen[0][-1] == {"enable_thinking": False}

    def test_a_system_prompt_comes_first(self, cli, run, tmp_path):
        trace = tmp_path / "trace.json"
        generated(cli, run, system_prompt="be kind", trace=trace, max_tokens=1)
        tokens = json.loads(trace.read_text())["tokens"]
        prompt = "".join(token["text"] for token in tokens if token["prompt"])
        assert prompt.startswith("<|im_start|>system\nbe kind<|im_end|>\n")
        assert "user\nhello" in prompt


class TestLean:
    def test_more_me_and_more_everyone(self, cli, run):
        """As far as it goes, they are the specialists and the generalist alone."""
        for most, side in ((50, "specialist"), (-50, "generalist")):
            leaning = generated(cli, run, lean=most, max_tokens=24)
            assert leaning == generated(cli, run, experts=side, max_tokens=24)

    def test_of_the_run_is_used_unless_another_is_given(self, cli, run, tmp_path):
        mine = shutil.copytree(run, tmp_path / "mine")
        plain = generated(cli, run, max_tokens=24)
        leaning = generated(cli, run, max_tokens=24, lean=50)
        trials = [lean.Trial(0.0, 2.0), lean.Trial(50.0, 1.0)]
        lean.keep(RunFolder(mine), RunFolder(mine).load()[1], trials, 9)
        code, out, err = cli(main, run=mine, prompt="hello", max_tokens=24)
        assert (code, out[:-1]) == (0, leaning)
        assert "note: leaning by +50, as calibrated (--lean 0 turns it off)" in err
        assert generated(cli, mine, max_tokens=24, lean=0) == plain != leaning


class TestPrior:
    def test_is_that_of_the_prompt(self, cli, run, tmp_path):
        mine = shutil.copytree(run, tmp_path / "mine")
        assert evaluate.main(["--run", str(mine), "--calibrate-prior"]) is None
        given = {"run": mine, "prompt": "hello, dear diary", "max_tokens": 24}
        _, _, err = cli(main, **given, prior=1000)
        leaning = float(re.search(r"the prompt leans by ([+-]\S+) \(--prior 0", err)[1])
        assert abs(leaning) > 1
        plain = generated(cli, run, given["prompt"], max_tokens=24)
        assert cli(main, **given, prior=0)[1][:-1] == plain
        side = "specialist" if leaning > 0 else "generalist"
        far = cli(main, **given, prior=10**6)[1][:-1]
        assert far == cli(main, **given, prior=0, experts=side)[1][:-1]

    def test_of_a_run_that_keeps_none(self, cli, run):
        code, _, err = cli(main, run=run, prompt="hello", prior=1)
        assert code == 2
        assert "keeps no prior.json: make it with comigs_mlx.evaluate" in err


class TestSteer:
    def test_says_who_is_steered_to(self, cli, run, tmp_path, monkeypatch):
        file = tmp_path / "letters.txt"
        file.write_text("zzzz qqqq " * 30)
        monkeypatch.setattr(generate, "QUIET_SECONDS", -1.0)
        given = {"run": run, "prompt": "hello", "max_tokens": 24}
        code, out, err = cli(main, **given, steer=file, steer_by=50)
        assert code == 0, err
        assert re.search(r"^comparing texts 1/3 windows  eta \d", err, re.MULTILINE)
        (note,) = (line for line in err.splitlines() if "letters.txt" in line)
        assert note.startswith(f"note: steering by {file}: +50 for the ")
        assert out[:-1] != generated(cli, run, max_tokens=24)
        assert out[:-1] == generated(cli, run, max_tokens=24, steer=file, steer_by=50)


class TestReroute:
    def test_fits_the_router_to_a_text(self, cli, run, tmp_path):
        file = tmp_path / "letter.txt"
        file.write_text("the keeper wrote down the wind and the sails")
        given = {"run": run, "prompt": "hello", "max_tokens": 24}
        code, out, err = cli(main, **given, reroute=file, reroute_steps=3)
        assert code == 0, err
        losses = re.search(r"loss of the context from (\S+) to (\S+)", err)
        assert float(losses[2]) < float(losses[1])
        base, mixture = RunFolder(run).load()
        tokens = rerouting.context(base, pasted=file.read_text())
        settings = Settings(
            temperature=0.0, top_p=1.0, max_tokens=24, seed=0, reroute=3
        )
        settings = rerouting.rerouted(settings, mixture, tokens)
        prompt = prompt_ids(base.tokenizer, "hello")
        made = inference.Generation(base, mixture, prompt, settings)
        assert out[:-1] == "".join(token.text for token in made)


class TestWhileItWorks:
    @pytest.fixture
    def interrupted(self, monkeypatch):
        """(number) -> Ctrl-C when the model is run for that time, counted from 0."""

        def at(number):
            real, calls = Recorder.__call__, iter(range(1000))

            def call(self, *args, **kwargs):
                if next(calls) == number:
                    raise KeyboardInterrupt
                return real(self, *args, **kwargs)

            monkeypatch.setattr(Recorder, "__call__", call)

        return at

    def test_ctrl_c_while_reading_is_one_line(self, cli, run, interrupted):
        interrupted(0)
        code, out, err = cli(main, run=run, prompt="hello")
        assert (code, out) == (130, "")
        assert err.splitlines()[-1] == "interrupted"

    def test_ctrl_c_while_answering_begins_a_line(self, cli, run, interrupted):
        text = generated(cli, run, max_tokens=8)
        interrupted(5)
        code, out, err = cli(main, run=run, prompt="hello", max_tokens=8)
        assert code == 130
        assert out.endswith("\n")
        assert text.startswith(out[:-1])
        assert err.splitlines()[-1] == "interrupted"

    def test_a_real_ctrl_c_is_heard_within_a_chunk(self, run):
        """As the terminal sends it, while a prompt is read."""
        command = [sys.executable, "-c", SLOW_READING, "--run", str(run)]
        command += ["--prompt", "x" * 90]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "reading\n"
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (130, "")
        assert err.splitlines()[-1] == "interrupted"
        assert "Traceback" not in err

    def test_reading_a_long_prompt_tells_how_far_it_is(self, cli, run, monkeypatch):
        monkeypatch.setattr(inference, "chunk_tokens", lambda: 16)
        monkeypatch.setattr(generate, "QUIET_SECONDS", -1.0)
        _, _, err = cli(main, run=run, prompt="x" * 40, max_tokens=1)
        lines = [line for line in err.splitlines() if line.startswith("reading")]
        assert len(lines) > 2
        assert re.fullmatch(r"reading the prompt 16/\d+ tokens  eta \d+:\d\d", lines[0])

    def test_of_a_short_one_nothing_is_said(self, cli, run):
        _, _, err = cli(main, run=run, prompt="hello", max_tokens=1)
        assert "reading" not in err

    def test_a_model_without_a_chat_template_is_no_chat_model(self, cli, run, tmp_path):
        copy, base = tmp_path / "run", tmp_path / "base"
        shutil.copytree(run, copy)
        info = json.loads((copy / "comigs.json").read_text())
        shutil.copytree(info["base_model"]["id"], base)
        info["base_model"]["id"] = str(base)
        (copy / "comigs.json").write_text(json.dumps(info))
        settings = json.loads((base / "tokenizer_config.json").read_text())
        settings["chat_template"] = None
        (base / "tokenizer_config.json").write_text(json.dumps(settings))
        note = f"note: {base} has no chat template, so it is no chat model"
        _, _, err = cli(main, run=copy, prompt="hello", max_tokens=1)
        assert err.count(note) == 1
        flags = {"ignore_chat_template": True, "max_tokens": 1}
        assert note not in cli(main, run=copy, prompt="hello", **flags)[2]


SLOW_READING = """
import time
from comigs_mlx import command, generate
from comigs_mlx.inference import generation as inference
inference.chunk_tokens = lambda: 8
real = generate._Reading.__call__
def slow(self, progress):
    if progress.done == 8:
        print("reading", flush=True)
    time.sleep(0.2)
generate._Reading.__call__ = slow
command.run(generate.main)
"""


class TestTrace:
    @pytest.fixture
    def trace(self, cli, run, tmp_path):
        file = tmp_path / "trace.json"
        text = generated(cli, run, "a prompt", trace=file, max_tokens=12)
        return text, json.loads(file.read_text())

    def test_has_the_public_format(self, trace, tiny_folder):
        text, found = trace
        assert found.keys() == {"model", "experts", "layers", "tokens"}
        assert found["model"] == str(tiny_folder())
        assert found["experts"] == ["generalist", "specialist", "specialist-1"]
        assert found["layers"] == ["model.layers.0.mlp", "model.layers.1.mlp"]
        for token in found["tokens"]:
            assert token.keys() == {"id", "text", "prompt", "weights"}
            assert np.shape(token["weights"]) == (2, 3)
            assert np.allclose(np.sum(token["weights"], -1), 1, atol=1e-5)
        order = [token["prompt"] for token in found["tokens"]]
        assert order == sorted(order, reverse=True)
        own = [token["text"] for token in found["tokens"] if not token["prompt"]]
        assert "".join(own) == text

    def test_weights_are_those_of_a_full_forward_pass(self, trace, run):
        _, found = trace
        _, mixture = RunFolder(run).load()
        _, routing = mixture(mx.array([[token["id"] for token in found["tokens"]]]))
        expected = np.array(routing.weights)[:, 0].transpose(1, 0, 2)
        weights = np.array([token["weights"] for token in found["tokens"]])
        assert np.abs(weights - expected).max() <= 2e-5
        assert (weights == 0).any()  # top-2 of 3

    def test_is_summed_up_for_people(self, cli, run):
        _, _, err = cli(main, run=run, prompt="hi", max_tokens=4)
        assert re.search(r"^\d+ % specialist", err, re.MULTILINE)
        _, _, err = cli(main, run=run, prompt="hi", max_tokens=4, experts="base")
        assert "specialist" not in err

    def test_page_escapes_what_the_prompt_says(self, cli, run, tmp_path):
        page, data = tmp_path / "who.html", tmp_path / "who.json"
        generated(cli, run, HOSTILE, html=page, trace=data, max_tokens=2)
        text = "".join(t["text"] for t in json.loads(data.read_text())["tokens"])
        assert HOSTILE in text  # as it is in the data
        content = page.read_text()
        assert "alert(1)" not in re.sub(r"(?s)<script[^>]*>.*?</script>", "", content)
        assert "<img src=x" not in content
        assert "</script><script>alert" not in content


class TestRefused:
    @pytest.mark.parametrize(
        ("flags", "expected"),
        [
            ({"prompt": ""}, "--prompt TEXT is missing"),
            ({"experts": "nobody"}, "unknown experts 'nobody'"),
            ({"experts": "1,2"}, "expected 3 weights"),
            ({"max_tokens": 0}, "--max-tokens 0 must be at least 1"),
            ({"temp": 100.5}, "--temp 100.5 must be from 0 to 100"),
            ({"temp": -1.0}, "--temp -1.0 must be from 0 to 100"),
            ({"top_p": 0.0}, "--top-p 0.0 must be above 0"),
            ({"fuse": True}, "are more than one, or not of weight 1"),
            ({"fuse": True, "trace": "x.json"}, "nothing to trace: drop one"),
            ({"seed": -1}, "--seed -1 must be from 0 to 2^64 - 1"),
            ({"seed": 2**64}, f"--seed {2**64} must be at most {2**63 - 1}"),
            ({"min_p": 2.0}, "--min-p 2.0 must be from 0 to 1"),
            ({"top_k": -1}, "--top-k -1 must be at least 0"),
            ({"xtc_probability": 2.0}, "--xtc-probability 2.0 must be from 0 to 1"),
            ({"xtc_threshold": 0.7}, "--xtc-threshold 0.7 must be from 0 to 0.5"),
            ({"repetition_penalty": 0.0}, "--repetition-penalty 0.0 must be above 0"),
            ({"presence_penalty": "nan"}, "--presence-penalty nan must be a finite"),
            ({"frequency_penalty": "nan"}, "--frequency-penalty nan must be a finite"),
            ({"min_tokens_to_keep": 0}, "--min-tokens-to-keep 0 must be at least 1"),
            (
                {"repetition_context_size": 0},
                "--repetition-context-size 0 must be at least 1",
            ),
            ({"logit_bias": "x"}, "--logit-bias expects JSON such as"),
            ({"logit_bias": '{"a": 1}'}, "--logit-bias expects JSON such as"),
            ({"steer": "/no/such/text"}, "/no/such/text: cannot be read"),
            ({"steer_by": 51}, "--steer-by 51.0 must be from -50 to 50"),
            (
                {"steer": "/dev/null", "experts": "base"},
                "--steer moves the router's choice: it needs experts auto",
            ),
            ({"steer": "/dev/null"}, "/dev/null has 0 tokens, too few to tell"),
            ({"prior": -1}, "--prior -1.0 must be from 0 to 1e+06"),
            ({"reroute": "/no/such/text"}, "/no/such/text: cannot be read"),
            ({"reroute": "/dev/null"}, "/dev/null has 0 tokens, too few to fit"),
            (
                {"reroute": "/dev/null", "reroute_steps": 0},
                "--reroute-steps 0 must be at least 1",
            ),
            (
                {"reroute": "/dev/null", "reroute_steps": 101},
                "--reroute-steps 101 must be from 0 to 100",
            ),
            ({"lean": "nan"}, "--lean nan must be a finite number"),
            ({"lean": 51}, "--lean 51.0 must be from -50 to 50"),
            ({"lean": 1, "experts": "base"}, "--lean moves the router's choice"),
            ({"stop": "[1"}, "--stop expects JSON such as"),
            ({"stop": ""}, "--stop must not hold an empty text"),
            ({"chat_template_args": "[]"}, "--chat-template-args expects JSON"),
            (
                {"chat_template_args": '{"tokenize": true}'},
                "--chat-template-args must not set tokenize",
            ),
            ({"temp": "nan"}, "--temp nan must be a finite number"),
            ({"temp": "inf"}, "--temp inf must be a finite number"),
            ({"top_p": 1.5}, "--top-p 1.5 must be above 0 and at most 1"),
            ({"top_p": "nan"}, "--top-p nan must be a finite number"),
            ({"experts": "1,x,0"}, "--experts 1,x,0: expected auto, base"),
            ({"experts": "nan,0.5,0.5"}, "weights"),
            ({"prompt": " \n"}, "--prompt is blank: give some text"),
            ({"prompt": " ", "ignore_chat_template": True}, "--prompt is blank"),
            ({"system_prompt": "\udcff"}, " is not UTF-8 text"),
            ({"prompt": "x" * 200}, "tokens long, "),
            ({"prompt": "x" * 200}, " reads at most 128: shorten it"),
            ({"run": "/no/such/run"}, "no run at /no/such/run"),
            ({"trace": "/no/such/folder/x.json"}, "there is no folder /no/such/folder"),
            ({"html": "/no/such/folder/x.html"}, "there is no folder /no/such/folder"),
            (
                {"html": "/proc/comigs"},
                "not an ordinary file, and must not be replaced",
            ),
        ],
    )
    def test_in_one_line_and_nothing_changes(self, cli, run, flags, expected):
        before = tree(run)
        code, out, err = cli(main, **{"run": run, "prompt": "hello", **flags})
        *_, last = err.splitlines()
        assert (code, out) == (2, "")
        assert last.startswith("error: ")
        assert expected in last
        assert tree(run) == before

    def test_bytes_that_are_not_utf_8_on_a_real_command_line(self, run):
        command = [sys.executable, "-m", "comigs_mlx.generate", "--run", str(run)]
        done = subprocess.run(
            [*map(os.fsencode, command), b"--prompt", b"caf\xe9"], capture_output=True
        )
        assert (done.returncode, done.stdout) == (2, b"")
        first, *_ = done.stderr.decode().splitlines()
        assert first.startswith("error: --prompt 'caf\\udce9' is not UTF-8 text")
        assert "Traceback" not in done.stderr.decode()

    def test_a_trace_that_could_not_be_written_before_anything_is_said(
        self, cli, run, tmp_path, monkeypatch
    ):
        outcome = cli(main, run=run, prompt="hello", trace=tmp_path)
        assert outcome[:2] == (2, "")
        assert "this is a folder" in outcome[2]
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        outcome = cli(main, run=run, prompt="hello", html=tmp_path / "x.html")
        assert outcome[:2] == (2, "")
        assert f"you may not write in {tmp_path}" in outcome[2]

    def test_specialists_where_there_are_none(self, cli, trained):
        run = trained(specialists=0, steps=2)
        code, _, err = cli(main, run=run, prompt="x", experts="specialist")
        assert code == 2
        assert err.endswith("this mixture has no specialist\n")

    def test_a_run_cut_short(self, cli, run, tmp_path):
        copy = shutil.copytree(run, tmp_path / "run")
        file = copy / "specialist" / "experts.safetensors"
        file.write_bytes(file.read_bytes()[:100])
        code, out, err = cli(main, run=copy, prompt="x")
        assert (code, out) == (2, "")
        assert f"cannot read {file}" in err
