"""Has a training helped? The loss of text that nothing learns from, before and after.

The experts learn from train and the router from valid, so test alone can tell. When a
training has its steps, a sample of test is measured under the base alone and under the
mixture: one line of RUN/held_out.jsonl, {"step", "base_loss", "loss", "tokens"}, losses
in nats per token. Needs no MLX.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from comigs_mlx.runs.place import Place, reports

MOST_LOSS = 50.0
"""The largest loss in nats whose perplexity is told."""


@dataclass(frozen=True)
class Gain:
    """What the base is and what a run is, on the run's own held-out text.

    Attributes:
        base_loss: The loss of the base alone, in nats per token.
        loss: The loss of the mixture, in nats per token.
        tokens: The number of tokens that both predicted.
    """

    base_loss: float
    loss: float
    tokens: int

    @property
    def better(self) -> float:
        """The share by which the perplexity has fallen; below 0 where it rose."""
        return 1 - self.perplexities[1] / self.perplexities[0]

    @property
    def perplexities(self) -> tuple[float, float]:
        """The perplexity before and after."""
        before, after = (min(x, MOST_LOSS) for x in (self.base_loss, self.loss))
        return math.exp(before), math.exp(after)

    def __str__(self) -> str:
        """Return the numbers as a sentence's end: `from 41.2 to 35.0, 15 % better`."""
        before, after = self.perplexities
        kind = "better" if after <= before else "worse"
        change = f"{abs(self.better):.0%}".replace("%", " %")
        return f"from {before:.1f} to {after:.1f}, {change} {kind}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def read(run: Path) -> Gain | None:
    """Read what the last training of a run has gained; None where none was measured."""
    found = None
    for line, _ in reports(Place(run).held_out, "loss"):
        base_loss, tokens = line.get("base_loss"), line.get("tokens")
        if isinstance(base_loss, int | float) and isinstance(tokens, int):
            found = Gain(base_loss, line["loss"], tokens)
    return found
