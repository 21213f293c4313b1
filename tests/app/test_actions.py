"""What the tabs' buttons do, on plain data and real runs of the tiny model."""

import dataclasses
import shutil
import types
import unicodedata

import pytest

from app import training
from app.actions import runs, train
from app.actions.train import TrainActions
from comigs_mlx.errors import ComigsError, ConfigError, DataError, RunError
from comigs_mlx.runs.listing import RunEntry


@pytest.fixture
def folder(trained, tmp_path):
    shutil.copytree(trained(), tmp_path / "runs" / "notes")
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "comigs.json").write_text("{}")
    return tmp_path / "runs"


def test_runs_are_told_apart(folder, tmp_path):
    assert runs.choices(folder) == [
        ("Base model only", ""),
        ("broken · broken", "broken"),
        ("notes · step 6", "notes"),
    ]
    assert runs.first(folder) == "notes"
    assert runs.find(folder, "notes") == folder / "notes"
    assert runs.find(folder, "") is None
    assert runs.first(tmp_path / "none") == ""
    assert "No run yet" in runs.advice(tmp_path / "none")
    assert "Broken run. broken:" in runs.advice(folder)


def test_a_first_training_is_not_called_broken(tmp_path, monkeypatch):
    entry = RunEntry("mine", tmp_path, problem="has no save: --resume", training=True)
    monkeypatch.setattr(runs, "entries", lambda folder: [entry])
    assert "mine: the first training is under way" in runs.advice(tmp_path)
    assert "roken" not in runs.advice(tmp_path)
    assert runs.choices(tmp_path)[1] == ("mine · training", "mine")
    with pytest.raises(RunError, match="being trained and has nothing saved yet"):
        runs.find(tmp_path, "mine")
    ended = dataclasses.replace(entry, training=False)
    monkeypatch.setattr(runs, "entries", lambda folder: [ended])
    assert "Broken run. mine: has no save: Resume" in runs.advice(tmp_path)


@pytest.mark.parametrize("name", ["..", "../runs/notes", "/etc", "nothing", 3])
def test_only_listed_runs_can_be_chosen(folder, name):
    with pytest.raises(RunError, match="no run of that name"):
        runs.find(folder, name)


def test_a_broken_run_says_why(folder):
    with pytest.raises(RunError, match="broken cannot be used: "):
        runs.find(folder, "broken")


@pytest.mark.parametrize(
    "name",
    ["", "../x", ".hidden", "a\tb", "x" * 65, None, "-x", "a/b", "a\0b", "é" * 60],
)
def test_names_a_run_may_not_have(model_queue, folder, text_folder, name):
    actions = TrainActions(folder, True, model_queue()[0])
    with pytest.raises(ConfigError, match="A run's name has letters"):
        actions.start(name, str(text_folder), None, {})


@pytest.mark.parametrize("name", ["my notes", "Tagebücher", "日記", "a-b_c", " mine "])
def test_names_a_run_may_have(model_queue, tmp_path, name, started):
    actions = TrainActions(tmp_path / "runs", True, model_queue()[0])
    made = actions.start(name, "demo", None, {})
    assert made == name.strip()
    assert started == [(tmp_path / "runs" / made, {"data": "demo"})]


def test_one_name_has_one_spelling(model_queue, tmp_path, started):
    actions = TrainActions(tmp_path / "runs", True, model_queue()[0])
    made = actions.start(unicodedata.normalize("NFD", "Tagebücher"), "demo", None, {})
    assert made == unicodedata.normalize("NFC", "Tagebücher")


@pytest.fixture
def started(monkeypatch):
    """The trainings that were begun: folder and options; none really is."""
    told = []
    monkeypatch.setattr(train.process, "start", lambda *given: told.append(given))
    return told


def test_the_name_of_a_start_that_failed_can_be_used_again(
    model_queue, tmp_path, started
):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / ".train.log").write_text("error: no such model")
    actions = TrainActions(tmp_path / "runs", True, model_queue()[0])
    assert actions.start("mine", "demo", None, {}) == "mine"


def test_files_and_a_path_together_are_refused(model_queue, tmp_path):
    file = tmp_path / "note.txt"
    file.write_text("words\n")
    actions = TrainActions(tmp_path / "runs", True, model_queue()[0])
    with pytest.raises(DataError, match="remove the files, or clear the path"):
        actions.data(str(file), [str(file)])
    assert not (tmp_path / "runs").exists()


def test_two_files_of_one_name_are_refused(model_queue, tmp_path):
    files = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        files.append(tmp_path / folder / "note.txt")
        files[-1].write_text(folder)
    actions = TrainActions(tmp_path / "runs", True, model_queue()[0])
    with pytest.raises(DataError, match="Two files are named note.txt"):
        actions.data("", [str(file) for file in files])


@pytest.mark.parametrize(
    "spelled",
    [
        "{}/my notes",
        " {}/my notes ",
        "'{}/my notes'",
        '"{}/my notes"',
        "{}/my\\ notes",
        "file://{}/my%20notes",
        "FILE://localhost{}/my%20notes",
    ],
)
def test_a_path_however_it_was_copied(model_queue, tmp_path, spelled):
    (tmp_path / "my notes").mkdir()
    actions = TrainActions(tmp_path / "runs", True, model_queue()[0])
    found = actions.data(spelled.format(tmp_path), None)
    assert found == str(tmp_path / "my notes")


