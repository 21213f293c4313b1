"""A conversation as a tree: nothing that was said is ever out of reach."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comigs_mlx.conversations.answers import Answer, answer_from_json
from comigs_mlx.conversations.tree import (
    ASSISTANT,
    MOST_CHARACTERS,
    USER,
    Conversation,
    check_message,
    conversation_from_json,
    heading,
)
from comigs_mlx.errors import ConfigError

ID = "a" * 32
ORDERS = st.lists(
    st.tuples(st.sampled_from(["ask", "retry", "edit", "show"]), st.integers(0, 99)),
    max_size=25,
)


def exchange(tree, text, parent, reply="fine"):
    """A message and its answer."""
    message = tree.ask(text, parent)
    return message, answered(tree, message, reply)


def answered(tree, message, reply="fine"):
    answer = tree.answer_to(message.id)
    answer.text = reply
    answer.answer.count = 1
    answer.answer.end()
    return answer


def follow(tree, order, choice):
    """One order of a page: of its turns, the one that `choice` falls on."""
    turns = list(tree.turns.values())
    messages = [turn for turn in turns if turn.role == USER]
    if order == "ask" or not messages:
        exchange(tree, f"question {choice}", tree.leaf)
    elif order == "retry":
        answered(tree, messages[choice % len(messages)], f"again {choice}")
    elif order == "edit":
        edited = messages[choice % len(messages)]
        exchange(tree, f"rather {choice}", edited.parent)
    else:
        tree.show(turns[choice % len(turns)].id)


def reachable(tree):
    """What somebody sees who presses every arrow beside every turn."""
    seen, waiting = set(), [tree.leaf]
    while waiting:
        tree.show(waiting.pop())
        for turn in tree.path():
            new = {one.id for one in tree.variants(turn.id)} - seen
            seen |= new
            waiting += new
    return seen


@given(ORDERS)
def test_any_order_of_doing_things_keeps_every_turn_reachable(orders):
    tree = Conversation(ID)
    for order, choice in orders:
        said = {id: turn.text for id, turn in tree.turns.items()}
        follow(tree, order, choice)
        assert {id: tree.turns[id].text for id in said} == said
        path = tree.path()
        assert [turn.role for turn in path] == [USER, ASSISTANT] * (len(path) // 2)
    assert conversation_from_json(ID, tree.as_json()) == tree
    if orders:
        assert reachable(tree) == set(tree.turns)


@given(ORDERS, st.integers(0, 99))
def test_going_back_to_a_branch_goes_to_the_end_that_was_seen(orders, choice):
    tree = Conversation(ID)
    for order in [("ask", 0), *orders]:
        follow(tree, *order)
    path = tree.path()
    one = path[choice % len(path)]
    other = next((t for t in tree.variants(one.id) if t is not one), None)
    if other is not None:
        tree.show(other.id)
        assert one not in tree.path()
        tree.show(one.id)
    assert tree.path() == path


def test_variants_are_of_one_place_and_role():
    tree = Conversation(ID)
    first, answer = exchange(tree, "hello", None)
    second = answered(tree, first)
    edited, _ = exchange(tree, "good morning", None)
    unanswered = tree.ask("by the way", first.id)
    assert tree.variants(second.id) == tree.variants(answer.id) == [answer, second]
    assert tree.variants(first.id) == [first, edited]
    assert tree.variants(unanswered.id) == [unanswered]


def test_the_model_is_told_the_path_alone_and_no_failure():
    tree = Conversation(ID)
    _, first = exchange(tree, "hello", None, "hi")
    too_long, failed = exchange(tree, "x" * 99, first.id, "")
    failed.answer.problem = "That is too long."
    assert tree.messages() == [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
    ]
    _, stopped = exchange(tree, "and", failed.id, "")
    exchange(tree, "you?", stopped.id, "fine")
    last = [
        {"role": "user", "content": "and\n\nyou?"},
        {"role": "assistant", "content": "fine"},
    ]
    assert tree.messages()[2:] == last
    tree.first = stopped.parent
    assert tree.messages() == last
    retried = tree.answer_to(too_long.id)
    assert tree.messages()[-1] == {"role": "user", "content": "x" * 99}
    assert tree.messages(too_long.id) == tree.messages(retried.id)


def test_the_first_message_is_the_title_until_there_is_a_better_one():
    tree = Conversation(ID)
    _, answer = exchange(tree, "What\nis   a tree?", None)
    exchange(tree, "and a bush?", answer.id)
    assert tree.title == "What is a tree?"
    tree.rename("  My\ntrees ")
    assert (tree.title, tree.named) == ("My trees", True)
    tree.rename(" ")
    assert (tree.title, tree.named) == ("What is a tree?", False)
    assert heading("word " * 100).endswith("word…")


def test_what_cannot_be_is_refused(monkeypatch):
    tree = Conversation(ID)
    message, answer = exchange(tree, "hello", None)
    for id in (99, -1, None, "1", True):
        with pytest.raises(ConfigError, match="no longer there"):
            tree.show(id)
    with pytest.raises(ConfigError, match="no longer there"):
        tree.ask("x", 99)
    with pytest.raises(ConfigError, match="Only a message"):
        tree.answer_to(answer.id)
    monkeypatch.setattr("comigs_mlx.conversations.tree.MOST_TURNS", 2)
    with pytest.raises(ConfigError, match="full"):
        tree.answer_to(message.id)
    assert len(tree.turns) == 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Write something"),
        (" \n ", "Write something"),
        (None, "Write something"),
        ("x" * (MOST_CHARACTERS + 1), "longer than 200,000"),
        ("a\ud83d", "half a character"),
    ],
)
def test_messages_that_cannot_be_answered_are_refused(text, why):
    with pytest.raises(ConfigError, match=why):
        check_message(text)


def test_blanks_of_pasted_code_stay():
    assert check_message("\n \n    if x:\n        y\n\n") == "    if x:\n        y"


def test_the_line_under_an_answer_says_what_one_would_not_expect():
    plain = Answer(count=3, finish="stop")
    plain.end()
    assert plain.remark == ""
    odd = Answer(stopped=True, left_out=2, chat=False)
    odd.end()
    for part in ("nothing was said", "stopped", "its 2 oldest", "no chat template"):
        assert part in odd.remark
    waits = Answer(left_out=2, waits=True)
    waits.end()
    assert waits.remark == ""  # the page asks above the message
    cut = Answer(count=3, finish="length")
    cut.end()
    assert "go on" in cut.remark


@pytest.mark.parametrize(
    "change",
    [
        {"title": 3},
        {"experts": [1]},
        {"problem": 0},
        {"left_out": "many"},
        {"waits": 1},
        {"share": float("nan")},
        {"rating": 5},
        {"settings": []},
    ],
)
def test_values_of_an_answer_that_cannot_be_are_refused(change):
    with pytest.raises(ValueError, match="cannot be"):
        answer_from_json({**Answer().as_json(), **change})


def broken(**change):
    """JSON of a message and its answer, with changed values of the answer's turn."""
    tree = Conversation(ID)
    exchange(tree, "hello", None)
    values = tree.as_json()
    values["turns"][1].update(change)
    return values


@pytest.mark.parametrize(
    "values",
    [
        broken(parent=2),
        broken(parent=7),
        broken(id=1),
        broken(child=1),
        broken(role="system"),
        broken(text=None),
        broken(parent="1"),
        {**broken(), "leaf": 3},
        {**broken(), "title": None},
        {**broken(), "changed": float("inf")},
        {**broken(), "turns": [3]},
    ],
)
def test_trees_that_are_none_are_refused(values):
    with pytest.raises(ValueError, match=r"\w"):
        conversation_from_json(ID, values)
