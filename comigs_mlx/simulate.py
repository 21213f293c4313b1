"""`python -m comigs_mlx.simulate`: does learning together help, and by which method?"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from comigs_mlx import command
from comigs_mlx.config import parse
from comigs_mlx.simulation.options import SimulateConfig

if TYPE_CHECKING:
    from comigs_mlx.simulation.records import Begun, Outcome, RoundDone, Stepped


NAMED = 16
"""The most participants whose losses are told by name."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run all methods with all seeds, draw, and print where the results are."""
    config = parse(SimulateConfig, "comigs_mlx.simulate", argv)
    from comigs_mlx.platform.mac.awake import awake
    from comigs_mlx.simulation.comparison import compare
    from comigs_mlx.simulation.records import Begun, Planned, RoundDone, Stepped
    from comigs_mlx.simulation.results_folder import ResultsFolder

    if config.worker:
        config = ResultsFolder(config).begun_with(config)
    with contextlib.ExitStack() as stack:
        stack.enter_context(awake(config.caffeinate, command.say))
        advance: Callable[[str], None] = lambda note: None
        for event in compare(config, command.say):
            if isinstance(event, Planned):
                if event.steps:
                    bar = command.progress(event.steps, "step")
                    advance = stack.enter_context(bar)
            elif isinstance(event, Begun):
                command.say(_begun(event))
            elif isinstance(event, Stepped):
                if event.level == "expert":
                    advance(_place(event))
            elif isinstance(event, RoundDone):
                if event.test_loss:
                    command.say(_round(event))
            else:
                command.say(_outcome(event))
    if config.measuring.plots:
        _draw(config)
    command.show((config.folder / "results.md").read_text(encoding="utf-8"), end="")
    command.show(str(config.folder))


def _draw(config: SimulateConfig) -> None:
    from comigs_mlx.simulation.plots import available, draw
    from comigs_mlx.simulation.results_folder import ResultsFolder

    if not available():
        command.say("note: no plots: pip install 'comigs-mlx[simulation]'")
        return
    draw(ResultsFolder(config), config.methods, config.seed_list)


def _begun(event: Begun) -> str:
    after = f", from round {event.round}" if event.round else ""
    return f"{event.method}, seed {event.seed}: {event.steps} steps{after}"


def _place(event: Stepped) -> str:
    where = f"{event.method}  round {event.round}  {event.participant}"
    return f"{where}  loss {event.loss:.3f}"


def _round(event: RoundDone) -> str:
    losses = [f"{name} {loss:.3f}" for name, loss in event.test_loss.items()]
    if len(losses) > NAMED:
        mean = sum(event.test_loss.values()) / len(losses)
        losses = [f"mean {mean:.3f}"]
    return f"{event.method}, seed {event.seed}, round {event.round}: test loss " + (
        ", ".join(losses)
    )


def _outcome(event: Outcome) -> str:
    from comigs_mlx.simulation.results import perplexity

    values = [perplexity(loss) for loss in event.loss.values()]
    mean = sum(values) / len(values)
    return (
        f"{event.method}, seed {event.seed}: mean test perplexity {mean:.2f}, "
        f"{event.bytes_per_round / 1e6:.2f} MB a round, {event.seconds:.0f} s"
    )


if __name__ == "__main__":
    command.run(main)
