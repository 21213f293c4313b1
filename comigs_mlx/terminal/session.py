"""A conversation with a run: what is typed goes to the model, or is a command.

    Chat(engine, info, settings, conversation, screen, ask).run()

The model speaks through the same `ChatEngine` as in the app. Ctrl-C ends the answer
that is being made, or the line that is being typed, and never the conversation.
"""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from comigs_mlx.errors import ComigsError, ConfigError, line, raise_all
from comigs_mlx.files import write_text
from comigs_mlx.inference.chat_engine import ChatEngine
from comigs_mlx.inference.replies import ModelInfo, Progress, SpokenToken
from comigs_mlx.inference.settings import SEEDS, Settings
from comigs_mlx.inference.trace import (
    SPECIALIST,
    Trace,
    TraceToken,
    summary,
    to_html,
    to_json,
    unwritable,
)
from comigs_mlx.model import selection
from comigs_mlx.options import ExpertOptions, parse_experts
from comigs_mlx.terminal.conversation import Conversation, save
from comigs_mlx.terminal.entries import Ask, Entry, read_entry
from comigs_mlx.terminal.screen import Colour, Screen, Tint, hues, means

BAR = 20
"""Characters of the bar of shares under an answer."""

HELP = """\
/experts WHO   who speaks: auto (the router), base, generalist, specialist, or one
               weight an expert, such as 0.3,0.7
/lean X        more me (above 0), more everyone (below 0); "/lean default" takes what
               the run keeps
/system TEXT   the system prompt; "/system none" removes it
/retry         answer the last message again
/undo          take back the last message and its answer
/reset         begin a new conversation; the system prompt stays
/save FILE     write the conversation as JSON, for --load FILE
/trace FILE    write who spoke the last answer, as .html or .json
/help          this list
/quit          end; so does Ctrl-D
A line that ends in \\ goes on in the next one; lines between two lines of \"\"\" are
one message; // begins a message with a /. Ctrl-C ends an answer and goes on."""


def shape(info: ModelInfo) -> ExpertOptions:
    """How many experts of each kind a run has."""
    own = sum(name.startswith(SPECIALIST) for name in info.experts)
    return ExpertOptions(generalists=len(info.experts) - own, specialists=own)


def written(chosen: selection.Selection) -> str:
    """A selection as it is typed: `auto`, `0.3,0.7`."""
    return chosen if isinstance(chosen, str) else ",".join(f"{w:g}" for w in chosen)


