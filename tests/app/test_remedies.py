"""What mends an error: every error of the page has at most one button, and it works."""

import errno
import re
from pathlib import Path

import pytest

from app import remedies, training
from app.actions import share
from app.actions.share import ShareActions
from app.model_queue import explain
from app.remedies import IN_A_TRAINING, IN_AN_ANSWER, LABELS, Mendable
from app.tabs.parts import problem_html, with_problem
from comigs_mlx.conversations.tree import Full
from comigs_mlx.errors import (
    ComigsError,
    ConfigError,
    DataError,
    FederationError,
    ModelError,
    RunError,
    TooLong,
    kind_of,
)
from comigs_mlx.federation.exchanges.base import Moved, NotThere, Unreachable
from comigs_mlx.federation.participant.membership import Misfit
from comigs_mlx.federation.rounds.repository import NotFounded
from comigs_mlx.runs.process import TrainingState

SCRIPT = Path(remedies.__file__).parent / "static" / "remedies.js"


def raised(error, cause):
    error.__cause__ = cause
    return error


OUT = RuntimeError("[malloc] Unable to allocate 8 bytes")
FULL_DISK = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ComigsError("x"), ""),
        (ConfigError("x"), ""),
        (ValueError("x"), ""),
        (DataError("x"), "text"),
        (ModelError("x"), "model"),
        (RunError("x"), "run"),
        (FederationError("x"), "federation"),
        (Unreachable("x"), "unreachable"),
        (Full("x"), "full"),
        (TooLong("x"), "length"),
        (OUT, "memory"),
        (MemoryError(), "memory"),
        (raised(ComigsError("out of memory"), OUT), "memory"),
        (FULL_DISK, "disk"),
        (raised(ConfigError("x"), NotFounded("y")), "nowhere"),
    ],
)
def test_an_error_says_what_it_is_about(error, kind):
    assert kind_of(error) == kind


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (DataError("no such folder"), "text"),
        (ModelError("no such model"), "model"),
        (OUT, "smaller"),
        (RunError("is being trained already"), "training"),
        (raised(ConfigError("x"), NotThere("y")), "where"),
        (raised(ConfigError("x"), Misfit(["rank"])), "fit"),
        (Full("begin a new one"), "fresh"),
        (Mendable("choose another name", "name"), "name"),
        (raised(ConfigError("x"), Mendable("y", "who")), "who"),
        (ConfigError("train one with the Train tab"), "train"),
        (ConfigError("for the Moon tab"), ""),
        (FULL_DISK, ""),
    ],
)
def test_an_error_has_the_one_remedy_that_mends_it(error, remedy):
    assert remedies.of(error, explain(error)) == remedy
    shown = problem_html(error)
    assert shown.count("<button") == bool(remedy)
    assert (f'value="{remedy}"' in shown) == bool(remedy)


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OUT, "fresh"),
        (raised(ComigsError("out of memory"), OUT), "fresh"),
        (TooLong("shorten it"), "edit"),
        (ValueError("a bug"), "retry"),
        (ModelError("cannot be fetched"), "retry"),
        (RunError("no run"), "who"),
    ],
)
def test_an_answer_that_failed_has_another_one(error, remedy):
    assert remedies.of(error, "", IN_AN_ANSWER) == remedy


def test_what_an_error_says_stays_text():
    shown = problem_html(DataError("no <b>folder</b>"))
    assert "&lt;b&gt;" in shown
    assert "<b>" not in shown


def test_every_remedy_has_a_button_and_does_something():
    done = re.findall(r"^    (\w+): \(\) =>", SCRIPT.read_text(), re.MULTILINE)
    assert sorted(done) == sorted(LABELS)
    tables = (remedies.OF_KIND, IN_AN_ANSWER, IN_A_TRAINING, remedies.IN_A_ROUND)
    assert {name for table in tables for name in table.values()} <= set(LABELS)
    app = Path(remedies.__file__).parent
    sources = [file.read_text() for file in app.rglob("*.py")]
    named = {
        name
        for text in sources
        for name in re.findall(r'Mendable\((?:[^()]|\([^()]*\))*?"(\w+)",?\s*\)', text)
    }
    assert {"name", "who", "training", "fetch", "reload"} <= named <= set(LABELS)


@pytest.mark.parametrize("name", ["", "nothing", '"><script>'])
def test_an_unknown_remedy_is_no_button(name):
    assert remedies.button(name) == ""
    assert remedies.named(name) is None


def test_scripts_are_told_the_remedy():
    def act(question):
        raise remedies.outdated()

    assert with_problem(act)({}) == {
        "problem": "This page is out of date: reload it.",
        "remedy": {"name": "reload", "label": "Reload the page"},
    }


@pytest.mark.parametrize(
    ("kind", "remedy"), [("memory", "smaller"), ("text", "text"), ("disk", "")]
)
def test_a_training_that_ended_early_offers_what_mends_it(kind, remedy):
    state = TrainingState(False, progress=(1, 4), problem="it ended", kind=kind)
    shown = training.card("mine", state, [])
    assert shown.count("<button") == bool(remedy)
    assert f'value="{remedy}"' in shown or not remedy


def test_the_one_button_is_pressed_again_where_the_network_failed(tmp_path):
    def fail():
        raise ConfigError("out of reach") from Unreachable("x")

    assert share.tried(fail).remedy == "next"
    assert share.IN_A_ROUND is remedies.IN_A_ROUND
    moved = share.tried(lambda: (_ for _ in ()).throw(Moved("x")))
    assert (moved.wrong, moved.remedy) == (True, "next")
    assert ShareActions(tmp_path).press("", "get", "", 1, "").remedy == "train"


def test_a_full_disk_is_told_as_one(capsys):
    told = explain(OSError(errno.ENOSPC, "No space left on device", "runs/x"))
    assert told == "No space left on device: 'runs/x': make room on the disk"
    assert capsys.readouterr().err == ""
