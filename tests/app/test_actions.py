"""What the tabs' buttons do, on plain data and real runs of the tiny model."""

import dataclasses
import shutil

import pytest
from safetensors.numpy import load

from app.actions import runs, share
from app.actions.chat import ChatActions, CompareActions
from app.actions.routing import RoutingActions
from app.actions.share import ShareActions
from comigs_mlx import sync
from comigs_mlx.errors import ConfigError, RunError
from comigs_mlx.federation.participant import membership
from comigs_mlx.runs.listing import RunEntry

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


def test_a_chat_goes_through_its_session(model_queue, folder, until):
    actions = ChatActions(model_queue()[0], folder, "demo")
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
def test_questions_that_are_none(model_queue, folder, question):
    actions = ChatActions(model_queue()[0], folder, "demo")
    with pytest.raises(ConfigError, match="expected id, epoch and since"):
        actions.changes(question)


def test_a_comparison_has_one_seed_and_every_selection(model_queue, folder, until):
    desk, parrot = model_queue()
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


def test_routing_scores_one_text_or_two(model_queue, folder):
    actions = RoutingActions(model_queue()[0], folder, "demo")
    (panel,) = actions.score("a b", "notes", "", "")["panels"]
    assert panel["perplexity"] == {
        "base": 2.718,
        "generalist": 3.718,
        "specialist": 4.718,
        "mixture": 5.718,
    }
    first, second = panel["tokens"]
    assert first["perplexity"]["mixture"] is None
    assert second["perplexity"] == {
        "base": 2.718,
        "generalist": 7.389,
        "specialist": 20.086,
        "mixture": 54.598,
    }
    panels = actions.score("a b", "notes", "c", "")["panels"]
    assert [len(p["tokens"]) for p in panels] == [2, 1]
    with pytest.raises(ConfigError, match="Choose a run"):
        actions.score("a", "", "", "")


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


def test_the_duties_of_the_base_s_licence_are_shown():
    assert "Built with" not in share.would_leave({**LEAVING, "base_license": "mit"})
    made = share.would_leave({**LEAVING, "base_license": "llama3.2"})
    assert "show &quot;Built with Llama&quot; where people see it" in made


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


def federation(tmp_path, cli, run):
    """One that somebody else founded with a run of the same shape."""
    uri = str(tmp_path / "federation")
    other = shutil.copytree(run, tmp_path / "other")
    assert cli(sync.main, "init", federation=uri, run=other)[0] == 0
    return uri


def test_an_aggregator_that_this_version_does_not_have_is_told(folder, tmp_path, cli):
    """Also where there is no contribution to say it of."""
    uri = federation(tmp_path, cli, folder / "notes")
    file = tmp_path / "federation" / "federation.json"
    assert "cannot close" not in ShareActions(folder).status(uri)
    file.write_text(file.read_text().replace('"name": "mean"', '"name": "<magic>"'))
    made = ShareActions(folder).status(uri)
    assert "This version cannot close the round: unknown aggregator" in made
    assert "&lt;magic&gt;" in made
    assert "<magic>" not in made


def test_a_run_that_mixes_for_itself_goes_on_to_do_so(folder, tmp_path, cli):
    """A pull of the page must not put the shared generalists in their place."""
    run = folder / "notes"
    uri = federation(tmp_path, cli, run)
    page = ShareActions(folder)
    page.pull("notes", uri, "ann", sure=True)
    assert cli(sync.main, "push", federation=uri, run=run, participant="ann")[0] == 0
    assert cli(sync.main, "pull", federation=uri, run=run, personal="by_loss")[0] == 0
    assert page.pull("notes", uri, "ann") == "notes is up to date."
    assert membership.read(run).personal == "by_loss"


def test_a_pull_says_what_it_would_replace_and_changes_nothing(folder, tmp_path, cli):
    run = folder / "notes"
    uri = federation(tmp_path, cli, run)
    before = tree(run)
    page = ShareActions(folder)
    told = page.pull("notes", uri, "ann")
    assert "learnt in 6 steps" in told
    assert "federation's" in told
    assert "again to go on" in told
    assert tree(run) == before
    assert page.replaced("notes", uri) == told
    assert "has the newest generalist now" in page.pull("notes", uri, "ann", sure=True)
    (own,) = [number for number in page.kept("notes") if number < 0]
    assert "before a pull" in page.kept_as("notes")[own]
    generalist = run / "generalist" / "adapters.safetensors"
    pulled = generalist.read_bytes()
    assert "again" in page.roll_back("notes", own)
    assert load(generalist.read_bytes()).keys() == load(before[generalist]).keys()
    for name, value in load(generalist.read_bytes()).items():
        assert (value == load(before[generalist])[name]).all()
    assert page.pull("notes", uri, "ann", sure=True)
    assert generalist.read_bytes() == pulled
    assert page.replaced("notes", uri) == ""  # it is of this federation now
    assert page.pull("notes", uri, "ann") == "notes is up to date."


def tree(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_has_learnt_nothing_is_not_sent_without_a_remark():
    fields = {"counters": {"tokens": 0, "steps": 0}}
    made = share.would_leave({**LEAVING, "contribution.json": fields})
    assert "has not been trained since the last pull" in made
    trained = {"counters": {"tokens": 5, "steps": 1}}
    made = share.would_leave({**LEAVING, "contribution.json": trained})
    assert "has not been trained" not in made


def test_rounds_become_a_plot():
    rounds = [{"round": 1, "valid_loss": 1.0}, {"round": 2, "valid_loss": 0.0}]
    assert "validation from 2.72 to 1" in share.by_round(rounds)
    assert "nothing to draw" in share.by_round([])
