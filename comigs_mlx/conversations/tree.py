"""A conversation is a tree: editing and asking again begin branches, and keep the old.

    hello ── Hi! ── and you? ── Fine.
          └─ Hello.                     asked again
    good morning ── Morning.            edited

Each message has the one before it as its parent; those with one parent and one role are
each other's variants. What is shown is one path, from a message without a parent to the
`leaf`. Each message remembers which one after it was shown last, so that going back to
a branch goes back to its end.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from comigs_mlx.conversations.answers import Answer, answer_from_json
from comigs_mlx.errors import ConfigError
from comigs_mlx.inference.prompts import TURNS, alternating

USER, ASSISTANT = TURNS

MOST_CHARACTERS = 200_000
"""The longest message that can be sent."""

MOST_TEXT = 4_000_000
MOST_TURNS = 2000
"""Characters, and messages with answers, of a conversation with all its branches."""

TITLE = 60
"""Characters of a title that is made from the first message."""

MOST_TITLE = 200
"""Characters of a title that the user gives."""


class Full(ConfigError):
    """A conversation takes no more."""

    kind = "full"


@dataclass
class Turn:
    """A message, or an answer.

    Attributes:
        id: A number that no other turn of the conversation has; later ones are larger.
        parent: The id of the turn before it; None for a first message.
        role: "user" or "assistant".
        text: The text, of an answer as far as it has come.
        answer: More about an answer; None with a message.
        child: The id of the turn after it that was shown last; None where none is.
    """

    id: int
    parent: int | None
    role: str
    text: str = ""
    answer: Answer | None = None
    child: int | None = None

    @property
    def failed(self) -> bool:
        """Whether it is an answer of which nothing came, for want of a possibility."""
        found = self.answer
        return found is not None and found.problem is not None and not self.text

    def as_json(self) -> dict[str, Any]:
        """JSON values, read by `turn_from_json`."""
        values = {name: getattr(self, name) for name in ("id", "parent", "role")}
        rest: dict[str, Any] = {"text": self.text, "child": self.child}
        if self.answer is not None:
            rest["answer"] = self.answer.as_json()
        return {**values, **rest}


@dataclass
class Conversation:
    """What was said, in all its branches. One thread at a time may change it.

    Attributes:
        id: The name of its folder, 32 hexadecimal digits.
        title: The title; empty before the first message.
        named: Whether the user gave the title.
        created: The time of its beginning, in seconds since 1970.
        changed: The time at which something was last said.
        turns: Every turn by its id, parents before their children.
        leaf: The id of the last turn that is shown; None while there is none.
        first: The id of the oldest turn that the model is told; None for all. Older
            versions of the app wrote it.
        shortens: Whether the user allows that the oldest turns are left out where the
            model cannot read all.
    """

    id: str
    title: str = ""
    named: bool = False
    created: float = field(default_factory=time.time)
    changed: float = field(default_factory=time.time)
    turns: dict[int, Turn] = field(default_factory=dict)
    leaf: int | None = None
    first: int | None = None
    shortens: bool = False
    _after: dict[int | None, list[int]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """Parent -> its children, in order: 1000 turns are drawn ten times a second."""

    def __post_init__(self) -> None:
        for turn in self.turns.values():
            self._after.setdefault(turn.parent, []).append(turn.id)

    def path(self, leaf: int | None = None) -> list[Turn]:
        """The turns from a first message to a leaf.

        Args:
            leaf: The id of its last turn; None for the one that is shown.
        """
        found = []
        at = self.leaf if leaf is None else leaf
        while at is not None:
            found.append(self.turns[at])
            at = found[-1].parent
        return found[::-1]

    def ask(self, text: str, parent: int | None) -> Turn:
        """Add a message, and show it.

        To edit a message is to ask with the parent of the old one.

        Args:
            text: The message, as `check_message` gives it.
            parent: The id of the turn before it; None begins anew.

        Raises:
            ConfigError: If the conversation is full, or there is no such turn.
        """
        self._check_room(text)
        if not self.title and not self.named:
            self.title = heading(text)
        return self.turns[self.add(Turn(0, parent, USER, text))]

    def answer_to(self, message: int) -> Turn:
        """Add an empty answer to a message, and show it; a second one is a variant.

        Args:
            message: The id of the message.

        Raises:
            ConfigError: If the conversation is full, or there is no such message.
        """
        self._check_room("")
        if self.find(message).role != USER:
            raise ConfigError("Only a message can be answered.")
        return self.turns[self.add(Turn(0, message, ASSISTANT, answer=Answer()))]

    def add(self, turn: Turn) -> int:
        """Put a turn after its parent, and show it.

        Returns:
            The id that it gets.

        Raises:
            ConfigError: If there is no such parent.
        """
        if turn.parent is not None:
            self.find(turn.parent)
        turn.id = max(self.turns, default=0) + 1
        self.turns[turn.id] = turn
        self._after.setdefault(turn.parent, []).append(turn.id)
        self.leaf, self.changed = turn.id, time.time()
        self._remember()
        return turn.id

    def variants(self, turn: int) -> list[Turn]:
        """A turn and those that stand in its place in other branches, oldest first."""
        one = self.find(turn)
        others = (self.turns[i] for i in self._after[one.parent])
        return [other for other in others if other.role == one.role]

    def show(self, turn: int) -> None:
        """Show the branch with a turn, up to the end that was last seen of it."""
        at = self.find(turn)
        while at.child is not None:
            at = self.turns[at.child]
        self.leaf = at.id
        self._remember()

    def find(self, turn: Any) -> Turn:
        """The turn with an id.

        Raises:
            ConfigError: If there is none.
        """
        found = self.turns.get(turn) if type(turn) is int else None
        if found is None:
            raise ConfigError("That message is no longer there.")
        return found

    def messages(self, leaf: int | None = None) -> list[dict[str, Any]]:
        """A path as the model is told it: roles alternate, as many templates demand.

        A message that could not be answered, such as one that is too long, is left
        out: it would be met again with every later one. One whose answer was stopped
        before its first word is joined with the next. Turns before `first` are left
        out where it is on the path.

        Args:
            leaf: The id of the path's last turn; None for the one that is shown.
        """
        path = self.path(leaf)
        starts = [i for i, turn in enumerate(path) if turn.id == self.first]
        path = path[starts[0] :] if starts else path
        failed = {turn.parent for turn in path if turn.failed}
        said = [
            {"role": turn.role, "content": turn.text}
            for turn in path
            if not turn.failed and turn.id not in failed
        ]
        return alternating(said)

    @property
    def run(self) -> str:
        """The name of the run that spoke last; "" where none did."""
        answers = (turn.answer for turn in reversed(self.path()))
        return next((one.run for one in answers if one is not None), "")

    @property
    def texts(self) -> list[str]:
        """The text of every turn, in every branch."""
        return [turn.text for turn in self.turns.values()]

    @property
    def unended(self) -> list[Turn]:
        """Answers under way; in a file, those that the end of a program cut off."""
        return [t for t in self.turns.values() if t.answer and not t.answer.ended]

    def rename(self, title: str) -> None:
        """Give it a title of the user's; an empty one takes the first message again."""
        title = " ".join(title.split())[:MOST_TITLE]
        self.named = bool(title)
        path = self.path()
        self.title = title or (heading(path[0].text) if path else "")

    def as_json(self) -> dict[str, Any]:
        """JSON values, read by `conversation_from_json`."""
        names = ("title", "named", "created", "changed", "leaf", "first", "shortens")
        values = {name: getattr(self, name) for name in names}
        turns = [turn.as_json() for turn in self.turns.values()]
        return {**values, "run": self.run, "turns": turns}

    def _check_room(self, text: str) -> None:
        size = sum(map(len, self.texts))
        if len(self.turns) >= MOST_TURNS or size + len(text) > MOST_TEXT:
            raise Full("This conversation is full: begin a new one.")

    def _remember(self) -> None:
        """Note the path that is shown now, for when its branch is shown again."""
        path = self.path()
        for before, after in zip(path, path[1:], strict=False):
            before.child = after.id


