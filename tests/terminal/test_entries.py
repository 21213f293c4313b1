"""Lines, several lines at once, and what is kept of them."""

import io
import stat
import sys

import pytest

from comigs_mlx.terminal import entries
from comigs_mlx.terminal.entries import Entry, History, asking, read_entry


def typed(*lines):
    """All entries of some lines."""
    ask = asking(io.StringIO("".join(f"{line}\n" for line in lines)))
    found = []
    while (entry := read_entry(ask)) is not None:
        found.append(entry)
    return found


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["one", "two"], [Entry("one"), Entry("two")]),
        (["one\\", "two\\", "three", "x"], [Entry("one\ntwo\nthree"), Entry("x")]),
        (["one\\"], [Entry("one")]),
        (
            ['"""', "/quit", "", "  in\\", '"""', "on"],
            [Entry("/quit\n\n  in\\", block=True), Entry("on")],
        ),
        (['"""', "without an end"], [Entry("without an end", block=True)]),
        (["", "a\r"], [Entry(""), Entry("a")]),
        ([], []),
    ],
)
def test_lines_become_entries(lines, expected):
    assert typed(*lines) == expected


def test_the_last_line_needs_no_end():
    assert read_entry(asking(io.StringIO("last"))) == Entry("last")


def test_bytes_that_are_no_text_are_left_to_the_model_s_side():
    raw = io.TextIOWrapper(io.BytesIO(b"a\xff\n"), encoding="utf-8")
    assert read_entry(asking(raw)) == Entry("a\udcff")


def test_a_user_is_prompted_where_answers_go_to_a_file():
    shown = io.StringIO()
    ask = asking(io.StringIO("a\\\nb\n"), shown)
    assert read_entry(ask) == Entry("a\nb")
    assert shown.getvalue() == "> . "
    assert asking(io.StringIO(), sys.stdout) is input


class Lines:
    """Readline's history, as Python has it."""

    def __init__(self):
        self.lines = ["of another program"]

    def clear_history(self):
        self.lines.clear()

    def add_history(self, line):
        self.lines.append(line)

    def get_current_history_length(self):
        return len(self.lines)

    def get_history_item(self, number):
        return self.lines[number - 1]


class TestHistory:
    @pytest.fixture
    def readline(self, monkeypatch):
        lines = Lines()
        monkeypatch.setattr(entries, "_readline", lambda: lines)
        return lines

    def test_comes_back_and_is_the_user_s_alone(self, readline, tmp_path):
        file = tmp_path / "state" / "history"
        history = History(file)
        readline.add_history("hello")
        readline.add_history("/quit")
        history.keep()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        History(file)
        assert readline.lines == ["hello", "/quit"]

    def test_only_the_last_lines_are_kept(self, readline, tmp_path, monkeypatch):
        monkeypatch.setattr(entries, "MOST_LINES", 2)
        history = History(tmp_path / "history")
        readline.lines = ["a", "b", "c"]
        history.keep()
        assert (tmp_path / "history").read_text() == "b\nc\n"

    def test_switched_off_reads_and_writes_nothing(self, readline, tmp_path):
        History(None).keep()
        assert readline.lines == ["of another program"]
        assert list(tmp_path.iterdir()) == []

    def test_what_is_no_file_of_lines_is_left_alone(self, readline, tmp_path):
        (tmp_path / "history").write_bytes(b"x\n" * entries.MOST_BYTES)
        History(tmp_path / "history")
        assert readline.lines == []
