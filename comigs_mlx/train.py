"""`python -m comigs_mlx.train`: learn from text on this device."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from comigs_mlx import command
from comigs_mlx.config import to_dict
from comigs_mlx.options import TrainConfig, train_config

if TYPE_CHECKING:
    from comigs_mlx.runs.session import Session
    from comigs_mlx.training.records import Report


def main(argv: Sequence[str] | None = None) -> None:
    """Read the configuration, train, and print where the run is."""
    config = train_config(argv)
    from comigs_mlx.runs.loggers import check_installed
    from comigs_mlx.runs.session import session

    check_installed(config.report_to)
    with session(config, command.say) as opened:
        _introduce(opened)
        _train(config, opened)
    command.show(str(opened.folder.path))


def _introduce(opened: Session) -> None:
    """What is trained on what, before the first step."""
    counts = opened.trainer.trainable()
    documents = (f"{name} {count}" for name, count in opened.documents.items())
    command.say(f"documents: {', '.join(documents)}")
    parts = (f"{role} {count:,}" for role, count in counts.items())
    command.say(f"trainable: {', '.join(parts)}; in all {sum(counts.values()):,}")
    for warning in opened.trainer.warnings():
        command.say(f"note: {warning}")


def _train(config: TrainConfig, opened: Session) -> None:
    from comigs_mlx.runs.loggers import logger
    from comigs_mlx.training.records import Report, Step

    trainer = opened.trainer
    with (
        logger(config.report_to, str(opened.folder.path), to_dict(config)) as log,
        _interrupts() as asked,
        command.progress(trainer.steps_left, "step") as advance,
    ):
        means = ""
        for event in opened.run(stop=lambda: bool(asked)):
            if isinstance(event, Step):
                advance(f"{event.level} loss {event.loss:.3f}{means}")
            elif isinstance(event, Report):
                log(dataclasses.asdict(event))
                command.say(line(event))
                means = f"  | {line(event)}" if command.on_terminal() else ""
    if asked and trainer.steps_left:
        command.say(
            f"stopped and saved at step {trainer.position.step}: "
            f"--run {opened.folder.path} --resume goes on from here"
        )
        raise KeyboardInterrupt


@contextlib.contextmanager
def _interrupts() -> Iterator[list[Any]]:
    """Interrupts (Ctrl-C, SIGTERM) so far; a second one ends the process at once."""
    asked: list[Any] = []

    def note(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        command.say("stopping after this step (once more: at once, unsaved)")

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def line(report: Report) -> str:
    """One report as a line for people."""
    parts = [f"step {report.step}", f"train {report.train_loss:.3f}"]
    if report.router_loss is not None:
        parts.append(f"router {report.router_loss:.3f}")
    if report.valid_loss is not None:
        parts.append(f"valid {report.valid_loss:.3f}")
    shares = (f"{name} {share:.0%}" for name, share in report.expert_share.items())
    parts += [f"{report.tokens_per_second:.0f} tokens/s", *shares]
    return "  ".join([*parts, f"peak {report.peak_memory_gb:.1f} GB"])


if __name__ == "__main__":
    command.run(main)
