"""What the Train tab does, on plain data and runs of the tiny model."""

import math
import re
import shutil
import types
import unicodedata
from pathlib import Path

import pytest

from app import training
from app.actions import train
from app.actions.sample import SampleActions
from app.actions.train import TrainActions
from comigs_mlx.errors import ComigsError, ConfigError, DataError
from comigs_mlx.options import train_config
from comigs_mlx.runs import process
from comigs_mlx.runs.gain import Gain


@pytest.fixture
def folder(trained, tmp_path):
    shutil.copytree(trained(), tmp_path / "runs" / "notes")
    return tmp_path / "runs"


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


def test_files_of_one_name_are_kept_beside_each_other(model_queue, tmp_path):
    """A browser tells no folders, and a folder of notes may hold a name twice."""
    files = []
    for folder, name in (("a", "note.txt"), ("b", "Note.txt"), ("c", "note.txt")):
        (tmp_path / folder).mkdir()
        files.append(tmp_path / folder / name)
        files[-1].write_text(folder)
    actions = TrainActions(tmp_path / "runs", True, model_queue()[0])
    kept = Path(actions.data("", [str(file) for file in files]))
    assert sorted(f.read_text() for f in kept.rglob("*") if f.is_file()) == [*"abc"]
    backwards = [str(file) for file in reversed(files)]
    assert actions.data("", backwards) == str(kept)


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


def test_too_little_text_is_told_in_plain_words(model_queue, tmp_path):
    files = []
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("words\n")
        files.append(str(tmp_path / name))
    actions = TrainActions(tmp_path / "runs", True, model_queue()[0])
    with pytest.raises(DataError, match="too little to learn from") as told:
        actions.check("", files)
    assert train.UPLOADS not in str(told.value)
    assert "valid" not in str(told.value)


@pytest.mark.parametrize(
    ("steps", "warned"), [(20, True), (29, True), (30, False), (300, False)]
)
def test_a_router_that_would_learn_nothing_is_told_before(
    model_queue, folder, steps, warned
):
    actions = TrainActions(folder, True, model_queue()[0])
    made = actions.estimate({"steps": steps}, "needs about 2 of 8 GB memory")
    assert ("router will not be trained" in made) is warned
    assert "Learning needs about 2 of 8 GB memory." in made


def training_state(**changes):
    usual = {
        "running": True,
        "progress": (3, 10),
        "eta_seconds": 65.0,
        "paused": None,
        "problem": None,
        "kind": "",
        "stopping": False,
        "notes": [],
        "lines": ["<b>line</b>"],
    }
    return types.SimpleNamespace(**{**usual, **changes})


def test_what_a_training_remarks_is_seen_without_its_log():
    notes = ["the router will not be trained: --steps 24 is less"]
    made = training.card("mine", training_state(notes=notes), [])
    assert "The router will not be trained: Steps 24 is less" in made
    assert "&lt;b&gt;" not in made


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


def test_who_the_reader_is_is_asked_where_nothing_tells(model_queue, folder, tmp_path):
    days = [
        f"[{day:02}.03.26, 08:{minute}:00] {who}: {text} {day}\n"
        for day in range(1, 21)
        for minute, who, text in ((10, "Ole", "Is the pump"), (11, "Ann", "It runs"))
    ]
    chat = tmp_path / "chat.txt"
    chat.write_text("".join(days))
    actions = TrainActions(folder, True, model_queue()[0])
    asked = actions.check(str(chat), None)
    assert asked.tokens == 0
    assert asked.speakers == [
        ("Ole (20 messages)", "Ole"),
        ("Ann (20 messages)", "Ann"),
    ]
    assert "--me" not in asked.html
    known = actions.check(str(chat), None, ["Ann"])
    assert known.speakers == ()
    assert known.tokens > 0
    assert "You are Ann, with 20 messages." in known.html
    assert "20 conversations" in known.html


def test_a_check_says_how_much_there_is(model_queue, folder, text_folder):
    actions = TrainActions(folder, True, model_queue()[0])
    checked = actions.check(str(text_folder), None)
    assert "250 notes, 1,885 words: enough for about 58 steps" in checked.html
    for cell in ("<td>to learn from</td><td>200</td>", "<td>not counted</td>"):
        assert cell in checked.html
    assert "No passwords, keys or card numbers were found in it." in checked.html
    assert not checked.secrets


def test_secrets_are_told_before_and_replaced(model_queue, folder, tmp_path):
    for i in range(30):
        text = "password: Xk29fQz81LmP\n" if i == 3 else ""
        (tmp_path / f"<i>{i}.txt").write_text(f"Note {i} of the week.\n{text}")
    actions = TrainActions(folder, True, model_queue()[0])
    checked = actions.check(str(tmp_path), None)
    assert "It holds 1 password." in checked.html
    assert "Xk29fQz81LmP" not in checked.html
    assert "<i>3" not in checked.html
    assert checked.secrets
    replaced = actions.check(str(tmp_path), None, redact=True)
    assert "Replaced: 1 password." in replaced.html
    assert replaced.secrets  # the choice can still be taken back


def test_a_finished_run_stands_still(model_queue, folder):
    actions = TrainActions(folder, True, model_queue()[0])
    now = actions.standing("notes")
    assert (now.running, now.usable, now.ended) == (False, True, True)
    assert "notes has learnt" in now.card
    assert "6 of 6 steps" in now.card
    assert "Loss" in now.curves
    assert "generalist" in now.curves
    none = actions.standing("gone")
    assert none.card == '<p class="cm-note">No training yet.</p>'
    assert not none.usable


