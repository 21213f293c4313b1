"""Conversations as files in RUNS/.conversations that nobody else can read.

    .conversations/              (0700)
        <32 hex digits>/         one conversation; its name is the conversation's id
            conversation.json    the texts, all branches: `tree.Conversation.as_json`
            7.tokens.json        the kept tokens of answer 7, written once when it ends
        .trash/<32 hex digits>/  what was removed, for a day
        <32 hex digits>.json     a conversation of version 1; see `version_1`

Files are written whole or not at all, and are for their owner alone (0600). An old file
goes only after the new ones are there, so a process may be killed at any time.

While nothing is to be kept, what is said is held in memory alone, and what was there
stays as it was. A conversation that had a word in that time is never written: that it
would not be was promised when the word was said.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from comigs_mlx.conversations import searching
from comigs_mlx.conversations.disk import Disk, check_id
from comigs_mlx.conversations.tokens import Said
from comigs_mlx.conversations.tree import Conversation
from comigs_mlx.conversations.unkept import Unkept
from comigs_mlx.errors import ConfigError, line
from comigs_mlx.messages import Say, quiet
from comigs_mlx.runs.cleaning import CONVERSATIONS


class Store:
    """The conversations of one folder of runs; safe for threads.

    Args:
        runs: The folder of runs; nothing is made there before the first conversation.
        say: Is told once where conversations cannot be kept.
        keeping: Whether conversations are written; see `keeping`.
    """

    def __init__(self, runs: Path, say: Say = quiet, keeping: bool = True):
        self.folder = runs / CONVERSATIONS
        self.keeping = keeping
        """Whether what is said from now on is written; may be set at any time."""
        self._say = say
        self._disk, self._unkept = Disk(self.folder), Unkept()
        self._lock = threading.Lock()
        self._problem = ""

    @property
    def problem(self) -> str:
        """Why conversations are not kept now, in a sentence; empty: they are."""
        with self._lock:
            return self._problem

    def listed(self, query: str = "") -> list[dict[str, Any]]:
        """The conversations, the newest first.

        Args:
            query: Words that must stand in the title or the texts, in any branch and
                case.

        Returns:
            `id`, `title`, `changed` (in seconds since 1970), `run` (the name of the
            one that spoke last, or ""), `kept` (whether it is written), and
            `excerpt`, where a word of the query stands in a text.
        """
        self._disk.empty_bin()
        found = {one.id: (one, True) for one in self._disk.summaries()}
        found.update((one.id, (one, False)) for one in self._unkept.summaries())
        newest = sorted(found.values(), key=lambda one: one[0].changed, reverse=True)
        entries = [
            {"id": s.id, "title": s.title, "changed": s.changed, "run": s.run}
            | {"kept": kept, "excerpt": ""}
            for s, kept in newest
        ]
        wanted = searching.words(query)
        return [e for e in entries if self._meets(e, wanted)] if wanted else entries

    def read(self, id: str) -> Conversation | None:
        """A conversation; None where there is none.

        Raises:
            ConfigError: If it cannot be read; it is left as it is.
        """
        check_id(id)
        try:
            return self._unkept.read(id) or self._disk.read(id)
        except OSError:  # an old file, and a folder that cannot be written
            return self._disk.peek(id)

    def write(self, conversation: Conversation) -> bool:
        """Keep a conversation; whether that was possible.

        A folder that is full or read-only is told once, and as `problem`: the
        conversation then goes on in memory.
        """
        check_id(conversation.id)
        if not conversation.turns:
            return True
        if self._is_unkept(conversation.id):
            self._unkept.write(conversation)
            return True
        return self._attempt(lambda: self._disk.write(conversation))

    def write_tokens(self, id: str, turn: int, tokens: Sequence[Said]) -> bool:
        """Keep the tokens of an answer that has ended; as `write`."""
        check_id(id)
        if self._is_unkept(id):
            self._unkept.write_tokens(id, turn, tokens)
            return True
        return self._attempt(lambda: self._disk.write_tokens(id, turn, tokens))

    def read_tokens(self, id: str, turn: int) -> list[Said]:
        """The tokens of an answer; none where they are not kept.

        Raises:
            ConfigError: If they cannot be read.
        """
        check_id(id)
        return self._unkept.read_tokens(id, turn) or self._disk.read_tokens(id, turn)

    def rename(self, id: str, title: str) -> str:
        """Give a conversation a title; an empty one takes the first message again.

        Returns:
            The title that it has then.

        Raises:
            ConfigError: If there is no such conversation, or it cannot be written.
        """
        found = self.read(id)
        if found is None:
            raise ConfigError("That conversation is no longer there.")
        found.rename(title)
        if not self.write(found):
            raise ConfigError(self.problem)
        return found.title

    def remove(self, id: str) -> None:
        """Remove a conversation; for a day, `restore` has it back.

        Raises:
            ConfigError: If that is not possible.
        """
        check_id(id)
        try:
            self._unkept.remove(id)
            self._disk.remove(id)
        except OSError as error:
            raise ConfigError(
                f"The conversation cannot be deleted ({line(error)})."
            ) from error

    def restore(self, id: str) -> None:
        """Have back a conversation that was removed.

        Raises:
            ConfigError: If it is gone for good.
        """
        check_id(id)
        try:
            places = [self._unkept.restore(id), self._disk.restore(id)]
        except OSError as error:
            raise ConfigError(
                f"The conversation cannot be had back ({line(error)})."
            ) from error
        if not any(places):
            raise ConfigError("That conversation is gone for good.")

    def _is_unkept(self, id: str) -> bool:
        return not self.keeping or self._unkept.has(id)

    def _meets(self, entry: dict[str, Any], wanted: list[str]) -> bool:
        """Whether a conversation has each word; its entry then gets the excerpt."""
        held = self._unkept.read(entry["id"])
        try:
            texts = self._disk.texts(entry["id"]) if held is None else held.texts
        except ConfigError:  # damaged
            texts = []
        if not searching.met(wanted, [entry["title"], *texts]):
            return False
        entry["excerpt"] = searching.excerpt(wanted, texts)
        return True

    def _attempt(self, act: Callable[[], None]) -> bool:
        try:
            act()
        except OSError as error:
            told = (
                f"Conversations cannot be kept ({line(error)}): this one ends with the "
                f"app. Make room in {self.folder}, or make it writable."
            )
            with self._lock:
                new, self._problem = not self._problem, told
            if new:
                self._say(told)
            return False
        with self._lock:
            self._problem = ""
        return True
