"""`python -m comigs_mlx.train`: learn from text on this device."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comigs_mlx import command
from comigs_mlx.config import given, to_dict
from comigs_mlx.errors import is_gpu_watchdog
from comigs_mlx.messages import Note, Say
from comigs_mlx.options import TrainConfig, train_config
from comigs_mlx.platform import cpu

if TYPE_CHECKING:
    from comigs_mlx.federation.participant.training import Connection
    from comigs_mlx.runs.progress import ProgressFile
    from comigs_mlx.runs.session import Session
    from comigs_mlx.training.parallel import Group
    from comigs_mlx.training.records import Exchanged, Pause, Report

PATIENCE = 30.0
"""Seconds to go on trying to reach the repository before training goes on without."""

NOTIFY_SECONDS = 60.0
"""A training that took no longer has ended before its user's eyes."""


@dataclasses.dataclass(frozen=True)
class Others:
    """Who takes part beside this process.

    Attributes:
        ranks: The processes that share each batch.
        through: How the federation is reached; None opens what `--federation` names.
    """

    ranks: Group
    through: Connection | None = None


def main(argv: Sequence[str] | None = None, through: Connection | None = None) -> None:
    """Read the configuration, train, and print where the run is.

    Of several processes that a launcher has started, one does; the others help it.

    Args:
        argv: Arguments; by default those of the process.
        through: How the federation is reached; None opens what `--federation` names.
    """
    from comigs_mlx.runs.told import telling
    from comigs_mlx.training import parallel

    with parallel.opened() as ranks:
        if not ranks.leader:
            from comigs_mlx.runs import following

            following.follow(ranks)
            return
        with telling(command.say, command.explain) as say:
            folder = _trained(argv, say, Others(ranks, through))
    command.show(str(folder))


def _trained(argv: Sequence[str] | None, say: Say, others: Others) -> Path:
    """Train as the flags say; the run's folder."""
    config = train_config(argv)
    from comigs_mlx.runs.place import Place

    if config.resume and Place(config.folder).settle():
        config = train_config(argv)  # the run was changed, and now says so
    if config.training.grad_checkpoint:
        cpu.narrow_graphs()
    from comigs_mlx.platform.mac.awake import awake
    from comigs_mlx.runs.loggers import check_installed

    check_installed(config.report_to)
    flags = given(TrainConfig, "comigs_mlx.train", argv)
    others.ranks.limit = config.mac.peer_timeout
    with awake(config.mac.caffeinate, say), _notifying(config):
        return _persistently(config, flags, say, others)


def _persistently(
    config: TrainConfig, flags: Collection[str], say: Say, others: Others
) -> Path:
    """Train, and go on from the last save where macOS ended the work on the GPU.

    MLX raises what Metal reports at a later call (mlx pull request 3523), after which
    the GPU can be used again; what was in memory is not trusted, so the whole session
    is opened anew, as `--resume` does. Of several machines all end instead, as those
    whose GPU works wait within the step.
    """
    from comigs_mlx.runs.place import Place

    for left in range(config.mac.retries * (others.ranks.size == 1), -1, -1):
        try:
            return _once(config, flags, say, others)
        except RuntimeError as error:
            begun = Place(config.folder).config.is_file()
            if not (left and begun and is_gpu_watchdog(error)):
                raise
            say(Note(f"{' '.join(str(error).split())}: going on from the last save"))
        # Only now nothing refers to the session any more, whose memory is needed.
        gc.collect()
        sharing = dataclasses.replace(config.sharing, trust=False)
        config = dataclasses.replace(config, resume=True, sharing=sharing)
    raise AssertionError("the last try returns or raises")


def _once(
    config: TrainConfig, flags: Collection[str], say: Say, others: Others
) -> Path:
    """Open the run and train it to its end."""
    from comigs_mlx.runs.session import session

    if config.sharing.federation is not None:
        return _shared(config, flags, say, others).folder.path
    with session(config, say, ranks=others.ranks) as opened:
        _introduce(opened, say)
        _train(config, opened, opened.run, opened.trainer.steps_left)
    return opened.folder.path


@contextlib.contextmanager
def _notifying(config: TrainConfig) -> Iterator[None]:
    """Show a notification when a long training ends by itself, well or not."""
    began = time.monotonic()

    def show(state: str) -> None:
        if time.monotonic() - began >= NOTIFY_SECONDS:
            _notify(config, state)

    try:
        yield
    except Exception:
        show("training has failed")
        raise
    show("training is done")


def _notify(config: TrainConfig, state: str) -> None:
    """Show the run's name and its state, if notifications are wanted."""
    from comigs_mlx.platform.mac import notification

    if config.mac.notify:
        notification.show(config.folder.absolute().name, state)


def _shared(
    config: TrainConfig, flags: Collection[str], say: Say, others: Others
) -> Session:
    """Train in a federation."""
    from comigs_mlx.federation.exchanges.open import open_exchange
    from comigs_mlx.federation.participant.join import join
    from comigs_mlx.federation.participant.training import Connection, Participation
    from comigs_mlx.runs.session import session

    assert config.sharing.federation is not None
    uri, through = config.sharing.federation, others.through
    if through is None:
        through = Connection(open_exchange(uri, patience=PATIENCE, say=say))
    exchange = through.exchange
    # Accepted is what is there now: resumed, the run must not go on accepting.
    accept, sharing = config.sharing.trust, config.sharing
    sharing = dataclasses.replace(sharing, trust=False)
    config = dataclasses.replace(config, sharing=sharing)
    config, check = join(config, flags, exchange)
    with session(config, say, check, others.ranks) as opened:
        _introduce(opened, say)
        part = Participation(exchange, opened, config, say, accept, through.round_end)
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
    from comigs_mlx.training.records import Exchanged, Pause, Report, Step

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
            elif isinstance(event, Pause):
                _show_pause(event, file)
            elif isinstance(event, Exchanged):
                command.say(news(event))
                if event.event == "pulled" and event.step:
                    _notify(config, f"round {event.round} is closed")
    if trainer.stopped_early:
        command.say(_early(opened))
    if trainer.ended:
        command.say("measuring what it has gained on text that nothing learnt from")
        if (gained := opened.measure()) is not None:
            command.say(f"perplexity of held-out text: {gained}")
    if asked and trainer.steps_left:
        command.say(
            f"stopped and saved at step {trainer.position.step}: "
            f"--run {opened.folder.path} --resume goes on from here"
        )
        raise KeyboardInterrupt


def _early(opened: Session) -> str:
    """Say that training has stopped early, and where the best save is."""
    position, folder = opened.trainer.position, opened.folder
    step, loss = folder.best() or (position.step, position.best or 0.0)
    return (
        f"stopped early at step {position.step}: the validation loss has not got "
        f"better in {position.stale} measurements; the best save, of step {step} "
        f"(valid {loss:.3f}), is used with --best; --resume with a larger --patience "
        "goes on"
    )


def _show_pause(event: Pause, file: ProgressFile) -> None:
    """Tell of a pause and of its end, here and in progress.json."""
    if event.reason is None:
        file.go_on(event.step)
        command.say(f"going on after a pause of {command.clock(event.seconds)}")
    else:
        file.pause(event.step, event.reason)
        command.say(
            f"paused and saved at step {event.step}: {event.reason}; training goes on "
            "by itself (off with --pause-on-battery 0, --no-pause-on-heat, "
            "--no-pause-in-low-power-mode)"
        )


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
