"""Somebody to talk to: a base model and a run's experts, for a user interface.

    engine = ChatEngine(say=print)
    info = engine.choose(Path("runs/notes"))
    for token in engine.reply([{"role": "user", "content": "Hi"}], Settings()):
        print(token.text, end="")

May be used from any thread: everything is done on one thread of its own, in the order
asked for. What belongs together, such as a choice and an answer, is submitted as one
job. Importing this module loads no MLX.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from comigs_mlx.inference.replies import Alternative as Alternative
from comigs_mlx.inference.replies import Message as Message
from comigs_mlx.inference.replies import ModelInfo as ModelInfo
from comigs_mlx.inference.replies import Progress as Progress
from comigs_mlx.inference.replies import Scored as Scored
from comigs_mlx.inference.replies import ScoredToken as ScoredToken
from comigs_mlx.inference.replies import SpokenToken as SpokenToken
from comigs_mlx.inference.replies import Stopped as Stopped
from comigs_mlx.inference.replies import Watch, ignore, never
from comigs_mlx.inference.settings import Settings as Settings
from comigs_mlx.inference.worker import Worker
from comigs_mlx.messages import Say

if TYPE_CHECKING:
    from comigs_mlx.inference.lean import Kept
    from comigs_mlx.inference.loaded_run import LoadedRun

Listen = Callable[[Progress], None]
T = TypeVar("T")


class ChatEngine:
    """One base model in memory that speaks with any run's experts, one at a time."""

    def __init__(self, say: Say = lambda sentence: None):
        """Load nothing yet.

        Args:
            say: Told in plain sentences what takes time, on the engine's thread.
        """
        self._say = say
        self._loaded: LoadedRun | None = None
        self._worker = Worker()
        self._finalizer = weakref.finalize(self, self._worker.close)

    @property
    def info(self) -> ModelInfo | None:
        """What was chosen last; None before, and after a choice that failed."""
        return None if self._loaded is None else self._loaded.info

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the base in memory; None before the first choice."""
        base = None if self._loaded is None else self._loaded.base
        return None if base is None else base.tokenizer

    @property
    def unfinished(self) -> int:
        """How many calls, answers and jobs are under way or wait."""
        return self._worker.unfinished

    def submit(self, job: Callable[[ChatEngine], T]) -> Future[T]:
        """Have several things done in one go, with nobody else's in between.

        Args:
            job: Called with the engine, on the engine's thread.

        Returns:
            What the job returns or raises. It is cancelled if it still waits when the
            engine is closed.

        Raises:
            ComigsError: If the engine is closed.
        """
        return self._worker.submit(lambda: job(self))

    def choose(
        self,
        run: Path | str | None,
        model: str = "demo",
        best: bool = False,
        stop: Callable[[], bool] = never,
        listen: Listen = ignore,
    ) -> ModelInfo:
        """Speak with this run from now on, as its files are now.

        Free where nothing has changed; the base is loaded again only where another
        one is asked for.

        Args:
            run: The run's folder; None: the base model alone.
            model: The base model, where there is no run.
            best: The run's save with the lowest validation loss.
            stop: Asked between the steps of loading, on the engine's thread.
            listen: Told the progress of loading, on the engine's thread.

        Raises:
            ComigsError: If there is no such run or it is broken, the base cannot be
                loaded, or there is not enough memory.
            Stopped: If it was stopped; nothing is chosen then.
        """
        path = None if run is None else Path(run).expanduser()
        asked = (path, model, best)
        return self._call(lambda w: self._open().choose(*asked, w), stop, listen)

    def reply(
        self,
        messages: Sequence[Message],
        settings: Settings,
        stop: Callable[[], bool] = never,
        info: ModelInfo | None = None,
        listen: Listen = ignore,
    ) -> Iterator[SpokenToken]:
        """Speak the next turn of a conversation, token by token.

        What was read for an earlier turn is not read again, as far as base, experts'
        values, selection and tokens are the same. The oldest messages are left out of a
        conversation that is longer than the model's context: `listen` is told how many.

        Args:
            messages: The turns so far, without the system prompt.
            settings: Who speaks, and how.
            stop: Asked before each token, and between chunks of what is read, on the
                engine's thread.
            info: Choose this first, as its files are now, in one go: so that
                conversations with several runs do not mix. None: the last choice.
            listen: Told the progress of reading, on the engine's thread.

        Raises:
            ComigsError: If nothing was chosen, a setting cannot work, or the last
                message is too long for the model or its memory.
        """
        heard = [dict(message) for message in messages]

        def speak(left: Callable[[], bool]) -> Iterator[SpokenToken]:
            watch = Watch(lambda: left() or stop(), listen)
            with contextlib.suppress(Stopped):
                yield from self._as(info, watch).reply(heard, settings, watch)

        return self._worker.stream(speak)

    def left_out(
        self,
        messages: Sequence[Message],
        settings: Settings,
        info: ModelInfo | None = None,
    ) -> int:
        """How many of the oldest messages `reply` would leave out; its arguments.

        Nothing is read: the tokens are counted.

        Raises:
            ComigsError: As for `reply`.
        """
        heard = [dict(message) for message in messages]
        return self._call(
            lambda w: self._as(info, w).left_out(heard, settings), never, ignore
        )

    def steer(
        self,
        settings: Settings,
        text: str,
        strength: float = 1.0,
        stop: Callable[[], bool] = never,
        listen: Listen = ignore,
    ) -> Settings:
        """Settings that steer by a text, to be used with what is chosen now.

        Args:
            settings: What is asked for besides; what it tilts already is kept.
            text: More of the experts that are busier on it than on other text.
            strength: What is added to their logits; below 0 it steers away.
            stop: Asked between parts of the text, on the engine's thread.
            listen: Told the progress, on the engine's thread.

        Raises:
            ComigsError: As for `reply`, or the text is too short.
            Stopped: If it was stopped.
        """

        def steer(watch: Watch) -> Settings:
            return self._open().steer(settings, text, strength, watch)

        return self._call(steer, stop, listen)

    def score(
        self,
        text: str,
        selections: Sequence[str],
        stop: Callable[[], bool] = never,
        listen: Listen = ignore,
    ) -> Scored:
        """Read a text: each token's loss under some selections, and its routing.

        Args:
            text: Not longer than the model can read at once.
            selections: Of what is chosen; see `ModelInfo.selections`.
            stop: Asked between chunks of the text, on the engine's thread.
            listen: Told the progress, on the engine's thread.

        Raises:
            ComigsError: As for `reply`.
            Stopped: If it was stopped.
        """

        def score(watch: Watch) -> Scored:
            return self._open().score(text, selections, watch)

        return self._call(score, stop, listen)

    def calibrate_lean(
        self,
        info: ModelInfo,
        stop: Callable[[], bool] = never,
        listen: Listen = ignore,
    ) -> Kept:
        """Find the lean that serves a run best on its validation text, and keep it.

        Args:
            info: The run, which is chosen first, as its files are now.
            stop: Asked after each part of the text, on the engine's thread.
            listen: Told the progress, on the engine's thread.

        Raises:
            ComigsError: If there is no run, it has nothing to lean to, its text is not
                there any more, or there is not enough memory.
            Stopped: If it was stopped; what was kept before stays.
        """
        return self._call(lambda w: self._as(info, w).calibrate_lean(w), stop, listen)

    def close(self) -> None:
        """End what is being said, and give back the memory."""
        self._finalizer()
        self._loaded = None

    def _call(
        self, do: Callable[[Watch], T], stop: Callable[[], bool], listen: Listen
    ) -> T:
        """Have it done; who gives up waiting (Ctrl-C) or closes the engine ends it."""
        gone = threading.Event()

        def stopped() -> bool:
            return gone.is_set() or self._worker.closed or stop()

        try:
            return self._worker.call(lambda: do(Watch(stopped, listen)))
        finally:
            gone.set()

    def _as(self, info: ModelInfo | None, watch: Watch) -> LoadedRun:
        speech = self._open()
        if info is not None:
            run = None if info.run is None else Path(info.run)
            speech.choose(run, info.base_id, info.best, watch)
        return speech

    def _open(self) -> LoadedRun:
        """On the worker's thread only: MLX is imported there."""
        if self._loaded is None:
            from comigs_mlx.inference.loaded_run import LoadedRun

            self._loaded = LoadedRun(self._say)
        return self._loaded
