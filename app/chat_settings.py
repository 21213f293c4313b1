"""What a person has chosen on the page: who answers, and how tokens are drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comigs_mlx.errors import ConfigError, raise_all
from comigs_mlx.inference.trace import SPECIALIST

from .remedies import Mendable

NAMES = {
    "auto": "Together",
    "specialist": "Only me",
    "generalist": "Only everyone",
    "base": "Untrained",
}
"""Expert selections and their names on the page."""

MOST_TEMPERATURE = 2
MOST_TOKENS = 4096
"""Longest answer that can be asked for."""

MOST_LEAN = 4.0
"""Farthest lean that can be asked for: the odds times e^4, or about 55."""


@dataclass(frozen=True)
class ReplyOptions:
    """Who answers, and how.

    Attributes:
        run: The run's folder; None is the base model alone.
        model: Base model where there is no run.
        experts: A key of `NAMES`.
        temperature: 0 takes the likeliest token.
        top_p: Draw from the likeliest tokens of this much probability.
        max_tokens: Tokens to generate at most.
        system: System prompt; empty is none.
        seed: Of the draws; None is another one each time.
        lean: More of the specialists (above 0) or of the generalists; None is what the
            run keeps, else 0. It counts where the router chooses, in the mixture.
    """

    run: Path | None = None
    model: str = "demo"
    experts: str = "auto"
    temperature: float = 0.7
    top_p: float = 0.95
    max_tokens: int = 512
    system: str = ""
    seed: int | None = None
    lean: float | None = None

    def check(self) -> None:
        """Raise `ConfigError` for values that no widget gives.

        What is the page's alone is checked here, the rest where the library checks it.
        """
        if self.experts not in NAMES:
            raise ConfigError(f"experts must be one of {', '.join(NAMES)}")
        if self.run is None and self.experts not in ("auto", "base"):
            raise Mendable(
                f"“{NAMES[self.experts]}” needs a model of yours: choose one first.",
                "who",
            )
        if self.run is None and self.lean:
            raise Mendable(
                "The untrained model leans to nobody: choose a model of yours first.",
                "who",
            )
        problems = self.settings((SPECIALIST,)).problems(
            most_temperature=MOST_TEMPERATURE,
            most_tokens=MOST_TOKENS,
            most_lean=MOST_LEAN,
        )
        raise_all(ConfigError, list(problems))

    @property
    def title(self) -> str:
        """Who speaks, for people."""
        if self.run is None:
            return NAMES["base"]
        return NAMES[self.experts]

    def as_dict(self) -> dict[str, Any]:
        """What an answer keeps of how it was made, as JSON values."""
        return {
            "experts": self.experts,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "lean": self.lean,
            "system": self.system,
        }

    def selection(self, experts: Sequence[str]) -> str:
        """What the engine is told to select, of a run's experts."""
        return self.experts if self.run is not None and experts else "base"

    def settings(self, experts: Sequence[str]) -> Any:
        """The engine's settings."""
        from comigs_mlx.inference.settings import Settings

        return Settings(
            selection=self.selection(experts),
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            seed=self.seed,
            system=self.system.strip() or None,
            lean=self.lean if self.experts == "auto" else None,
        )


def number(value: Any, name: str) -> float:
    """A widget's number.

    Raises:
        ConfigError: If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{name} must be a number")
    if not math.isfinite(value):
        raise ConfigError(f"{name} must be finite")
    return value
