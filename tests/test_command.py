"""What all commands share: exit codes, one-line errors, progress."""

import errno
import importlib.util
import os
import subprocess
import sys
import time
import warnings
from importlib import metadata
from pathlib import Path

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

    def test_a_broken_pipe_elsewhere_is_one(self, cli):
        """A connection that broke, say, must not look like success."""
        code, _, stderr = cli(raising(BrokenPipeError(errno.EPIPE, "Broken pipe")))
        assert (code, stderr) == (2, "error: Broken pipe\n")

    def test_a_home_that_is_not_known(self, cli):
        code, _, stderr = cli(lambda argv: Path("~nobody-at-all/x").expanduser())
        assert code == 2
        assert stderr.startswith("error: no home folder is known")

    def test_trouble_with_the_disk_is_said_in_one_line(self, cli):
        error = OSError(errno.ENOSPC, "No space left on device", "/runs/notes")
        assert cli(raising(error)) == (
            2,
            "",
            "error: No space left on device: '/runs/notes': make room on the disk\n",
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


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[malloc_or_wait] Unable to allocate 99 bytes."),
        RuntimeError("[metal::malloc] Attempting to allocate 99 bytes"),
    ],
)
def test_too_little_memory_is_one_line(cli, error):
    code, out, err = cli(raising(error))
    assert (code, out) == (2, "")
    assert err.startswith("error: there is not enough memory for this: choose smaller")
    assert err.count("\n") == 1


def test_the_gpu_watchdog_is_one_line_that_says_what_helps(cli):
    text = "[METAL] Command buffer execution failed: Impacting Interactivity (0000000e)"
    code, out, err = cli(raising(RuntimeError(text)))
    assert (code, out) == (2, "")
    assert err.startswith("error: macOS ended the work on the GPU")
    for help in ("display sleep", "--resume", "--grad-checkpoint", "--batch-size"):
        assert help in err
    assert err.count("\n") == 1


class TestMissingExtras:
    """An optional package that is not there is one line with the command for it."""

    def test_every_one_is_an_extra_of_the_package(self):
        extras = metadata.metadata("comigs-mlx").get_all("Provides-Extra")
        assert set(command.EXTRAS.values()) <= set(extras)
        required = " ".join(metadata.requires("comigs-mlx")).replace("-", "_")
        assert all(package in required for package in command.EXTRAS)

    @pytest.mark.parametrize("package", command.EXTRAS)
    def test_met_anywhere_in_a_command(self, cli, package):
        error = ModuleNotFoundError(f"No module named {package!r}", name=package)
        assert cli(raising(error)) == (
            2,
            "",
            f"error: this needs the package {package}: pip install "
            f"'comigs-mlx[{command.EXTRAS[package]}]'\n",
        )

    def test_any_other_is_a_bug(self, cli):
        with pytest.raises(ModuleNotFoundError):
            cli(raising(ModuleNotFoundError("No module named 'x'", name="x")))

    def test_the_page_says_so_before_it_begins(self, cli, monkeypatch):
        from app import __main__ as page

        real = importlib.util.find_spec
        find = lambda name, *rest: None if name == "gradio" else real(name, *rest)
        monkeypatch.setattr(importlib.util, "find_spec", find)
        code, _, stderr = cli(page.main)
        assert code == 2
        assert stderr.splitlines()[-1].endswith("pip install 'comigs-mlx[app]'")
        assert "starting the page" not in stderr


WORKING = """
import sys
from comigs_mlx import command

def main():
    for step in range(2000):
        command.say(f"step {step}")
        if step == 1000:
            command.show("half")
    open(sys.argv[1], "w").write("done")
    command.show("done")

command.run(main)
"""


class TestUnread:
    """What a command says may be piped into a program that ends early."""

    def outcome(self, tmp_path, *closed):
        """Exit code of a command whose streams break; whether it went to its end."""
        pipes = {}
        for name in closed:
            read, pipes[name] = os.pipe()
            os.close(read)
        streams = {
            name: pipes.get(name, subprocess.PIPE) for name in ("stdout", "stderr")
        }
        file = tmp_path / "end"
        command = [sys.executable, "-c", WORKING, str(file)]
        process = subprocess.Popen(command, **streams, text=True)
        out, err = process.communicate()
        return process.returncode, file.exists(), out, err

    def test_messages(self, tmp_path):
        """The work goes on, and the result is still told."""
        assert self.outcome(tmp_path, "stderr") == (0, True, "half\ndone\n", None)

    def test_results(self, tmp_path):
        code, ended, _, err = self.outcome(tmp_path, "stdout")
        assert (code, ended) == (0, False)
        assert err.splitlines()[-1] == "step 1000"

    def test_both(self, tmp_path):
        assert self.outcome(tmp_path, "stdout", "stderr")[:2] == (0, False)


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
