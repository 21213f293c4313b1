"""`python -m comigs_mlx.train`: learn from text on this device."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comigs_mlx import command
from comigs_mlx.config import given, to_dict
from comigs_mlx.messages import Note, Say
from comigs_mlx.options import TrainConfig, train_config

if TYPE_CHECKING:
    from comigs_mlx.runs.session import Session
    from comigs_mlx.training.records import Exchanged, Report

PATIENCE = 30.0
"""Seconds to go on trying to reach the repository before training goes on without."""


def main(argv: Sequence[str] | None = None) -> None:
    """Read the configuration, train, and print where the run is."""
    from comigs_mlx.runs.told import telling

    with telling(command.say, command.explain) as say:
        folder = _trained(argv, say)
    command.show(str(folder))


def _trained(argv: Sequence[str] | None, say: Say) -> Path:
    """Train as the flags say; the run's folder."""
    config = train_config(argv)
    from comigs_mlx.runs.place import Place

    if config.resume and Place(config.folder).settle():
        config = train_config(argv)  # the run was changed, and now says so
    from comigs_mlx.runs.loggers import check_installed
    from comigs_mlx.runs.session import session

    check_installed(config.report_to)
    if config.sharing.federation is None:
        with session(config, say) as opened:
            _introduce(opened, say)
            _train(config, opened, opened.run, opened.trainer.steps_left)
    else:
        opened = _shared(config, given(TrainConfig, "comigs_mlx.train", argv), say)
    return opened.folder.path


def _shared(config: TrainConfig, flags: Collection[str], say: Say) -> Session:
    """Train in a federation."""
    from comigs_mlx.federation.exchanges.open import open_exchange
    from comigs_mlx.federation.participant.join import join
    from comigs_mlx.federation.participant.training import Participation
    from comigs_mlx.runs.session import session

    assert config.sharing.federation is not None
    uri = config.sharing.federation
    exchange = open_exchange(uri, patience=PATIENCE, say=say)
    # Accepted is what is there now: resumed, the run must not go on accepting.
    accept, sharing = config.sharing.trust, config.sharing
    sharing = dataclasses.replace(sharing, trust=False)
    config = dataclasses.replace(config, sharing=sharing)
    config, check = join(config, flags, exchange)
    with session(config, say, check) as opened:
        _introduce(opened, say)
        part = Participation(exchange, opened, config, say, accept)
        _train(config, opened, part.run, part.steps_left)
    return opened


def _introduce(opened: Session, say: Say) -> None:
    """What is trained on what, before the first step."""
    from comigs_mlx.data import preview_text
    from comigs_mlx.model.params import EXPERTS

    counts = opened.trainer.trainable()
    documents = (f"{name} {count}" for name, count in opened.documents.items())
    say(f"documents: {', '.join(documents)}")
    if opened.text is not None:
        for sentence in preview_text.short(opened.text):
            say(sentence)
        about = preview_text.secrets_sentence(opened.text)
        say(Note(about) if opened.text.trained_secrets else about)
    parts = (f"{role} {count:,}" for role, count in counts.items())
    if set(opened.trainer.experts.roles).isdisjoint(EXPERTS):
        say(
            f"trainable: the router alone, {counts['router']:,}; nothing is contributed"
        )
    else:
        say(f"trainable: {', '.join(parts)}; in all {sum(counts.values()):,}")
    for warning in opened.trainer.warnings():
        say(Note(warning))


def _train(
    config: TrainConfig,
    opened: Session,
    run: Callable[..., Iterable[Any]],
    steps: int,
) -> None:
    """Show what happens, and log the reports.

    Args:
        config: With `report_to`.
        opened: What is trained.
        run: Takes `stop`, and yields what happens.
        steps: To be expected, of all levels.
    """
    from comigs_mlx.runs.loggers import logger
    from comigs_mlx.runs.progress import ProgressFile
    from comigs_mlx.training.records import Exchanged, Report, Step

    trainer = opened.trainer
    with (
        logger(config.report_to, str(opened.folder.path), to_dict(config)) as log,
        _interrupts() as asked,
        command.progress(steps, "step") as advance,
        ProgressFile(opened.folder.path, steps, config.training.steps) as file,
    ):
        means = ""
        for event in run(stop=lambda: bool(asked)):
            if isinstance(event, Step):
                file.advance(trainer.position.step)
                advance(f"{event.level} loss {event.loss:.3f}{means}")
            elif isinstance(event, Report):
                log(dataclasses.asdict(event))
                command.say(line(event))
                means = f"  | {line(event)}" if command.on_terminal() else ""
            elif isinstance(event, Exchanged):
                command.say(news(event))
    if asked and trainer.steps_left:
        command.say(
            f"stopped and saved at step {trainer.position.step}: "
            f"--run {opened.folder.path} --resume goes on from here"
        )
        raise KeyboardInterrupt


@contextlib.contextmanager
def _interrupts() -> Iterator[list[Any]]:
    """Interrupts so far; a second one ends the process at once.

    Ctrl-C, SIGTERM, and SIGHUP, which a terminal sends when it is closed.
    """
    asked: list[Any] = []

    def note(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        command.say("stopping after this step (once more: at once, unsaved)")

    before = {s: signal.signal(s, note) for s in _ends()}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ends() -> Iterator[signal.Signals]:
    """The signals that ask a training to save and end."""
    yield from (signal.SIGINT, signal.SIGTERM)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        yield signal.SIGHUP


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


def news(event: Exchanged) -> str:
    """One exchange with the federation as a line for people."""
    who = ", ".join(event.contributors) or "nobody yet"
    told = {
        "pulled": f"has the generalist of round {event.round} (of {who})",
        "contributed": f"contributed to round {event.round}",
        "late": f"round {event.round} was closed before this run could contribute",
        "offline": f"out of reach: round {event.round} gets its contribution later",
        "refused": f"round {event.round}: nothing is sent or pulled, training goes on",
    }
    parts = [f"step {event.step}", told[event.event]]
    if event.bytes_sent or event.bytes_received:
        sizes = f"{event.bytes_sent:,} bytes sent, {event.bytes_received:,} received"
        parts.append(sizes)
    return "  ".join([*parts, *([event.note] if event.note else [])])


if __name__ == "__main__":
    command.run(main)
