"""One question answered twice: by the base model alone, and with what was learnt."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from comigs_mlx.errors import ConfigError
from comigs_mlx.inference.settings import Settings

from .. import render
from ..model_queue import ModelQueue
from . import runs

QUESTION = "Tell me about your day."
"""What is asked where nobody asks something else."""

MOST_TOKENS, MOST_CHARACTERS = 96, 2000
"""Tokens of a sample answer, and characters of a question."""

SIDES = {"base": "Before", "auto": "After"}
"""Who answers, and its name beside the answer."""


class SampleActions:
    """Sample answers before and after.

    Args:
        model_queue: Has the engine.
        folder: Holds the runs.
    """

    def __init__(self, model_queue: ModelQueue, folder: Path):
        self.model_queue, self.folder = model_queue, folder

    def both(self, name: Any, question: Any) -> str:
        """The two answers, drawn with one seed: HTML.

        Raises:
            ComigsError: If the run cannot be talked to, or the question is too long.
        """
        run = runs.find(self.folder, name)
        if run is None:
            raise ConfigError("Choose a run first.")
        asked = str(question or "").strip() or QUESTION
        if len(asked) > MOST_CHARACTERS:
            raise ConfigError(f"At most {MOST_CHARACTERS:,} characters, please.")
        seed = random.randrange(2**31)

        def job(engine: Any) -> dict[str, str]:
            engine.choose(run)
            return {side: _answer(engine, asked, side, seed) for side in SIDES}

        answers = self.model_queue.submit("Answering a sample", job).result()
        return shown(asked, answers)


def _answer(engine: Any, question: str, side: str, seed: int) -> str:
    settings = Settings(selection=side, seed=seed, max_tokens=MOST_TOKENS)
    messages = [{"role": "user", "content": question}]
    return "".join(token.text for token in engine.reply(messages, settings))


def shown(question: str, answers: dict[str, str]) -> str:
    """A question and its answers, side by side: HTML."""
    cards = "".join(
        f'<section class="cm-answer"><h4>{SIDES[side]}</h4>'
        f"<p>{render.escape(text.strip()) or '(nothing)'}</p></section>"
        for side, text in answers.items()
    )
    return f'{render.note(question)}<div class="cm-answers">{cards}</div>'
