"""The button that finds the best lean, on an engine of plain data."""

import shutil
from types import SimpleNamespace

import pytest

from app.actions import lean
from app.actions.lean import FIND, LeanActions, Sought
from app.remedies import Mendable


@pytest.fixture
def actions(model_queue, trained, tmp_path, until):
    for name in ("notes", "other"):
        shutil.copytree(trained(), tmp_path / name)
    queue, parrot = model_queue()
    made = LeanActions(queue, tmp_path)
    made.parrot = parrot
    made.ended = lambda: until(lambda: not made.sought("notes").running)
    return made


def test_a_search_is_told_until_its_end_and_sets_the_lean(actions, until):
    assert actions.sought("notes") == Sought(FIND)
    actions.parrot.going.clear()
    assert actions.press("notes").running
    until(lambda: actions.sought("notes").label == "Stop (50 %)")
    actions.parrot.going.set()
    actions.ended()
    found = actions.sought("notes")
    assert (found.label, found.lean) == (FIND, 0.75)
    # e^-0.1 is 0.905: the perplexity is 9.5 % less
    assert "a lean of 0.75 to you" in found.text
    assert "9.5 % less" in found.text
    assert actions.sought("other").lean is None  # it is another one's
    assert actions.parrot.chosen[-1] == actions.folder / "notes"


def test_a_second_press_ends_the_search(actions):
    actions.parrot.going.clear()
    actions.press("notes")
    actions.press("notes")
    actions.ended()
    assert actions.sought("notes") == Sought(FIND)


def test_why_nothing_was_found_is_told(actions):
    def fail(info, stop, listen):
        raise ValueError("a bug")

    actions.parrot.calibrate_lean = fail
    actions.press("notes")
    actions.ended()
    found = actions.sought("notes")
    assert (found.lean, found.running) == (None, False)
    assert found.text.startswith("Something went wrong")


@pytest.mark.parametrize(
    ("best", "said"), [(0.0, "Even is best"), (-1.5, "1.5 to everyone")]
)
def test_what_was_found_is_said_in_words(best, said):
    kept = SimpleNamespace(lean=best, loss=2.0, loss_without=2.1)
    assert said in lean.told(kept, "notes")


def test_only_a_run_with_two_sides_can_lean(actions, trained, tmp_path):
    assert actions.allowed("notes")
    assert not actions.allowed("")
    assert not actions.allowed("nothing")
    shutil.copytree(trained(specialists=0, generalists=2, top_k=1), tmp_path / "shared")
    assert not actions.allowed("shared")
    with pytest.raises(Mendable, match="Choose a model of yours"):
        actions.press("")
