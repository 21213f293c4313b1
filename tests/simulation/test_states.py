"""States in memory and on the disk: what is read is what was put, bit for bit."""

import mlx.core as mx
import numpy as np
import pytest

from comigs_mlx.simulation.states import State, States

SIZE = 4 * (6 + 6 + 1)  # the bytes of one state of `state`


def state(seed):
    random = np.random.default_rng(seed)
    values = {"a": {"lora_a": mx.array(random.normal(size=(2, 3)), mx.float32)}}
    moments = {"a": {"m": mx.array(random.normal(size=(2, 3)), mx.float32)}}
    return State(values, {1: [{**moments, "step": mx.array(seed, mx.int32)}]})


def same(one, other):
    a, b = one.arrays(), other.arrays()
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype and mx.array_equal(a[n], b[n]).item() for n in a
    )


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "states"


@pytest.mark.parametrize("limit", [0, SIZE, 2 * SIZE + 1, 100 * SIZE])
def test_what_was_put_is_what_is_got(folder, limit):
    states = States(folder, limit)
    for turn in range(3):
        for name in "abcd":
            states.put(name, state(10 * turn + ord(name)))
        for name in "dbac":
            assert same(states.get(name), state(10 * turn + ord(name)))
    assert states.get("nobody") is None


def test_with_room_for_all_no_file_is_written(folder):
    states = States(folder, 4 * SIZE)
    for name in "abcd":
        states.put(name, state(ord(name)))
    assert not folder.exists()
    states.put("e", state(5))
    assert [file.stem for file in folder.iterdir()] == ["a"]


def test_those_used_longest_ago_leave_memory_and_come_back_unwritten(folder):
    states = States(folder, 2 * SIZE)
    for name in "abc":
        states.put(name, state(ord(name)))
    assert list(states._resident) == ["b", "c"]
    states.get("b")
    first = (folder / "a.safetensors").stat().st_ino
    states.get("a")  # c leaves, and is written; b and a stay
    assert list(states._resident) == ["b", "a"]
    states.put("d", state(4))
    states.put("e", state(5))
    assert (folder / "a.safetensors").stat().st_ino == first  # read, not changed


def test_what_can_be_made_again_is_never_written(folder):
    states = States(folder, SIZE)
    states.hold("a", state(1))
    states.hold("b", state(2))
    assert not folder.exists()
    assert states.get("a") is None


@pytest.mark.parametrize("limit", [0, 100 * SIZE])
def test_a_save_keeps_what_it_was_while_the_states_go_on(folder, tmp_path, limit):
    states, saved = States(folder, limit), tmp_path / "a.safetensors"
    states.put("a", state(1))
    assert states.export("a", saved)
    states.put("a", state(2))
    states.put("b", state(3))
    assert states.export("a", tmp_path / "newer.safetensors")
    other = States(tmp_path / "other", limit)
    other.adopt("a", saved)
    assert same(other.get("a"), state(1))
    other.put("a", state(4))
    other.put("b", state(5))
    again = States(tmp_path / "again")
    again.adopt("a", saved)
    assert same(again.get("a"), state(1))
    assert not states.export("nobody", tmp_path / "nothing")


def test_a_state_that_has_not_changed_is_saved_again_in_the_same_place(
    folder, tmp_path
):
    states, saved = States(folder, 0), tmp_path / "a.safetensors"
    states.put("a", state(1))
    assert states.export("a", saved)
    assert states.export("a", saved)
    states.put("a", state(2))
    assert states.export("a", saved)
    assert same(states.get("a"), state(2))
    again = States(tmp_path / "again")
    again.adopt("a", saved)
    assert same(again.get("a"), state(2))


def test_without_links_files_are_copied(folder, tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("os.link", refused)
    states, saved = States(folder, 0), tmp_path / "a.safetensors"
    states.put("a", state(1))
    assert states.export("a", saved)
    states.put("a", state(2))
    other = States(tmp_path / "other")
    other.adopt("a", saved)
    assert same(other.get("a"), state(1))


def test_closed_nothing_is_left(folder):
    states = States(folder, 0)
    for name in "abc":
        states.put(name, state(1))
    states.close()
    assert not folder.exists()
