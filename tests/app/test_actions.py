"""What the tabs' buttons do, on plain data and real runs of the tiny model."""

import shutil
import types

import pytest

from app import training
from app.actions import runs, share, train
from app.actions.chat import ChatActions, CompareActions
from app.actions.routing import RoutingActions
from app.actions.share import ShareActions
from app.actions.train import TrainActions
from comigs_mlx.errors import ComigsError, ConfigError, DataError, RunError
from comigs_mlx.runs import process
from comigs_mlx.runs.place import Place

CHOSEN = ("notes", "auto", 50, 0.7, 0.95, 3, "")


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


@pytest.mark.parametrize("name", ["..", "../runs/notes", "/etc", "nothing", 3])
def test_only_listed_runs_can_be_chosen(folder, name):
    with pytest.raises(RunError, match="no run of that name"):
        runs.find(folder, name)


def test_a_broken_run_says_why(folder):
    with pytest.raises(RunError, match="broken cannot be used: "):
        runs.find(folder, "broken")


def test_a_chat_goes_through_its_session(office, folder, until):
    actions = ChatActions(office()[0], folder, "demo")
    session = {"id": "a" * 32}
    actions.send(session, "one two", *CHOSEN)
    asked = {"id": session["id"], "epoch": 0, "since": 0}
    until(lambda: not actions.changes(asked)["active"])
    events = actions.changes(asked)["events"]
    assert [e["kind"] for e in events][:2] == ["user", "reply_begins"]
    assert events[1]["title"] == "Mixture · notes"
    actions.command(session, {"retry": True}, *CHOSEN)
    until(lambda: not actions.changes(asked)["active"])
    actions.command(session, {"edit": 0, "text": "three"}, *CHOSEN)
    until(lambda: not actions.changes(asked)["active"])
    assert actions.changes(asked)["events"][0]["text"] == "three"
    file = actions.save({"id": session["id"], "kind": "html"})
    assert file["type"] == "text/html"
    assert file["text"].startswith("<!doctype html>")


@pytest.mark.parametrize(
    "question", [None, {}, {"id": "x", "epoch": "0", "since": 0}, {"epoch": 0}, [1]]
)
def test_questions_that_are_none(office, folder, question):
    actions = ChatActions(office()[0], folder, "demo")
    with pytest.raises(ConfigError, match="expected id, epoch and since"):
        actions.changes(question)


def test_a_comparison_has_one_seed_and_every_selection(office, folder, until):
    desk, parrot = office()
    actions = CompareActions(ChatActions(desk, folder, "demo"))
    session = {"id": "b" * 32}
    actions.ask(session, "one", "notes", 0.7, 0.95, 2, "")
    asked = {"id": session["id"], "epoch": 1, "since": 0}
    until(lambda: not actions.changes(asked)["active"])
    assert [s.selection for _, s in parrot.asked] == [
        "base",
        "generalist",
        "specialist",
        "auto",
    ]
    assert len({s.seed for _, s in parrot.asked}) == 1
    with pytest.raises(ConfigError, match="Choose a run"):
        actions.ask(session, "one", "", 0.7, 0.95, 2, "")


def test_routing_scores_one_text_or_two(office, folder):
    actions = RoutingActions(office()[0], folder, "demo")
    (panel,) = actions.score("a b", "notes", "", "")["panels"]
    assert panel["perplexity"] == {
        "generalist": 2.718,
        "specialist": 3.718,
        "mixture": 4.718,
    }
    first, second = panel["tokens"]
    assert first["perplexity"]["mixture"] is None
    assert second["perplexity"] == {
        "generalist": 2.718,
        "specialist": 7.389,
        "mixture": 20.086,
    }
    panels = actions.score("a b", "notes", "c", "")["panels"]
    assert [len(p["tokens"]) for p in panels] == [2, 1]
    with pytest.raises(ConfigError, match="Choose a run"):
        actions.score("a", "", "", "")


@pytest.mark.parametrize("name", ["", "../x", ".hidden", "a b", "x" * 65, None, "-x"])
def test_names_a_run_may_not_have(office, folder, text_folder, name):
    actions = TrainActions(folder, True, office()[0])
    with pytest.raises(ConfigError, match="A run's name has letters"):
        actions.start(name, str(text_folder), None, {})


def test_training_refuses_before_anything_is_written(office, folder, text_folder):
    actions = TrainActions(folder, True, office()[0])
    before = sorted(folder.rglob("*"))
    for name, path, options, message in [
        ("notes", str(text_folder), {}, "There is a run named notes"),
        ("new", "", {}, "Name a folder or file, or add files"),
        ("new", str(text_folder), {"rank": 0}, "--rank 0 must be at least 1"),
    ]:
        with pytest.raises(ComigsError, match=message):
            actions.start(name, path, None, options)
    assert sorted(folder.rglob("*")) == before