class Chat:
    """The conversation, who speaks, and what is done with a line.

    Attributes:
        conversation: The turns so far, which commands may change.
        settings: The choice of who speaks and how, which commands may change.
        tokens: The tokens of the last answer.
    """

    def __init__(
        self,
        engine: ChatEngine,
        info: ModelInfo,
        settings: Settings,
        conversation: Conversation,
        screen: Screen,
        ask: Ask,
        patient: bool = True,
        reading: Callable[[], Callable[[int, int], None]] = lambda: _silent,
    ):
        """Say nothing yet.

        Args:
            engine: The engine that has chosen the run.
            info: The description of that run.
            settings: The choice of who speaks at first and how; the system prompt is
                the conversation's.
            conversation: The turns that it begins with.
            screen: Shows answers and remarks.
            ask: Gives the lines that are typed.
            patient: Whether the conversation goes on after a mistake, which is told,
                and after Ctrl-C. Otherwise both end it, as a program may be at the
                other end.
            reading: Called for each answer, for what is told on the engine's thread
                how many tokens of the conversation have been read, and of how many.

        Raises:
            ConfigError: If the settings, or the experts they name, cannot work.
        """
        settings.check()
        selection.check(settings.selection, shape(info))
        self._engine, self._info, self._screen, self._ask = engine, info, screen, ask
        self._patient, self._reading = patient, reading
        self.settings, self.conversation = settings, conversation
        self.tokens: list[SpokenToken] = []
        self._tries, self._left_out, self._ended = 0, 0, False
        self._commands: dict[str, Callable[[str], None]] = {
            "experts": self._experts,
            "lean": self._lean,
            "system": self._system,
            "retry": self._retry,
            "undo": self._undo,
            "reset": self._reset,
            "save": self._save,
            "trace": self._trace,
            "help": lambda rest: self._screen.note(HELP),
            "quit": self._quit,
        }

    def run(self) -> None:
        """Read, answer and obey until the input or the user ends it.

        Raises:
            ComigsError: If something cannot be done and it is not patient; likewise
                KeyboardInterrupt after Ctrl-C.
        """
        self._screen.note(self._greeting())
        if not self._info.chat:
            self._screen.note(
                f"note: {self._info.base_id} has no chat template, so it is no chat "
                "model: it continues the conversation rather than answering"
            )
        self._legend()
        while not self._ended:
            try:
                entry = read_entry(self._ask)
            except KeyboardInterrupt:
                self._screen.note("\n/quit or Ctrl-D ends the conversation")
                continue
            if entry is None:
                if self._patient:
                    self._screen.note("")
                return
            try:
                self.take(entry)
            except (ComigsError, KeyboardInterrupt) as error:
                if not self._patient:
                    raise
                stopped = isinstance(error, KeyboardInterrupt)
                self._screen.note("stopped" if stopped else f"error: {error}")

    def take(self, entry: Entry) -> None:
        """Obey a command, or have a message answered.

        Args:
            entry: The text that was typed; nothing is done with a blank one.

        Raises:
            ComigsError: If it cannot be done. What was said before stays as it was.
        """
        text = entry.text
        if not text.strip():
            return
        if entry.block or not text.startswith("/"):
            self._say(text)
        elif text.startswith("//"):
            self._say(text[1:])
        else:
            name, _, rest = text[1:].partition(" ")
            if (command := self._commands.get(name)) is None:
                raise ConfigError(
                    f"there is no command /{name}: /help lists them, and //{name} "
                    "begins a message with a /"
                )
            command(rest.strip())

    def _say(self, text: str) -> None:
        """Send a message; one that cannot be answered is taken back."""
        self.conversation.ask(text)
        self._tries = 0
        try:
            self._answer()
        except BaseException:
            self.conversation.undo()
            raise

    def _answer(self) -> None:
        """Have the user's last message answered, and show it."""
        screen, tint = self._screen, Tint(self._info.experts, self._screen.system)
        tokens: list[SpokenToken] = []
        messages = list(self.conversation.messages)
        try:
            with stoppable(self._patient) as stop:
                asked = (messages, self._seeded(), stop.is_set)
                listen = partial(self._listen, self._reading())
                reply: Any = self._engine.reply(*asked, listen=listen)
                with contextlib.closing(reply):
                    for token in reply:
                        tokens.append(token)
                        screen.piece(token.text, tint(token.weights))
                        if stop.is_set():  # the engine may be many tokens ahead
                            break
        finally:
            screen.end()
        self.tokens = tokens
        if text := "".join(token.text for token in tokens):
            self.conversation.answer(text)
        self._remark(stop.is_set())

    def _seeded(self) -> Settings:
        """The settings of the next answer; a seed gives each try draws of its own."""
        settings = replace(self.settings, system=self.conversation.system)
        if settings.seed is None:
            return settings
        return replace(settings, seed=(settings.seed + self._tries) % SEEDS)

    def _listen(self, tell: Callable[[int, int], None], progress: Progress) -> None:
        self._left_out = progress.left_out
        tell(progress.done, progress.total)

    def _remark(self, stopped: bool) -> None:
        """Under an answer: who spoke it, and whether it is whole."""
        said = [summary(self._traced())]
        if self.tokens:
            said.append(f"{len(self.tokens)} tokens")
        if stopped:
            said.append("stopped")
        elif self.tokens and self.tokens[-1].finish_reason == "length":
            said.append("ended for its length (--max-tokens)")
        if self._left_out:
            said.append(f"without the {self._left_out} oldest messages, for length")
        self._screen.painted(self._bar(), "; ".join(said))

    def _bar(self) -> list[tuple[str, Colour | None]]:
        """The experts' shares of the last answer as letters, and their colours."""
        experts = self._info.experts
        each = [means(token.weights, len(experts)) for token in self.tokens]
        routed = [shares for shares in each if any(shares)]
        if not routed:
            return []
        total = [sum(column) for column in zip(*routed, strict=True)]
        cells = _cells(total)
        parts: list[tuple[str, Colour | None]] = [("[", None)]
        for name, count, hue in zip(experts, cells, hues(experts), strict=True):
            parts.append((name[0] * count, hue))
        return [*parts, ("] ", None)]

    def _greeting(self) -> str:
        info, lean = self._info, self.settings.lean
        run = "" if info.run is None else f", run {info.run} at step {info.step}"
        leaning = "" if lean is None else f", lean {lean:g}"
        who = f", experts {written(self.settings.selection)}{leaning}"
        return f"{info.base_id}{run}{who}; /help lists the commands"

    def _legend(self) -> None:
        """Which colour is whose; nothing where there are no colours."""
        if self._screen.system is None:
            return
        parts: list[tuple[str, Colour | None]] = []
        for name, hue in zip(self._info.experts, hues(self._info.experts), strict=True):
            whose = "me" if name.startswith(SPECIALIST) else "everyone"
            parts += [(f"{name} ({whose})", hue), (", ", None)]
        self._screen.painted(parts, "or neither")

    def _experts(self, rest: str) -> None:
        if not rest:
            now = written(self.settings.selection)
            names = ", ".join(self._info.selections)
            count = len(self._info.experts)
            return self._screen.note(f"experts {now}; or {names}, or {count} weights")
        chosen = parse_experts(rest)
        selection.check(chosen, shape(self._info))
        changed = replace(self.settings, selection=chosen)
        if chosen != "auto" and (changed.lean or changed.prior):
            changed = replace(changed, lean=None, prior=None)
            self._screen.note("lean and prior are off: they move the router's choice")
        self._change(changed)
        self._screen.note(f"experts {written(chosen)}")

    def _lean(self, rest: str) -> None:
        if rest in ("", "default"):
            if rest:
                self._change(replace(self.settings, lean=None))
            lean = self.settings.lean
            kept = "what the run keeps, else 0"
            return self._screen.note(f"lean {kept if lean is None else f'{lean:g}'}")
        try:
            lean = float(rest)
        except ValueError as error:
            raise ConfigError(f"/lean {rest}: expected a number, or default") from error
        self._change(replace(self.settings, lean=lean))
        self._screen.note(f"lean {lean:g}")

    def _change(self, changed: Settings) -> None:
        """Take other settings, where they can work."""
        raise_all(ConfigError, list(changed.problems(lambda field: f"/{field}")))
        self.settings = changed

    def _system(self, rest: str) -> None:
        if rest:
            self.conversation.system = None if rest == "none" else rest
        self._screen.note(f"system prompt: {self.conversation.system or 'none'}")

    def _retry(self, rest: str) -> None:
        before = list(self.conversation.messages)
        if not self.conversation.unanswer():
            raise ConfigError("there is nothing to answer yet: say something first")
        self._tries += 1
        try:
            self._answer()
        except BaseException:
            self.conversation.messages = before
            raise

    def _undo(self, rest: str) -> None:
        if not self.conversation.undo():
            raise ConfigError("there is nothing to take back")
        self.tokens = []
        left = len(self.conversation.messages)
        self._screen.note(f"taken back; {left} messages are left")

    def _reset(self, rest: str) -> None:
        self.conversation.messages, self.tokens = [], []
        self._screen.note("a new conversation")

    def _save(self, rest: str) -> None:
        file = _file(rest, "/save", "talk.json")
        info, settings = self._info, self.settings
        facts = {"run": info.run, "model": info.base_id}
        who = {"experts": written(settings.selection), "lean": settings.lean}
        with _told(file):
            save(self.conversation, file, facts | who)
        self._screen.note(f"saved {file}: go on with --load {file}")

    def _trace(self, rest: str) -> None:
        file = _file(rest, "/trace", "who.html")
        if not self.tokens:
            raise ConfigError("there is no answer to trace: say something first")
        if (kind := file.suffix.lower()) not in (".html", ".json"):
            raise ConfigError(f"/trace {file}: give a file that ends in .html or .json")
        trace = self._traced()
        text = to_html(trace) if kind == ".html" else json.dumps(to_json(trace)) + "\n"
        with _told(file):
            if (problem := unwritable(file)) is not None:
                raise ConfigError(f"/trace {file}: {problem}")
            write_text(file, text)
        self._screen.note(f"wrote {file}")

    def _traced(self) -> Trace:
        """The last answer; the prompt is no part of it."""
        info = self._info
        zeros = [[0.0] * len(info.experts)] * len(info.layers)
        told = [
            TraceToken(token.id, token.text, False, token.weights or zeros)
            for token in self.tokens
        ]
        return Trace(info.base_id, info.experts, info.layers, told)

    def _quit(self, rest: str) -> None:
        self._ended = True


