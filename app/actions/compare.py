"""The view Compare: one question, answered by each side alone and by both."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from comigs_mlx.conversations import marks
from comigs_mlx.conversations.tokens import Said
from comigs_mlx.conversations.tree import check_message
from comigs_mlx.errors import ConfigError
from comigs_mlx.inference.replies import Stopped

from .. import chat_settings, remedies, render
from ..chat_settings import ReplyOptions
from ..model_queue import ModelQueue
from ..remedies import Mendable
from ..sessions import Sessions
from ..shown import Shown, token_details
from ..watched import Watched, WatchedActions, failure
from . import runs

SIDES = {
    "base": "Untrained",
    "generalist": "Only everyone",
    "specialist": "Only me",
    "auto": "Together",
}
"""Expert selections side by side, in this order, and what they are called."""

NO_RUN = (
    "The untrained model alone has nobody to compare: choose who you talk to first."
)


@dataclass
class Card:
    """One of the four answers.

    Attributes:
        key: Of `SIDES`.
        state: `waiting`, `writing` or `done`.
        tokens: What was said.
        experts: Names of the run's experts.
        layers: Paths of the blocks that hold them.
        problem: Why it failed, in a sentence; empty: it did not.
        remedy: What mends that; see `remedies`.
        remark: Why it ended early; empty: it did not.
        begun: When the first token came, in seconds of `time.monotonic`.
        spent: Seconds from then to the last one.
        version: Of the comparison when it last changed.
    """

    key: str
    state: str = "waiting"
    tokens: list[Said] = field(default_factory=list)
    experts: list[str] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    problem: str = ""
    remedy: str = ""
    remark: str = ""
    begun: float = 0.0
    spent: float = 0.0
    version: int = 1
    shown: Shown = field(default_factory=Shown)

    @property
    def text(self) -> str:
        """What was said."""
        return "".join(token.text for token in self.tokens)

    def payload(self, since: int) -> dict[str, Any]:
        """What a page with version `since` is shown of it."""
        self.shown.follow(self.text, self.version)
        over = self._marks()
        share = marks.share(self.tokens, self.experts) if self.tokens else None
        done = self.state == "done"
        return {
            "key": self.key,
            "title": SIDES[self.key],
            "state": self.state,
            "blocks": [[i, html, over[i]] for i, html in self.shown.since(since)],
            "count": len(self.shown.blocks),
            "tokens": len(self.tokens),
            "rate": round((len(self.tokens) - 1) / self.spent, 1) if self.spent else 0,
            "share": None if share is None else round(share),
            "routed": marks.routed(self.tokens, self.experts),
            "remark": self.remark,
            "problem": self.problem,
            "remedy": remedies.named(self.remedy),
            "text": self.text if done else "",
        }

    def token(self, piece: Any) -> dict[str, Any]:
        """What is known of one piece of it."""
        pieces = marks.pieces(self.tokens)
        if type(piece) is not int or piece not in range(len(pieces)):
            raise ConfigError("That token is no longer there.")
        found = pieces[piece]
        text = self.text[found.start : found.end]
        return token_details(self.tokens, self.experts, self.layers, found, text)

    def _marks(self) -> list[list[list[int]]]:
        parts = marks.pieces(self.tokens)
        leans = marks.leans(self.tokens, parts, self.experts)
        return marks.over(self.shown.blocks, parts, leans)


class Comparison(Watched):
    """One question, answered by every side in turn, with one seed."""

    DOING = {"loading": "Loading", "reading": "Reading"}

    def __init__(self, model_queue: ModelQueue):
        super().__init__(model_queue)
        self._cards: dict[str, Card] = {}
        self._prompt = ""

    def ask(self, text: Any, options: ReplyOptions) -> None:
        """Have a question answered by all.

        Raises:
            ConfigError: If answers are under way, or the question is empty or too long.
        """
        options.check()
        text = check_message(text)
        with self._lock:
            if self.active:
                raise ConfigError("Answers are under way: wait for them, or stop them.")
            self._begin()
            self._prompt = text
            self._cards = {key: Card(key) for key in SIDES}
            self._tell(render.busy(self._model_queue.queue))
        seeded = replace(options, seed=random.randrange(2**31))
        done = self._model_queue.submit("Comparing", lambda e: self._all(e, seeded))
        done.add_done_callback(self._ended)

    def changes(self, epoch: int, since: int) -> dict[str, Any]:
        """What a page lacks that has version `since` of `epoch`."""
        with self._lock:
            since = since if epoch == self._epoch else 0
            cards = [c for c in self._cards.values() if c.version > since]
            return {
                "epoch": self._epoch,
                "version": self._version,
                "active": self.active,
                "status": self._status,
                "prompt": self._prompt,
                "cards": [card.payload(since) for card in cards],
            }

    def token(self, epoch: Any, card: Any, piece: Any) -> dict[str, Any]:
        """What is known of one piece of one answer; see `token_details`."""
        with self._lock:
            if epoch != self._epoch or card not in self._cards:
                raise ConfigError("That token is no longer there.")
            return self._cards[card].token(piece)

    def _all(self, engine: Any, options: ReplyOptions) -> None:
        info = engine.choose(
            options.run, options.model, stop=self._stop.is_set, listen=self._listen
        )
        for key, card in self._cards.items():
            if key not in info.selections:
                self._end(card, "This one has no such side.")
            elif self._stop.is_set():
                self._end(card, "Stopped before its turn.")
            else:
                self._speak(engine, info, card, replace(options, experts=key))

    def _speak(self, engine: Any, info: Any, card: Card, options: ReplyOptions) -> None:
        """Have one card filled; its errors are shown in it and end it alone."""
        finish = None
        with self._lock:
            card.state, card.experts = "writing", list(info.experts)
            card.layers = list(info.layers)
            self._touch(card)
        try:
            messages = [{"role": "user", "content": self._prompt}]
            given = (options.settings(info.experts), self._stop.is_set, info)
            for token in engine.reply(messages, *given, self._listen):
                finish = token.finish_reason
                self._take(card, token)
        except Stopped:
            pass
        except Exception as error:
            card.problem, card.remedy = failure(error)
        stopped = self._stop.is_set() and finish is None
        cut = "Cut at the longest answer that the settings allow."
        self._end(card, "Stopped." if stopped else cut if finish == "length" else "")

    def _take(self, card: Card, token: Any) -> None:
        now = time.monotonic()
        with self._lock:
            card.begun = card.begun or now
            card.spent = now - card.begun
            card.tokens.append(Said.of(token))
            self._tell(f"{SIDES[card.key]} is answering")
            self._touch(card)

    def _end(self, card: Card, remark: str) -> None:
        with self._lock:
            card.state, card.remark = "done", remark
            self._touch(card)

    def _ended(self, ended: Any) -> None:
        """Tell that all is done, and in the cards left over why they stay empty."""
        error = None if ended.cancelled() else ended.exception()
        told = error is not None and not isinstance(error, Stopped)
        problem, remedy = failure(error) if told and error is not None else ("", "")
        with self._lock:
            for card in self._cards.values():
                if card.state != "done":
                    card.problem, card.remedy = problem, remedy
                    self._end(card, "" if problem else "Stopped before its turn.")
            self.active = False
            self._tell("")

    def _touch(self, card: Card) -> None:
        self._version += 1
        card.version = self._version


class CompareActions(WatchedActions):
    """What the view Compare does.

    Args:
        model_queue: Has the engine.
        folder: Holds the runs.
        model: Base model where no run is chosen.
    """

    PART = "card"

    def __init__(self, model_queue: ModelQueue, folder: Path, model: str):
        self._folder, self._model = folder, model
        self.sessions = Sessions(
            lambda name: Comparison(model_queue), needed=lambda one: one.active
        )

    def _begin(self, found: Any, order: Mapping[str, Any], *given: Any) -> None:
        """Ask (`ask` is the question), with the run's name and how tokens are drawn."""
        found.ask(order.get("ask"), self._options(*given))

    def _options(
        self, run: Any, temperature: Any, top_p: Any, most: Any, system: Any
    ) -> ReplyOptions:
        path = runs.find(self._folder, run)
        if path is None:
            raise Mendable(NO_RUN, "who")
        return ReplyOptions(
            run=path,
            model=self._model,
            temperature=chat_settings.number(temperature, "temperature"),
            top_p=chat_settings.number(top_p, "top-p"),
            max_tokens=int(chat_settings.number(most, "max tokens")),
            system=str(system or ""),
        )