def test_progress_tells_how_long_and_what_is_wrong():
    state = training_state()
    made = training.card("<mine>", state, [])
    assert "3 of 10 steps, 1 min 5 s left" in made
    assert "&lt;mine&gt; is learning" in made
    assert "&lt;b&gt;line" in training.log(state)
    state.paused = "paused: on battery <24> %"
    made = training.card("mine", state, [])
    assert "Saved and paused: on battery &lt;24&gt; %. It goes on by itself." in made
    state.running, state.problem = False, "out of <disk>"
    made = training.card("mine", state, [])
    assert "out of &lt;disk&gt;" in made
    assert "mine has stopped" in made


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        ([], None),
        ([2.0], None),
        ([None, 2.0, None], None),
        ([math.log(62), 3.9, math.log(48)], "23 % less than"),
        ([1.0, 1.0], "no less than"),
        ([1.0, math.inf], None),
    ],
)
def test_what_was_gained_is_told_from_two_measurements_on(losses, told):
    sentence = training.gain([{"valid_loss": loss} for loss in losses])
    assert (sentence is None) if told is None else (told in sentence)


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


def test_plans_follow_the_text_and_what_was_measured_here(
    model_queue, folder, monkeypatch
):
    actions = TrainActions(folder, True, model_queue()[0])
    monkeypatch.setattr(train.catalogue, "here", lambda name: None)
    plans = actions.plans(10_000, {})
    assert [plan.steps for plan in plans.values()] == [78, 155, 310]
    assert plans["short"].label == "Short\n78 steps · reads your text 4 times"
    model = actions.usual_model("demo")
    assert model != "demo"
    measured = actions.plans(10_000, {"model": model})
    assert re.match(r"Long\nabout .+ · 310 steps", measured["long"].label)
    large = actions.plans(50_000_000, {})
    assert "reads a part of your text" in large["long"].label


def test_a_name_is_proposed_that_no_run_has(model_queue, tmp_path):
    actions = TrainActions(tmp_path, True, model_queue()[0])
    assert actions.free_name() == "mine"
    for name in ("Mine", "mine 2"):
        (tmp_path / name).mkdir()
    assert actions.free_name() == "mine 3"


def test_a_federation_rules_the_shape_and_the_rounds(model_queue, tmp_path, started):
    actions = TrainActions(tmp_path / "runs", True, model_queue()[0])
    options = {"model": "demo", "rank": 8, "generalists": 1, "steps": 50, "seed": 3}
    sending = train.shared(train.SENDING, " somewhere ", "ann", 50)
    assert sending == {
        "federation": "somewhere",
        "local_steps": 20,
        "rounds": 3,
        "participant": "ann",
    }
    actions.start("mine", "demo", None, {**options, **sending})
    assert started[-1][1] == {"seed": 3, "data": "demo", **sending}
    (tmp_path / "base").mkdir()  # which the federation has no address of
    folder = str(tmp_path / "base")
    actions.start("other", "demo", None, {**options, "model": folder, **sending})
    assert started[-1][1] == {"seed": 3, "data": "demo", "model": folder, **sending}
    taking = train.shared(train.TAKING, "somewhere", "", 50)
    assert taking["join"]
    assert "participant" not in taking
    assert train.shared(train.ALONE, "somewhere", "ann", 50) == {}
    for how, uri, who in ((train.SENDING, "", "ann"), (train.SENDING, "x", " ")):
        with pytest.raises(ConfigError, match="Say "):
            train.shared(how, uri, who, 50)


@pytest.mark.parametrize("how", [train.SENDING, train.TAKING])
def test_what_is_chosen_with_a_federation_is_what_train_takes(how):
    options = {**train.shared(how, "somewhere", "ann", 50), "run": "x"}
    made = train_config(process._flags(options))
    assert made.sharing.federation == "somewhere"
    assert made.training.steps == 60


def test_a_sample_is_drawn_with_one_seed_from_both_sides(model_queue, folder):
    queue, parrot = model_queue()
    made = SampleActions(queue, folder).both("notes", "say <b>")
    assert [settings.selection for _, settings in parrot.asked] == ["base", "auto"]
    assert len({settings.seed for _, settings in parrot.asked}) == 1
    before, after = made.split("After")
    assert "say&lt;b&gt;" in before
    assert "say&lt;b&gt;" in after
    assert "<b>" not in made
    with pytest.raises(ConfigError, match="Choose a run"):
        SampleActions(queue, folder).both("", "hello")


def test_the_end_of_a_training_is_told_once(model_queue, folder, monkeypatch):
    actions = TrainActions(folder, True, model_queue()[0])
    going = {"notes"}
    monkeypatch.setattr(train, "is_locked", lambda lock: lock.parent.name in going)
    assert actions.ended([]) == (["notes"], [])
    going.clear()
    assert actions.ended(["notes", "gone"]) == (
        [],
        ["notes has learnt: you can talk to it."],
    )
    assert actions.ended([]) == ([], [])


def test_a_first_training_is_guessed_from_the_machines_speed(
    model_queue, tmp_path, monkeypatch
):
    known = train.catalogue.DEMO_MODEL
    monkeypatch.setattr(train.catalogue, "here", lambda name: known)
    actions = TrainActions(tmp_path, True, model_queue()[0])
    made = actions.estimate({"steps": 100}, "")
    assert re.search(r"100 steps take about .+, by a rough guess", made)
    assert "about " in actions.plans(10_000, {})["short"].label


def test_what_was_gained_over_the_base_is_told_at_the_end():
    better, worse = Gain(math.log(40), math.log(30), 9), Gain(1.0, 1.1, 9)
    ended = training_state(running=False, progress=(10, 10))
    made = training.card("mine", ended, [], better)
    assert "surprises it 25 % less (40 without it, 30 with it: lower" in made
    assert "not learnt to foresee" in training.card("mine", ended, [], worse)
    assert "surprises" not in training.card("mine", training_state(), [], better)