def test_the_name_of_a_training_that_could_not_begin_is_free(
    office, folder, text_folder, until
):
    actions = TrainActions(folder, True, office()[0])
    options = {"model": str(folder / "no-such-model"), "steps": 2}
    for _ in range(2):
        actions.start("second", str(text_folder), None, options)
        until(lambda: not process.state(folder / "second").running, seconds=60)
    assert "no-such-model" in process.state(folder / "second").problem
    (folder / "second" / "letter.txt").write_text("mine")
    with pytest.raises(ConfigError, match="There is a run named second"):
        actions.start("second", str(text_folder), None, options)


def test_a_run_that_has_only_just_begun_is_not_broken(folder):
    """Its files are there before its first save."""
    (run := folder / "new").mkdir()
    for name in ("comigs.json", "config.yaml"):
        shutil.copy(folder / "notes" / name, run / name)
    assert "new" in runs.advice(folder)
    with Place(run).in_use():
        assert "new" not in runs.advice(folder)
        assert ("new · training", "new") in runs.choices(folder)
        assert "new" not in runs.ready(folder)


def test_ready_runs_are_those_to_talk_to(folder):
    assert runs.ready(folder) == {"notes": 6}
    with Place(folder / "notes").in_use():
        assert runs.ready(folder) == {}


def test_from_elsewhere_no_path_on_this_machine_is_read(office, folder, text_folder):
    actions = TrainActions(folder, False, office()[0])
    with pytest.raises(DataError, match="add files instead of a path"):
        actions.data(str(text_folder), None)
    assert actions.data("demo:journal", None) == "demo:journal"


def test_uploaded_files_are_kept_once(office, folder, tmp_path):
    actions = TrainActions(folder, True, office()[0])
    file = tmp_path / "note.txt"
    file.write_text("words\n")
    kept = actions.data("", [str(file)])
    assert actions.data("", [str(file)]) == kept
    assert [p.name for p in (folder / train.UPLOADS).iterdir()] == [kept.split("/")[-1]]
    assert (folder / train.UPLOADS / kept / "note.txt").read_text() == "words\n"
    assert "notes" in actions.names()
    assert train.UPLOADS not in actions.names()


def test_a_preview_counts_documents(office, folder, text_folder):
    made = TrainActions(folder, True, office()[0]).preview(str(text_folder), None)
    for cell in ("<td>train</td><td>200</td>", "<td>valid</td><td>40</td>"):
        assert cell in made
    assert "not counted" in made


def test_a_finished_run_stands_still(office, folder):
    actions = TrainActions(folder, True, office()[0])
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
        problem=None,
        stopping=False,
        lines=["<b>line</b>"],
    )
    made = training.progress(state, [])
    assert "3 of 10 steps, 1 min 5 s left" in made
    assert "&lt;b&gt;line" in made
    state.running, state.problem = False, "out of <disk>"
    assert "out of &lt;disk&gt;" in training.progress(state, [])


LEAVING = {
    "files": {"adapters.safetensors": 1200, "contribution.json": 300},
    "tensors": {"adapters.safetensors": {"model.layers.0.lora_a": 64}},
    "contribution.json": {"counters": {"tokens": 5}, "participant": "<b>ann</b>"},
}


def test_all_that_would_leave_is_listed():
    made = share.would_leave(LEAVING)
    assert "1.5 kB would leave this machine" in made
    for part in ("counters.tokens", "model.layers.0.lora_a", "&lt;b&gt;ann&lt;/b&gt;"):
        assert part in made


def test_a_push_sends_only_what_was_shown():
    other = {**LEAVING, "files": {"adapters.safetensors": 1201}}
    assert share.digest(LEAVING) == share.digest(dict(reversed(LEAVING.items())))
    assert share.digest(LEAVING) != share.digest(other)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("notes", "", "ann"), "Say where the federation is"),
        (("notes", "somewhere", " "), "Say who you are"),
        (("", "somewhere", "ann"), "Choose a run"),
    ],
)
def test_sharing_asks_for_what_is_missing(folder, given, message):
    with pytest.raises(ConfigError, match=message):
        ShareActions(folder).leaving(*given)


def test_rounds_become_a_plot():
    rounds = [{"round": 1, "valid_loss": 1.0}, {"round": 2, "valid_loss": 0.0}]
    assert "validation from 2.72 to 1" in share.by_round(rounds)
    assert "nothing to draw" in share.by_round([])


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
