"""Conversations that nothing is kept of: in memory, until the program ends."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence

from comigs_mlx.conversations.disk import MOST_REMOVED, Summary
from comigs_mlx.conversations.tokens import Said
from comigs_mlx.conversations.tree import Conversation, conversation_from_json

MOST_CONVERSATIONS = 64
MOST_TOKENS = 50_000
"""Conversations, and tokens of their answers (about 25 MB): of more, the oldest go."""


class Unkept:
    """Conversations in memory, with the methods of `disk.Disk`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: OrderedDict[str, str] = OrderedDict()
        self._removed: OrderedDict[str, str] = OrderedDict()
        self._tokens: OrderedDict[tuple[str, int], list[Said]] = OrderedDict()

    def read(self, id: str) -> Conversation | None:
        """A conversation; None where there is none."""
        with self._lock:
            text = self._texts.get(id)
        if text is None:
            return None
        found = conversation_from_json(id, json.loads(text))
        for turn in found.unended:
            if turn.answer is not None:
                turn.answer.interrupt()
        return found

    peek = read

    def write(self, conversation: Conversation) -> None:
        """Hold a conversation as it is now."""
        text = json.dumps(conversation.as_json(), separators=(",", ":"))
        with self._lock:
            self._texts[conversation.id] = text
            self._texts.move_to_end(conversation.id)
            while len(self._texts) > MOST_CONVERSATIONS:
                self._forget(self._texts.popitem(last=False)[0])

    def write_tokens(self, id: str, turn: int, tokens: Sequence[Said]) -> None:
        """Hold the tokens of an answer."""
        with self._lock:
            self._tokens[id, turn] = list(tokens)
            self._tokens.move_to_end((id, turn))
            left = sum(map(len, self._tokens.values()))
            while left > MOST_TOKENS and len(self._tokens) > 1:
                left -= len(self._tokens.popitem(last=False)[1])

    def read_tokens(self, id: str, turn: int) -> list[Said]:
        """The tokens of an answer; none where they are not held."""
        with self._lock:
            return list(self._tokens.get((id, turn), []))

    def has(self, id: str) -> bool:
        """Whether there is something under an id."""
        with self._lock:
            return id in self._texts

    def remove(self, id: str) -> None:
        """Put a conversation into the bin."""
        with self._lock:
            if id in self._texts:
                self._removed[id] = self._texts.pop(id)
            while len(self._removed) > MOST_REMOVED:
                self._forget(self._removed.popitem(last=False)[0])

    def restore(self, id: str) -> bool:
        """Take a conversation out of the bin; whether it was there."""
        with self._lock:
            if found := id in self._removed:
                self._texts.setdefault(id, self._removed.pop(id))
        return found

    def summaries(self) -> list[Summary]:
        """Every conversation, in no order."""
        with self._lock:
            ids = list(self._texts)
        found = (self.read(id) for id in ids)
        return [Summary.of(one) for one in found if one is not None]

    def _forget(self, id: str) -> None:
        for key in [key for key in self._tokens if key[0] == id]:
            del self._tokens[key]