def test_a_name_with_quotes_of_its_own_is_taken_as_it_is(model_queue, tmp_path):
    odd = tmp_path / "back\\slash 'n"
    odd.mkdir()
    actions = TrainActions(tmp_path / "runs", True, model_queue()[0])
    assert actions.data(str(odd), None) == str(odd)


def test_too_little_text_is_told_without_a_hidden_folder(model_queue, tmp_path):
    files = []
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("words\n")
        files.append(str(tmp_path / name))
    actions = TrainActions(tmp_path / "runs", True, model_queue()[0])
    with pytest.raises(DataError, match="your files") as told:
        actions.preview("", files)
    assert train.UPLOADS not in str(told.value)


@pytest.mark.parametrize(
    ("steps", "warned"), [(20, True), (29, True), (30, False), (300, False)]
)
def test_a_router_that_would_learn_nothing_is_told_before(
    model_queue, folder, steps, warned
):
    made = TrainActions(folder, True, model_queue()[0]).estimate({"steps": steps})
    assert ("router will not be trained" in made) is warned


def test_what_a_training_remarks_is_seen_without_its_log():
    state = types.SimpleNamespace(
        running=True,
        progress=(17, 24),
        eta_seconds=1.0,
        paused=None,
        problem=None,
        stopping=False,
        notes=["the router will not be trained: --steps 24 is less"],
        lines=["note: something else", "step 1/24"],
    )
    made = training.progress(state, [])
    shown = made[: made.index("<details>")]
    assert "The router will not be trained: Steps 24 is less" in shown
    assert "omething else" not in shown


def test_training_refuses_before_anything_is_written(model_queue, folder, text_folder):
    actions = TrainActions(folder, True, model_queue()[0])
    before = sorted(folder.rglob("*"))
    for name, path, options, message in [
        ("notes", str(text_folder), {}, "There is a run named notes"),
        ("new", "", {}, "Name a folder or file, or add files"),
        ("new", str(text_folder), {"rank": 0}, "--rank 0 must be at least 1"),
    ]:
        with pytest.raises(ComigsError, match=message):
            actions.start(name, path, None, options)
    assert sorted(folder.rglob("*")) == before


def test_from_elsewhere_no_path_on_this_machine_is_read(
    model_queue, folder, text_folder
):
    actions = TrainActions(folder, False, model_queue()[0])
    with pytest.raises(DataError, match="add files instead of a path"):
        actions.data(str(text_folder), None)
    assert actions.data("demo:journal", None) == "demo:journal"


def test_uploaded_files_are_kept_once(model_queue, folder, tmp_path):
    actions = TrainActions(folder, True, model_queue()[0])
    file = tmp_path / "note.txt"
    file.write_text("words\n")
    kept = actions.data("", [str(file)])
    assert actions.data("", [str(file)]) == kept
    assert [p.name for p in (folder / train.UPLOADS).iterdir()] == [kept.split("/")[-1]]
    assert (folder / train.UPLOADS / kept / "note.txt").read_text() == "words\n"
    assert "notes" in actions.names()
    assert train.UPLOADS not in actions.names()


def test_who_the_reader_is_decides_what_is_learnt(model_queue, folder, tmp_path):
    days = [
        f"[{day:02}.03.26, 08:{minute}:00] {who}: {text} {day}\n"
        for day in range(1, 21)
        for minute, who, text in ((10, "Ole", "Is the pump"), (11, "Ann", "It runs"))
    ]
    chat = tmp_path / "chat.txt"
    chat.write_text("".join(days))
    actions = TrainActions(folder, True, model_queue()[0])
    with pytest.raises(DataError, match=r"who are you in .*Ole \(20\), Ann \(20\)"):
        actions.preview(str(chat), None)
    shown = actions.preview(str(chat), None, " Ann , ann@example.org,", True)
    assert "Ann (you)" in shown


def test_a_preview_counts_documents(model_queue, folder, text_folder):
    made = TrainActions(folder, True, model_queue()[0]).preview(str(text_folder), None)
    for cell in ("<td>train</td><td>200</td>", "<td>valid</td><td>40</td>"):
        assert cell in made
    assert "not counted" in made
    assert "<li>secrets: none found</li>" in made


def test_a_finished_run_stands_still(model_queue, folder):
    actions = TrainActions(folder, True, model_queue()[0])
    state, plots, running = actions.standing("notes")
    assert not running
    assert "6 of 6 steps" in state
    assert "Loss" in plots
    assert "generalist" in plots
    assert actions.standing("gone") == (
        '<p class="cm-note">No training yet.</p>',
        "",
        False,
    )


def test_progress_tells_how_long_and_what_is_wrong():
    state = types.SimpleNamespace(
        running=True,
        progress=(3, 10),
        eta_seconds=65.0,
        paused=None,
        problem=None,
        stopping=False,
        notes=[],
        lines=["<b>line</b>"],
    )
    made = training.progress(state, [])
    assert "3 of 10 steps, 1 min 5 s left" in made
    assert "&lt;b&gt;line" in made
    state.paused = "paused: on battery <24> %"
    made = training.progress(state, [])
    assert "Saved and paused: on battery &lt;24&gt; %. It goes on by itself." in made
    state.running, state.problem = False, "out of <disk>"
    assert "out of &lt;disk&gt;" in training.progress(state, [])


def test_the_widgets_numbers_become_options():
    pytest.importorskip("gradio")
    from app.tabs.train import chosen

    names = ["steps", "learning_rate", "mask_prompt"]
    assert chosen("demo", names, [" ", 20.0, 1.0, True]) == {
        "model": "demo",
        "steps": 20,
        "learning_rate": 1.0,
        "mask_prompt": True,
    }
