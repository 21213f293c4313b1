"""The command: flags to the same settings, a pipe's lines, one-line errors."""

import io
import json
import sys

import pytest

from comigs_mlx.chat import ChatConfig, main
from comigs_mlx.config import from_dict
from comigs_mlx.inference import options
from comigs_mlx.inference.settings import Settings


@pytest.fixture(scope="module")
def run(trained):
    return trained(specialists=2, learning_rate=0.05)


@pytest.fixture
def chat(cli, run, monkeypatch):
    """(lines, flags) -> exit code, stdout, stderr."""

    def say(*lines, **flags):
        monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
        return cli(main, **{"run": run, "max_tokens": 6, "temp": 0, **flags})

    return say


def test_the_defaults_are_the_engine_s():
    config = from_dict(ChatConfig, {"run": "x"})
    assert options.settings(config.speaker, config.sampling) == Settings()


def test_a_pipe_s_lines_are_answered_and_answers_alone_are_results(chat):
    code, out, err = chat("Dear diary", "", "and then?")
    assert code == 0
    assert "/help lists the commands" in err
    assert err.count("6 tokens") == 2
    assert "tokens" not in out
    assert "\x1b" not in out + err
    again = chat("Dear diary")
    assert again[0] == 0
    assert out.startswith(again[1])
    assert len(out) > len(again[1]) > 1


def test_goes_on_with_what_was_saved(chat, tmp_path):
    file = tmp_path / "talk.json"
    _, whole, _ = chat("one", "two", system="Be kind.")
    _, first, _ = chat("one", f"/save {file}", system="Be kind.")
    code, second, _ = chat("two", f"/save {file}", load=file)
    assert code == 0
    assert first + second == whole
    roles = [turn["role"] for turn in json.loads(file.read_text())["messages"]]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    chat(f"/save {file}", load=file, system_prompt="Be short.")
    turns = json.loads(file.read_text())["messages"]
    assert turns[0] == {"role": "system", "content": "Be short."}
    assert len(turns) == 5


def test_ends_before_a_stop_word(chat):
    bias = json.dumps({str(token): 2000.0 for token in (64, 65, 66, 67)})
    draws = {"temp": 20, "seed": 5, "logit_bias": bias, "max_tokens": 20}
    _, whole, _ = chat("hello", **draws)
    word = whole[5:8]
    _, found, err = chat("hello", stop=word, **draws)
    assert found == whole[: whole.index(word)] + "\n"
    assert "ended for its length" not in err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"run": ""}, "--run DIR is missing"),
        ({"run": "/no/such/run"}, "no run at /no/such/run"),
        ({"experts": "nobody"}, "unknown experts 'nobody'"),
        ({"experts": "1,2"}, "expected 3 weights"),
        ({"lean": 51}, "--lean 51.0 must be from -50 to 50"),
        ({"top_k": -1}, "--top-k -1 must be at least 0"),
        ({"load": "/no/such/talk.json"}, "cannot read /no/such/talk.json"),
        ({"nonsense": "x"}, "unrecognized arguments: --nonsense"),
    ],
)
def test_refused_in_one_line(chat, flags, expected):
    code, out, err = chat("never said", **flags)
    assert (code, out) == (2, "")
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert expected in line
    assert "Traceback" not in err


def test_a_mistake_in_a_pipe_ends_it(chat):
    code, out, err = chat("/experts nobody", "never said")
    assert (code, out) == (2, "")
    assert "unknown experts 'nobody'" in err


def test_without_any_input(cli, run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    code, _, err = cli(main, run=run)
    assert code == 2
    assert "error: there is no input: type, or give lines" in err
