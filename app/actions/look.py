"""The view Look at a text: who reads each token, and how surprised each side is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from comigs_mlx.conversations import marks
from comigs_mlx.conversations.tokens import Said
from comigs_mlx.conversations.tree import check_message
from comigs_mlx.errors import ConfigError
from comigs_mlx.inference.replies import Scored, SpokenToken, Stopped

from .. import remedies, render
from ..model_queue import ModelQueue
from ..remedies import Mendable
from ..sessions import Sessions
from ..shown import token_details
from ..watched import Watched, WatchedActions, failure
from . import runs

SIDES = {
    "base": "untrained",
    "generalist": "everyone",
    "specialist": "you",
    "auto": "together",
}
"""Selections whose surprise is told, and what they are called."""

MOST_SURPRISE = 1e9
"""A token's perplexity is told up to here."""

NO_RUN = (
    "The untrained model alone has nobody to look at: choose who you talk to first."
)


class Reading:
    """A text as it was read: plain data for the page, made once.

    Args:
        title: Name of the run.
        scored: What the engine found.
    """

    def __init__(self, title: str, scored: Scored):
        self._title, self._scored = title, scored
        self._tokens = [
            Said.of(SpokenToken(t.id, t.text, t.weights, [], None))
            for t in scored.tokens
        ]
        self._text = "".join(token.text for token in scored.tokens)
        self._pieces = marks.pieces(self._tokens)

    @cached_property
    def payload(self) -> dict[str, Any]:
        """What the page is shown of it.

        Returns:
            `pieces`: for each its text, shares and tints in whole percents (the mean
            over all layers and then each layer) and `surprise` by side; `figures`: the
            surprise of each side over the whole text.
        """
        scored = self._scored
        return {
            "title": self._title,
            "experts": scored.experts,
            "layers": scored.layers,
            "routed": marks.routed(self._tokens, scored.experts),
            "pieces": [
                self._piece(one, leans)
                for one, leans in zip(self._pieces, self._leans(), strict=True)
            ],
            "figures": [
                [name, scored.perplexity[key]]
                for key, name in SIDES.items()
                if key in scored.perplexity
            ],
            "oracle": oracle(scored),
        }

    def token(self, piece: Any) -> dict[str, Any]:
        """What is known of one piece; see `token_details`."""
        if type(piece) is not int or piece not in range(len(self._pieces)):
            raise ConfigError("That token is no longer there.")
        found = self._pieces[piece]
        names = (self._scored.experts, self._scored.layers)
        text = self._text[found.start : found.end]
        told = self._surprise(found)
        return {
            **token_details(self._tokens, *names, found, text),
            "title": self._title,
            "surprise": [pair for pair in told if pair[1] is not None],
        }

    def _leans(self) -> list[list[float]]:
        """Who reads each piece: the mean over all layers, and then each layer."""
        experts, layers = self._scored.experts, range(-1, len(self._scored.layers))
        given = (self._tokens, self._pieces, experts)
        each = [marks.leans(*given, layer) for layer in layers]
        return [list(one) for one in zip(*each, strict=True)]

    def _piece(self, piece: marks.Piece, leans: list[float]) -> dict[str, Any]:
        return {
            "text": self._text[piece.start : piece.end],
            "share": [round(50 + 50 * x) for x in leans],
            "tint": [round(100 * marks.tint(x)) for x in leans],
            "surprise": [value for _, value in self._surprise(piece)],
        }

    def _surprise(self, piece: marks.Piece) -> list[tuple[str, float | None]]:
        """How surprised each side is by a piece: the mean over its tokens."""
        told: list[tuple[str, float | None]] = []
        for key, name in SIDES.items():
            if key not in self._scored.perplexity:
                continue
            own = self._scored.tokens[piece.first : piece.last + 1]
            known = [x for token in own if (x := token.losses[key]) is not None]
            mean = capped(sum(known) / len(known)) if known else None
            told.append((name, mean if mean is None else float(f"{mean:.4g}")))
        return told


def capped(loss: float) -> float:
    """Perplexity of one token from its loss in nats, at most `MOST_SURPRISE`."""
    return min(math.exp(min(loss, 50.0)), MOST_SURPRISE)


