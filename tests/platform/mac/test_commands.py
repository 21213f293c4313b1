"""Which commands are run on a Mac, with which arguments, and none elsewhere."""

import os
import subprocess
import sys

from comigs_mlx.platform import switch
from comigs_mlx.platform.mac import commands, notification
from comigs_mlx.platform.mac.awake import awake


class Helper:
    ended = 0

    def terminate(self):
        self.ended += 1

    def wait(self):
        assert self.ended


def test_the_mac_stays_awake_for_the_block_and_its_display_need_not():
    started, said, helper = [], [], Helper()
    with awake(True, said.append, lambda argv: (started.append(argv), helper)[1]):
        assert helper.ended == 0
    assert started == [["/usr/bin/caffeinate", "-is", "-w", str(os.getpid())]]
    assert helper.ended == 1
    (sentence,) = said
    assert "--no-caffeinate" in sentence
    assert "closed lid" in sentence


def test_nothing_is_said_where_it_is_not_wanted_or_cannot_be():
    said = []
    with awake(False, said.append, lambda argv: Helper()):
        pass
    with awake(True, said.append, lambda argv: None):
        pass
    assert said == []


def test_no_name_of_a_run_is_a_script():
    """A folder's name is an argument of a script that is always the same."""
    ran = []
    for name in ('"; do shell script "rm -rf ~" --', "-e", "notes"):
        notification.show(name, "training is done", ran.append)
    scripts, arguments = zip(*((argv[:-2], argv[-2:]) for argv in ran), strict=True)
    assert scripts[0] == scripts[1] == scripts[2]
    assert scripts[0][0] == "/usr/bin/osascript"
    assert "item 2 of argv" in " ".join(scripts[0])
    assert arguments[0] == [
        "CoMiGS",
        '"; do shell script "rm -rf ~" --: training is done',
    ]
    assert all(title == "CoMiGS" for title, _ in arguments)  # never read as an option


class TestTheSeam:
    def test_elsewhere_nothing_is_run(self):
        assert commands.output([sys.executable, "-c", "print(1)"]) is None
        assert commands.start([sys.executable, "-c", "print(1)"]) is None

    def test_on_a_mac_the_answer_or_none(self, monkeypatch):
        monkeypatch.setattr(switch, "macos", lambda: True)
        assert commands.output(["/bin/echo", "it's", "$HOME"]) == "it's $HOME\n"
        assert commands.output(["/bin/sh", "-c", "echo no; exit 3"]) is None
        assert commands.output(["/no/such/command"]) is None
        assert commands.start(["/no/such/command"]) is None

    def test_one_that_hangs_is_given_up(self, monkeypatch):
        def hang(argv, timeout, **_):
            raise subprocess.TimeoutExpired(argv, timeout)

        monkeypatch.setattr(switch, "macos", lambda: True)
        monkeypatch.setattr(subprocess, "run", hang)
        assert commands.output(["/bin/echo"]) is None
