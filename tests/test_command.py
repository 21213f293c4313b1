"""What all commands share: exit codes, one-line errors, progress."""

import errno
import sys
import time
import warnings

import pytest

from comigs_mlx import command, evaluate, generate, train
from comigs_mlx.errors import ConfigError, DataError

COMMANDS = {"train": train, "evaluate": evaluate, "generate": generate}


def raising(error):
    def main(argv):
        raise error

    return main


class TestExitCodes:
    def test_success(self, cli):
        assert cli(lambda argv: command.show("done")) == (0, "done\n", "")

    @pytest.mark.parametrize("kind", [ConfigError, DataError])
    def test_bad_input_is_2_with_the_reason_alone(self, cli, kind):
        assert cli(raising(kind("no such thing"))) == (2, "", "error: no such thing\n")

    def test_ctrl_c_is_130(self, cli):
        assert cli(raising(KeyboardInterrupt())) == (130, "", "interrupted\n")

    def test_a_reader_that_went_away_is_no_error(self, cli, monkeypatch):
        monkeypatch.setattr(sys.stderr, "close", lambda: None)
        assert cli(raising(BrokenPipeError())) == (0, "", "")

    def test_trouble_with_the_disk_is_said_in_one_line(self, cli):
        error = OSError(errno.ENOSPC, "No space left on device", "/runs/notes")
        assert cli(raising(error)) == (
            2,
            "",
            "error: No space left on device: '/runs/notes'\n",
        )

    def test_a_bug_is_not_hidden(self, cli):
        with pytest.raises(ZeroDivisionError):
            cli(raising(ZeroDivisionError()))

    def test_warnings_are_lines_too(self, cli):
        def main(argv):
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                shown = warnings.showwarning
                shown(UserWarning("take care"), UserWarning, "file.py", 1)

        assert cli(main) == (0, "", "warning: take care\n")


@pytest.mark.parametrize("name", COMMANDS)
class TestEveryCommand:
    def test_help_says_what_it_is_and_names_every_option(self, cli, name):
        code, out, err = cli(COMMANDS[name].main, "--help")
        assert (code, err) == (0, "")
        assert out.startswith(f"usage: python -m comigs_mlx.{name}")
        assert "--run" in out
        assert "--config FILE.yaml" in out

    @pytest.mark.parametrize(
        ("flags", "expected"),
        [
            (["--nonsense", "1"], "unrecognized arguments: --nonsense 1"),
            (["--ru", "x"], "unrecognized arguments: --ru x"),  # no abbreviations
            (["--config", "missing.yaml"], "cannot read configuration missing.yaml"),
            (["stray"], "unrecognized arguments: stray"),
        ],
    )
    def test_wrong_flags(self, cli, name, flags, expected, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        refused(cli(COMMANDS[name].main, *flags), expected)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ("nonsense: 1", "unknown option 'nonsense'"),
            ("seed: [1", "cannot read configuration"),
            ("- run", "my.yaml: expected 'option: value' lines"),
            ("run: 3", "run: expected str, got 3"),
        ],
    )
    def test_wrong_configuration(
        self, cli, name, content, expected, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "my.yaml").write_text(content)
        code, out, err = cli(COMMANDS[name].main, "--config", "my.yaml")
        assert (code, out) == (2, "")
        assert err.startswith(f"error: {expected}")
        assert [p.name for p in tmp_path.iterdir()] == ["my.yaml"]


def refused(outcome, expected):
    code, out, err = outcome
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert expected in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


class TestProgress:
    def test_as_plain_lines_says_the_first_and_the_last(self, capsys):
        with command.progress(5, "step") as advance:
            for i in range(5):
                advance(f"loss {i}")
        first, last = capsys.readouterr().err.splitlines()
        assert first == "step 1/5  loss 0"
        assert last.startswith("step 5/5  loss 4  eta 0:00")

    def test_says_a_line_now_and_then_with_the_time_left(self, capsys, monkeypatch):
        now = [100.0]
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        with command.progress(100, "step") as advance:
            for _ in range(21):
                advance("x")
                now[0] += 1
        lines = capsys.readouterr().err.splitlines()
        assert lines == ["step 1/100  x", "step 17/100  x  eta 1:23"]

    def test_is_a_bar_on_a_terminal(self, capsys, monkeypatch):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        with command.progress(2, "step") as advance:
            advance("loss 1")
            advance("loss 2")
        err = capsys.readouterr().err
        assert "2/2" in err
        assert "eta" in err
        assert "loss 2" in err

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (65, "1:05"), (3661, "1:01:01")],
    )
    def test_clock(self, seconds, text):
        assert command.clock(seconds) == text