def oracle(scored: Scored) -> str:
    """How far the router is from the better side of every token, in sentences.

    Empty where a side is missing, or nothing was predicted.
    """
    import numpy as np

    from comigs_mlx.reports.oracle import oracle_gap

    told = [token for token in scored.tokens if token.losses]
    told = [t for t in told if all(loss is not None for loss in t.losses.values())]
    if not told or not {"auto", "generalist", "specialist"} <= set(told[0].losses):
        return ""
    losses = {key: np.array([t.losses[key] for t in told]) for key in told[0].losses}
    shared = sum(not name.startswith("specialist") for name in scored.experts)
    weights = np.array([np.mean(token.weights, axis=0) for token in told])
    sides = (losses["generalist"], losses["specialist"])
    alone = {"generalist": sides[0], "specialist": sides[1]}
    gap = oracle_gap(losses["auto"], alone, sides, weights, shared)
    best, now = capped(gap.oracle), capped(gap.mixture)
    first = (
        f"If at every token the better of you and everyone had spoken alone, it would "
        f"be {best:.3g}; together it is {now:.3g}. No router can know beforehand which "
        "one that is, so this is a mark to measure by, not a goal."
    )
    if gap.agreement is None:
        return f"{first} You and everyone nowhere clearly differ on this text."
    return (
        f"{first} On {gap.decided:,} of {gap.tokens:,} tokens you and everyone clearly "
        f"differ; on {gap.agreement:.0%} of these the better one had more to say."
    )


class Looking(Watched):
    """One text, or two side by side, as far as they have been read."""

    DOING = {"loading": "Loading", "scoring": "Reading"}

    def __init__(self, model_queue: ModelQueue, model: str):
        super().__init__(model_queue)
        self._model = model
        self._readings: list[Reading] = []
        self._text, self._problem, self._remedy = "", "", ""

    def look(self, wanted: Sequence[tuple[str, Path]]) -> None:
        """Have texts read, each by a run.

        Raises:
            ConfigError: If one is being read.
        """
        with self._lock:
            if self.active:
                raise ConfigError("A text is being read: wait for it, or stop it.")
            self._begin()
            self._text, self._readings = wanted[0][0], []
            self._problem, self._remedy = "", ""
            self._tell(render.busy(self._model_queue.queue))
        done = self._model_queue.submit("Reading", lambda e: self._read(e, wanted))
        done.add_done_callback(self._ended)

    def changes(self, epoch: int, since: int) -> dict[str, Any]:
        """What a page lacks that has version `since` of `epoch`."""
        with self._lock:
            known = epoch == self._epoch and since == self._version
            told = [] if known else [one.payload for one in self._readings]
            return {
                "epoch": self._epoch,
                "version": self._version,
                "active": self.active,
                "status": self._status,
                "text": self._text,
                "why": self._problem,
                "remedy": remedies.named(self._remedy),
                "readings": None if known else told,
            }

    def token(self, epoch: Any, reading: Any, piece: Any) -> dict[str, Any]:
        """What is known of one piece of one text."""
        with self._lock:
            if epoch != self._epoch or reading not in range(len(self._readings)):
                raise ConfigError("That token is no longer there.")
            return self._readings[reading].token(piece)

    def _read(self, engine: Any, wanted: Sequence[tuple[str, Path]]) -> None:
        watched = {"stop": self._stop.is_set, "listen": self._listen}
        for text, run in wanted:
            info = engine.choose(run, self._model, **watched)
            usable = [name for name in SIDES if name in info.selections]
            found = Reading(run.name, engine.score(text, usable, **watched))
            _ = found.payload  # made here, where no page waits for it
            with self._lock:
                self._readings.append(found)
                self._version += 1

    def _ended(self, ended: Any) -> None:
        error = None if ended.cancelled() else ended.exception()
        stopped = ended.cancelled() or isinstance(error, Stopped)
        with self._lock:
            self.active = False
            if error is not None and not stopped:
                self._problem, self._remedy = failure(error)
            self._version += 1
            self._tell("Stopped." if stopped else "")


class LookActions(WatchedActions):
    """What the view Look at a text does.

    Args:
        model_queue: Has the engine.
        folder: Holds the runs.
        model: Base model where no run is chosen.
    """

    PART = "reading"

    def __init__(self, model_queue: ModelQueue, folder: Path, model: str):
        self._folder = folder
        self.sessions = Sessions(
            lambda name: Looking(model_queue, model), needed=lambda one: one.active
        )

    def runs(self, question: Any) -> list[list[str]]:
        """Value and label of the runs that another reading can be of."""
        now = runs.overview(self._folder)
        return [[name, now.labels[name]] for name in now.usable]

    def _begin(self, found: Any, order: Mapping[str, Any], *given: Any) -> None:
        """Look at a text (`text`), and at another or with another run beside it.

        Args:
            found: The work of the page.
            order: `text`, `other` and `other_run`, the latter two often empty.
            given: The run's name.
        """
        found.look(self._wanted(order, *given))

    def _wanted(self, order: Mapping[str, Any], run: Any) -> list[tuple[str, Path]]:
        text = check_message(order.get("text"))
        wanted = [(text, self._run(run))]
        other, other_run = order.get("other"), order.get("other_run")
        if str(other or "").strip() or other_run:
            second = check_message(other) if str(other or "").strip() else text
            wanted.append((second, self._run(other_run or run)))
        return wanted

    def _run(self, name: Any) -> Path:
        path = runs.find(self._folder, name)
        if path is None:
            raise Mendable(NO_RUN, "who")
        return path
