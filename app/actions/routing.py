"""The Routing tab: a text, scored."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from comigs_mlx.errors import ConfigError

from .. import render
from ..chat import check
from ..model_queue import ModelQueue
from ..render import PER_MILLE
from . import runs

SCORED = {
    "base": "base",
    "generalist": "generalist",
    "specialist": "specialist",
    "auto": "mixture",
}
"""Selections whose perplexity is shown, and their names."""


class RoutingActions:
    """What the Routing tab does.

    Args:
        model_queue: Has the engine.
        folder: Holds the runs.
        model: Base model where no run is chosen.
    """

    def __init__(self, model_queue: ModelQueue, folder: Path, model: str):
        self.model_queue, self.folder, self.model = model_queue, folder, model

    def score(self, *pairs: Any) -> dict[str, Any]:
        """Score one text, or two side by side.

        Args:
            pairs: Text and run, alternating; an empty second text or the base model
                as its run stand for the first one's.

        Returns:
            `panels`, for the page's element.

        Raises:
            ComigsError: If a text is empty or cannot be scored.
        """
        text, run, other_text, other_run = pairs
        wanted = [(check(text), self._run(run))]
        if str(other_text or "").strip() or other_run not in (runs.BASE, None):
            second = other_text if str(other_text or "").strip() else text
            wanted.append((check(second), self._run(other_run or run)))
        panels = [self._panel(*one) for one in wanted]
        return {"panels": panels}

    def waiting(self) -> str:
        """HTML that says how many are served before; empty for none."""
        return render.waiting(self.model_queue.queue)

    def _run(self, name: Any) -> Path:
        path = runs.find(self.folder, name)
        if path is None:
            raise ConfigError("Choose a run: the base model alone has no experts.")
        return path

    def _panel(self, text: str, run: Path) -> dict[str, Any]:
        def job(engine: Any) -> dict[str, Any]:
            info = engine.choose(run, self.model)
            usable = [name for name in SCORED if name in info.selections]
            return panel(run.name, engine.score(text, usable))

        return self.model_queue.submit("Scoring", job).result()


def panel(title: str, scored: Any) -> dict[str, Any]:
    """A scored text as JSON values for the page."""
    tokens = [
        {
            "text": token.text,
            "w": [round(PER_MILLE * w) for layer in token.weights for w in layer],
            "perplexity": {
                SCORED[name]: None if loss is None else round(capped(loss), 3)
                for name, loss in token.losses.items()
            },
        }
        for token in scored.tokens
    ]
    return {
        "title": title,
        "experts": scored.experts,
        "layers": scored.layers,
        "tokens": tokens,
        "perplexity": {
            SCORED[name]: round(value, 3) for name, value in scored.perplexity.items()
        },
    }


def capped(loss: float) -> float:
    """Perplexity of one token from its loss in nats, at most 10^9."""
    return min(math.exp(min(loss, 50.0)), 1e9)