def _silent(done: int, total: int) -> None:
    del done, total


def _cells(shares: Sequence[float]) -> list[int]:
    """Shares as whole numbers of characters, `BAR` in all."""
    total, done, cells = sum(shares), 0, []
    for i in range(len(shares)):
        end = round(BAR * sum(shares[: i + 1]) / total)
        cells.append(end - done)
        done = end
    return cells


def _file(rest: str, command: str, example: str) -> Path:
    if not rest:
        raise ConfigError(f"{command} needs a file, such as {command} {example}")
    try:
        return Path(rest).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"{rest}: no home folder is known, write it in full"
        ) from error


@contextlib.contextmanager
def _told(file: Path) -> Iterator[None]:
    """Around writing a file: what the system says of it becomes a sentence."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ConfigError(f"cannot write {file}: {line(error)}") from error


@contextlib.contextmanager
def stoppable(wanted: bool = True) -> Iterator[threading.Event]:
    """While an answer is made, the first Ctrl-C asks it to end.

    A second one raises KeyboardInterrupt, should the first take too long.

    Args:
        wanted: False leaves Ctrl-C as it is.

    Yields:
        Set once Ctrl-C was pressed.
    """
    stop, before = threading.Event(), signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not (wanted and main) or before in (signal.SIG_IGN, None):
        yield stop
        return

    def heard(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    signal.signal(signal.SIGINT, heard)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
