"""RUN/.train.told.json: notes and the end of a training, told and not parsed."""

import ast
import json
from pathlib import Path

import pytest

import app
import comigs_mlx
from comigs_mlx.errors import DataError
from comigs_mlx.messages import Note
from comigs_mlx.runs import told


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv(told.ENVIRONMENT, str(tmp_path / told.FILE))
    return tmp_path / told.FILE


def explain(error):
    return None if isinstance(error, ZeroDivisionError) else str(error)


def test_notes_are_kept_as_they_come_and_everything_is_said(file, tmp_path):
    said = []
    with told.telling(said.append, explain) as say:
        say("loading the model")
        say(Note("the text is short"))
        assert told.read(tmp_path) == told.Told(["the text is short"])
        say(Note("so is the rest"))
    assert said == [
        "loading the model",
        "note: the text is short",
        "note: so is the rest",
    ]
    assert told.read(tmp_path) == told.Told(
        ["the text is short", "so is the rest"], done=True
    )
    assert json.loads(file.read_text())["format_version"] == 1
    assert [path.name for path in tmp_path.iterdir()] == [told.FILE]


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (ValueError("no such model"), "no such model"),
        (DataError("no such folder"), "no such folder"),
        (ZeroDivisionError("a bug"), None),
        (KeyboardInterrupt(), None),
    ],
)
def test_what_was_wrong_is_told(file, tmp_path, error, problem):
    with pytest.raises(type(error)), told.telling(print, explain):
        raise error
    about = "text" if isinstance(error, DataError) else ""
    assert told.read(tmp_path) == told.Told(done=False, problem=problem, kind=about)


def test_who_was_started_by_nobody_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv(told.ENVIRONMENT, raising=False)
    monkeypatch.chdir(tmp_path)
    with told.telling(print, explain) as say:
        say(Note("the text is short"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "{", "[]", '{"notes": 3}', "\udcff"])
def test_what_cannot_be_read_says_nothing(tmp_path, content):
    (tmp_path / told.FILE).write_bytes(content.encode("utf-8", "surrogateescape"))
    assert told.read(tmp_path) is None


def test_one_of_an_earlier_version_without_notes(tmp_path):
    (tmp_path / told.FILE).write_text('{"format_version": 1, "done": true}')
    assert told.read(tmp_path) == told.Told(done=True)


class TestNobodyReadsWhatIsPrinted:
    """Programs tell one another by files; sentences are for people."""

    APP, PACKAGE = Path(app.__file__).parent, Path(comigs_mlx.__file__).parent

    def texts(self, file):
        """All constant texts."""
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value

    def test_no_reader_knows_how_a_line_begins(self):
        readers = [*self.APP.rglob("*.py"), self.PACKAGE / "runs" / "process.py"]
        for file in readers:
            for text in self.texts(file):
                assert not text.startswith(("note:", "error:", "warning:")), file

    def test_the_log_is_read_for_no_other_purpose_than_to_be_shown(self):
        """The tail of the log goes to the page, its last line into a sentence."""
        found = {
            (file.name, ast.unparse(node))
            for file in [*self.APP.rglob("*.py"), *self.PACKAGE.rglob("*.py")]
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Subscript) and ".lines" in ast.unparse(node.value)
        }
        assert found == {
            ("training.py", "state.lines[-SHOWN_LINES:]"),
            ("process.py", "state.lines[-1]"),
        }
        used = [
            file.name
            for file in [*self.APP.rglob("*.py"), *self.PACKAGE.rglob("*.py")]
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Attribute) and node.attr == "lines"
            if ast.unparse(node.value) == "state"
        ]
        assert sorted(used) == ["process.py", "process.py", "training.py"]

    @pytest.mark.parametrize(
        "part", ["data", "model", "training", "runs", "federation", "train.py"]
    )
    def test_what_a_training_notes_is_a_note_and_not_only_called_one(self, part):
        place = self.PACKAGE / part
        for file in place.rglob("*.py") if place.is_dir() else [place]:
            assert not any(t.startswith("note: ") for t in self.texts(file)), file