def heading(text: str) -> str:
    """A title from a message."""
    line = " ".join(text[: 4 * TITLE].split())
    return line if len(line) <= TITLE else f"{line[: TITLE - 1].rstrip()}…"


def check_message(text: Any) -> str:
    """A message that can be answered: without blank lines around it.

    Blanks before its first word stay: they are part of pasted code.

    Raises:
        ConfigError: If it is empty, too long, or holds half a character.
    """
    if not isinstance(text, str) or not text.strip():
        raise ConfigError("Write something first.")
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"That is longer than {MOST_CHARACTERS:,} characters.")
    if re.search(r"[\ud800-\udfff]", text):
        raise ConfigError("The text holds half a character: write or paste it again.")
    return re.sub(r"\A(?:[^\S\n]*\n)+", "", text).rstrip()


def conversation_from_json(id: str, values: Mapping[str, Any]) -> Conversation:
    """A conversation that `Conversation.as_json` wrote.

    Answers that were under way then are `unended`: whoever reads them knows why.

    Raises:
        ValueError: If a value cannot be.
        KeyError: If one is missing.
    """
    turns = _turns(values["turns"])
    kinds: dict[str, Any] = {"title": str, "named": bool}
    kinds.update(created=(int, float), changed=(int, float))
    if not all(isinstance(values[name], kind) for name, kind in kinds.items()):
        raise ValueError("a conversation has a title and times")
    if not all(math.isfinite(values[name]) for name in ("created", "changed")):
        raise ValueError("a conversation has times")
    leaf, first = values["leaf"], values.get("first")
    if not isinstance(shortens := values.get("shortens", False), bool):
        raise ValueError("a conversation is shortened or not")
    if any(at is not None and at not in turns for at in (leaf, first)):
        raise ValueError("a conversation ends with one of its turns")
    given = {name: values[name] for name in kinds}
    ends: dict[str, Any] = {"turns": turns, "leaf": leaf, "first": first}
    return Conversation(id, **given, **ends, shortens=shortens)


def _turns(values: Any) -> dict[int, Turn]:
    """Turns by their ids, as one tree or several."""
    turns: dict[int, Turn] = {}
    for one in values:
        turn = turn_from_json(one)
        # Parents come first, so that no path can turn in a circle.
        if turn.id in turns or (turn.parent is not None and turn.parent not in turns):
            raise ValueError("a turn has the wrong place")
        turns[turn.id] = turn
    for turn in turns.values():
        after = None if turn.child is None else turns.get(turn.child)
        if turn.child is not None and (after is None or after.parent != turn.id):
            raise ValueError("a turn is followed by none of its own")
    return turns


def turn_from_json(values: Any) -> Turn:
    """A turn that `Turn.as_json` wrote.

    Raises:
        ValueError: If a value cannot be.
        KeyError: If one is missing.
    """
    if not isinstance(values, dict):
        raise ValueError("a turn is an object")
    number, parent, role, text = (values[n] for n in ("id", "parent", "role", "text"))
    child = values.get("child")
    if type(number) is not int or not isinstance(text, str) or role not in TURNS:
        raise ValueError("a turn has a number, a role and a text")
    if any(at is not None and type(at) is not int for at in (parent, child)):
        raise ValueError("a turn's neighbours have numbers")
    answer = answer_from_json(values["answer"]) if role == ASSISTANT else None
    return Turn(number, parent, role, text, answer, child)
