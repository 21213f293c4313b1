"""`python -m comigs_mlx.simulate`: does learning together help, and by which method?"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from comigs_mlx import command
from comigs_mlx.config import parse
from comigs_mlx.simulation.options import SimulateConfig

if TYPE_CHECKING:
    from comigs_mlx.simulation.experiment import Begun
    from comigs_mlx.simulation.records import Outcome, RoundDone


def main(argv: Sequence[str] | None = None) -> None:
    """Run all methods with all seeds, draw, and print where the results are."""
    config = parse(SimulateConfig, "comigs_mlx.simulate", argv)
    from comigs_mlx.simulation.experiment import Begun, simulate
    from comigs_mlx.simulation.records import RoundDone, Stepped

    with contextlib.ExitStack() as stack:
        advance: Callable[[str], None] = lambda note: None
        for event in simulate(config, command.say):
            if isinstance(event, Begun):
                stack.close()
                command.say(_begun(event))
                bar = command.progress(event.steps, "step")
                advance = stack.enter_context(bar) if event.steps else lambda note: None
            elif isinstance(event, Stepped):
                if event.level == "expert":
                    advance(_place(event.round, event.participant, event.loss))
            elif isinstance(event, RoundDone):
                if event.test_loss:
                    command.say(_round(event))
            else:
                stack.close()
                command.say(_outcome(event))
    if config.measuring.plots:
        _draw(config)
    command.show((config.folder / "results.md").read_text(encoding="utf-8"), end="")
    command.show(str(config.folder))


def _draw(config: SimulateConfig) -> None:
    from comigs_mlx.simulation.plots import available, draw

    if not available():
        command.say("note: no plots: pip install 'comigs-mlx[simulation]'")
        return
    draw(config.folder, config.methods, config.seed_list)


def _begun(event: Begun) -> str:
    after = f", from round {event.round}" if event.round else ""
    return f"{event.method}, seed {event.seed}: {event.steps} steps{after}"


def _place(round: int, participant: str, loss: float) -> str:
    return f"round {round}  {participant}  loss {loss:.3f}"


def _round(event: RoundDone) -> str:
    losses = (f"{name} {loss:.3f}" for name, loss in event.test_loss.items())
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
