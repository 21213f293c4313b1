"""Conversations of version 1, `<32 hex digits>.json`, as trees.

    {"format_version": 1, "owner", "title", "turns": [{"text", "reply"}...],
     "shown": [turns by number], "earlier": [the same, of before an edit, a retry or a
     clear; the newest last]}

A turn was a message with its answer and all its tokens. The versions become branches.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comigs_mlx.conversations import marks
from comigs_mlx.conversations.answers import Answer, answer_from_json
from comigs_mlx.conversations.tokens import Said, said_text
from comigs_mlx.conversations.tree import ASSISTANT, USER, Conversation, Turn

FORMAT = 1

NAMES = {
    "Mixture": "Together",
    "Specialist": "Only me",
    "Generalist": "Only everyone",
    "Base": "Untrained",
}
"""Who spoke, in the words of then and of now."""

SAME = ("base", "experts", "layers", "problem", "stopped", "left_out", "chat")
"""Values of an answer that have kept their names."""

Tokens = dict[int, list[Said]]
"""The tokens of each answer, by its id."""


@dataclass
class Old:
    """A turn of version 1: a message and the answer to it, with its tokens."""

    text: str
    answer: Answer
    said: str
    tokens: list[Said]


def read(
    id: str, values: Mapping[str, Any], changed: float
) -> tuple[Conversation, Tokens]:
    """A conversation of version 1 as a tree, and the tokens of its answers.

    Args:
        id: The conversation's id.
        values: The content of its file.
        changed: The time of its last change, in seconds since 1970.

    Raises:
        ValueError, KeyError, IndexError, TypeError: If it is none.
    """
    turns = [_old(one) for one in values["turns"]]
    versions = [*values.get("earlier", []), values["shown"]]
    title = values.get("title", "")
    if not isinstance(title, str):
        raise ValueError("a title is a text")
    tree = Conversation(id, title, created=changed, changed=changed)
    tokens: Tokens = {}
    places: dict[tuple[int | None, int], int] = {}
    for version in versions:
        at = None
        for number in version:
            if (at, number) not in places:
                places[at, number] = _place(tree, turns[number], at, tokens)
            at = places[at, number]
        if at is not None:
            tree.show(at)
    tree.changed = changed
    return tree, tokens


def texts(values: Mapping[str, Any]) -> list[str]:
    """The texts of all messages and answers, without a look at anything else.

    Raises:
        KeyError, IndexError, TypeError: If there are none.
    """
    found: list[str] = []
    for turn in values["turns"]:
        tokens = (turn["reply"] or {}).get("tokens", [])
        found += [str(turn["text"]), "".join(str(token[1]) for token in tokens)]
    return found


def title_and_run(values: Mapping[str, Any]) -> tuple[str, str]:
    """The title, and the name of the run that spoke last, without a look at the rest.

    Raises:
        KeyError, IndexError, TypeError: If there are none.
    """
    replies = [values["turns"][number]["reply"] for number in values["shown"]]
    last = (replies[-1] or {}) if replies else {}
    title = values["title"]
    if not isinstance(title, str):
        raise TypeError("a title is a text")
    return title, _speaker(str(last.get("title", "")))[1]


def _place(tree: Conversation, old: Old, parent: int | None, tokens: Tokens) -> int:
    """Add a turn after another one; a message that is there has one answer more.

    Returns:
        The id of the answer.
    """
    beside = (t for t in tree.turns.values() if t.parent == parent and t.role == USER)
    same = next((turn.id for turn in beside if turn.text == old.text), None)
    number = tree.add(Turn(0, parent, USER, old.text)) if same is None else same
    answer = tree.add(Turn(0, number, ASSISTANT, old.said, old.answer))
    if len(old.tokens) == old.answer.count:  # not thinned
        tokens[answer] = old.tokens
    return answer


def _old(values: Mapping[str, Any]) -> Old:
    text, reply = values["text"], values.get("reply") or {}
    if not isinstance(text, str):
        raise ValueError("a message is a text")
    tokens = [Said.from_json(token) for token in reply.get("tokens", [])]
    answer = answer_from_json({name: reply[name] for name in SAME if name in reply})
    answer.title, answer.run = _speaker(str(reply.get("title", "")))
    remark = str(reply.get("remark", ""))
    # An old answer without its weights is one token, and its remark tells the number.
    counted = re.search(r"(\d+) tokens", remark)
    answer.count = int(counted[1]) if counted else len(tokens)
    answer.finish = tokens[-1].finish if tokens else None
    answer.share = share(tokens, answer.experts)
    if remark:
        answer.end()
    else:
        answer.interrupt()
    return Old(text, answer, said_text(tokens), tokens)


def _speaker(title: str) -> tuple[str, str]:
    """Who spoke and the run's name, of "Mixture · notes"."""
    name, _, run = title.partition(" · ")
    return NAMES.get(name, name), run


def share(tokens: Sequence[Said], experts: Sequence[str]) -> float | None:
    """The specialists' share of tokens, 0 to 1; None where nothing was routed."""
    percent = marks.share(tokens, experts)
    return None if percent is None else percent / 100
