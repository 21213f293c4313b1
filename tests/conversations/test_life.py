"""Whatever a page asks for, in whatever order, with restarts between: it is there."""

import copy
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comigs_mlx.conversations.store import Store
from comigs_mlx.conversations.tokens import Said
from comigs_mlx.conversations.tree import Conversation
from comigs_mlx.errors import ConfigError

ORDERS = ("ask", "rename", "remove", "restore", "restart")
LIVES = st.lists(
    st.tuples(st.sampled_from(ORDERS), st.sampled_from("ab")), min_size=4, max_size=20
)


class Life:
    """A store, and what a reader of this file expects of it."""

    def __init__(self, runs):
        self.runs, self.store = runs, Store(runs)
        self.present, self.removed, self.promised, self.before = {}, {}, set(), {}

    def ask(self, id):
        """Say something more, and have it answered."""
        if not self.store.keeping and id not in self.promised:
            self.promised.add(id)
            self.before[id] = copy.deepcopy(self.present.get(id))
        tree = self.store.read(id) or Conversation(id)
        answer = tree.answer_to(tree.ask(f"{len(tree.turns)}", tree.leaf).id)
        answer.text = "fine"
        answer.answer.count = 1
        answer.answer.end()
        assert self.store.write(tree)
        assert self.store.write_tokens(id, answer.id, [Said(answer.id, "fine")])
        self.present[id] = tree

    def rename(self, id):
        if id not in self.present:
            with pytest.raises(ConfigError, match="no longer there"):
                self.store.rename(id, "x")
        elif self.store.keeping or id in self.promised:
            self.store.rename(id, "named")
            self.present[id].rename("named")

    def remove(self, id):
        self.store.remove(id)
        if id in self.present:
            self.removed[id] = self.present.pop(id)

    def restore(self, id):
        if id in self.removed:
            self.store.restore(id)
            old = self.removed.pop(id)
            self.present.setdefault(id, old)
        else:
            with pytest.raises(ConfigError, match="gone for good"):
                self.store.restore(id)

    def check(self):
        listed = {one["id"]: one for one in self.store.listed()}
        assert listed.keys() == self.present.keys()
        for id, tree in self.present.items():
            assert self.store.read(id) == tree
            assert listed[id]["title"] == tree.title
            assert listed[id]["kept"] == (id not in self.promised)
            for turn in tree.turns.values():
                kept = self.store.read_tokens(id, turn.id)
                assert [t.id for t in kept] == ([turn.id] if turn.answer else [])


@given(LIVES)
@settings(max_examples=25)
def test_nothing_is_lost_and_nothing_comes_back_by_itself(orders):
    with tempfile.TemporaryDirectory() as runs:
        life = Life(Path(runs))
        for order, letter in orders:
            if order == "restart":
                life.store = Store(life.runs)
            else:
                getattr(life, order)(letter * 32)
            life.check()


def test_what_was_said_while_nothing_was_kept_ends_with_the_app(tmp_path):
    life = Life(tmp_path)
    life.ask("a" * 32)
    life.store.keeping = False
    life.ask("a" * 32)
    life.ask("b" * 32)
    life.rename("b" * 32)
    life.check()
    life.store.keeping = True
    life.ask("b" * 32)  # it goes on, and the promise with it
    life.check()
    life.remove("a" * 32)
    life.check()
    life.restore("a" * 32)
    life.check()
    again = Store(tmp_path)
    assert [one["id"] for one in again.listed()] == ["a" * 32]
    assert again.read("a" * 32) == life.before["a" * 32]
    assert again.read_tokens("a" * 32, 4) == []
