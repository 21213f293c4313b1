"""`python -m comigs_mlx.chat`: a conversation with a run, in the terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from comigs_mlx import command
from comigs_mlx.config import group, like, option, parse
from comigs_mlx.errors import ConfigError
from comigs_mlx.inference import options
from comigs_mlx.inference.options import SamplingOptions, SpeakerOptions

if TYPE_CHECKING:
    from comigs_mlx.terminal.conversation import Conversation

HISTORY = "chat_history"


@dataclass(frozen=True)
class ChatSampling(SamplingOptions):
    """How tokens are drawn, and what the model is told first."""

    max_tokens: int = like(SamplingOptions, "max_tokens", 512)
    temp: float = like(SamplingOptions, "temp", 0.7)
    top_p: float = like(SamplingOptions, "top_p", 0.95)
    seed: int | None = option(
        None, "of the draws (default: another one each time)", "N"
    )


@dataclass(frozen=True)
class ChatConfig:
    """Talk with a run in the terminal; every token is coloured by who spoke it.

    Under each answer stands how much of it each expert spoke. /help lists the commands:
    other experts, a lean, the last answer again, a trace of it, the conversation as a
    file. Where the input is a pipe, its lines are messages; answers alone go to stdout.

      python -m comigs_mlx.chat --run runs/notes
      python -m comigs_mlx.chat --run runs/notes --experts specialist --temp 0
      python -m comigs_mlx.chat --run runs/notes --system "Answer in German." --lean 1
      python -m comigs_mlx.chat --run runs/notes --load talk.json --no-color
      echo "What did I plan for May?" | python -m comigs_mlx.chat --run runs/notes
    """

    run: str = option("", "folder of the run", "DIR")
    load: str | None = option(None, "go on with what /save has written", "FILE")
    color: bool = option(
        True,
        "colour tokens by who spoke them, where the terminal can and NO_COLOR is not "
        "set",
    )
    history: bool = option(
        True,
        "keep the lines that are typed, for the arrow keys the next time: in "
        "~/.local/state/comigs_mlx/chat_history (or under $XDG_STATE_HOME), readable "
        "by you alone",
    )
    speaker: SpeakerOptions = group(SpeakerOptions)
    sampling: ChatSampling = group(ChatSampling)

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        if not self.run:
            yield "--run DIR is missing: the folder of a run"
        yield from options.problems(self.speaker, self.sampling)


def main(argv: Sequence[str] | None = None) -> None:
    """Load the run, then talk until the input ends."""
    config = parse(ChatConfig, "comigs_mlx.chat", argv)
    from comigs_mlx.inference.chat_engine import ChatEngine
    from comigs_mlx.terminal.entries import asking
    from comigs_mlx.terminal.screen import Screen, colour_system
    from comigs_mlx.terminal.session import Chat

    settings = options.settings(config.speaker, config.sampling)
    conversation = _begun(config)
    if sys.stdin is None:  # closed, as by `<&-`
        raise ConfigError("there is no input: type, or give lines through a pipe")
    typed = sys.stdin.isatty()
    prompts = sys.stdout if sys.stdout.isatty() else sys.stderr
    _lenient(sys.stdout)
    show = partial(command.show, end="")
    colours = [colour_system(file, config.color) for file in (sys.stdout, sys.stderr)]
    screen = Screen(show, command.say, *colours)
    ask = asking(sys.stdin, prompts if typed else None)
    reading = partial(command.Steps, "reading the conversation", "tokens")
    with contextlib.closing(ChatEngine(command.say)) as engine:
        info = engine.choose(config.run, best=config.speaker.best)
        said = (engine, info, replace(settings, system=None), conversation)
        chat = Chat(*said, screen, ask, typed, reading)
        with _history(config.history and typed):
            chat.run()


def _begun(config: ChatConfig) -> Conversation:
    """The conversation to go on with; the flag's system prompt wins over its own."""
    from comigs_mlx.terminal.conversation import Conversation, load

    system = config.sampling.system_prompt
    if config.load is None:
        return Conversation(system)
    found = load(Path(config.load).expanduser())
    return found if system is None else replace(found, system=system)


def _lenient(stream: IO[str]) -> None:
    """Let a letter that a stream's encoding lacks be shown as `?`."""
    changed: Any = stream
    with contextlib.suppress(AttributeError):
        changed.reconfigure(errors="replace")


@contextlib.contextmanager
def _history(wanted: bool) -> Iterator[None]:
    """With the lines that were typed before; those typed now are kept at the end."""
    from comigs_mlx.files import state_dir
    from comigs_mlx.terminal.entries import History

    history = History(state_dir() / HISTORY if wanted else None)
    try:
        yield
    finally:
        try:
            history.keep()
        except OSError as error:
            command.say(f"the lines that you typed are not kept: {error.strerror}")


if __name__ == "__main__":
    command.run(main)
