"""The one thread that loads, reads and draws, and who is served when.

Requests wait in one line. A batch holds answers of one run, one selection and one tilt,
and mlx-lm draws a token of each at a time. Who comes later joins a batch of the same
experts at once, as far as there is room and nobody waits longer. Runs take turns: the
values of another run are put into the experts (the base stays) when the present one has
nothing left to do or its turn is over; within a turn all its batches go on, a token
each. So neither a long answer nor a busy run keeps others from being served.

Nothing is kept between two requests but what was read (`PromptCache`, bounded in
bytes), which is used again for the same tokens and the same experts only.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comigs_mlx.errors import ComigsError, ConfigError, is_out_of_memory
from comigs_mlx.inference.replies import Message, ModelInfo, SpokenToken
from comigs_mlx.inference.worker import Worker
from comigs_mlx.messages import Say
from comigs_mlx.serving.catalogue import Model
from comigs_mlx.serving.refusals import Refusal, stopping, where
from comigs_mlx.serving.replies import Plain, Splitter
from comigs_mlx.serving.requests import Request

if TYPE_CHECKING:
    from comigs_mlx.inference.batch import Answer, Batch
    from comigs_mlx.inference.loaded_run import LoadedRun

TURN_SECONDS = 1.0
"""The least turn of a run, where another one waits."""

TURN_SHARE = 4
"""A turn is so many times longer than what it took to change to its run."""


@dataclass(frozen=True)
class Begun:
    """What a client is told of first: its prompt has been taken.

    Attributes:
        read: The tokens of the prompt.
        cached: Those of them that were read for an earlier request.
        splitter: The divider of the answer's text.
    """

    read: int
    cached: int
    splitter: Splitter | Plain


Event = Begun | SpokenToken | Refusal


class Ticket:
    """A request that waits or is being answered.

    Attributes:
        request: The request that waits.
        model: The model that is to answer.
        events: The events so far, for the thread that asked.
    """

    def __init__(self, request: Request, model: Model):
        self.request, self.model = request, model
        self.events: queue.Queue[Event] = queue.Queue()
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Tell that nobody waits for the answer any more."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self._cancelled.is_set()


@dataclass
class Working:
    """A batch that is under way.

    Attributes:
        run: The run that speaks; None for the base alone.
        values: The digest of the experts' values that it began with.
        batch: The batch of answers.
        tickets: Answer -> who waits for it.
    """

    run: str | None
    values: str
    batch: Batch
    tickets: dict[Answer, Ticket]


class Scheduler:
    """Takes requests from any thread and answers them on its own."""

    def __init__(
        self,
        runs: Mapping[str, Path],
        parallel: int = 8,
        waiting: int = 32,
        cache_bytes: int | None = None,
        best: bool = False,
        say: Say = lambda sentence: None,
    ):
        """Load nothing yet.

        Args:
            runs: The folder of each run, by name.
            parallel: The answers that are drawn at the same time, at most.
            waiting: The requests that may wait, at most.
            cache_bytes: The memory of what is kept for later requests, where it is
                more than one conversation; None takes the usual one.
            best: Whether each run's save with the lowest validation loss speaks.
            say: Receives a sentence on what takes time, and on errors of this program.
        """
        self._runs, self._parallel, self._most = dict(runs), parallel, waiting
        self._cache_bytes, self._best, self._say = cache_bytes, best, say
        self._line: deque[Ticket] = deque()
        self._changed = threading.Condition()
        self._stopping, self._ended = False, False
        self._work: dict[Hashable, Working] = {}
        self._served: dict[str | None, float] = {}
        self._worker = Worker()
        self._loaded: LoadedRun

    def start(self) -> dict[str, ModelInfo]:
        """Load the base and every run once, then begin to answer.

        Returns:
            What can speak in each run.

        Raises:
            ComigsError: If a run cannot be used, or is of another base.
        """
        infos = self._worker.call(self._load)
        self._worker.submit(self._serve)
        return infos

    def submit(self, request: Request, model: Model) -> Ticket:
        """Put a request into the line.

        Raises:
            Refusal: If too many wait already, or the server is being stopped.
        """
        ticket = Ticket(request, model)
        with self._changed:
            if not self.answering:
                raise stopping()
            self._line = deque(each for each in self._line if not each.cancelled)
            if len(self._line) >= self._most:
                raise Refusal(
                    429,
                    f"{self._most} requests wait already: ask again later",
                    code="queue_full",
                )
            self._line.append(ticket)
            self._changed.notify()
        return ticket

    def stop(self, seconds: float) -> None:
        """Refuse those who wait, let the others end, then end them and the thread.

        Args:
            seconds: The time that answers have to end by themselves.
        """
        self._send_away()
        deadline = time.monotonic() + seconds
        while self._work and not self._ended and time.monotonic() < deadline:
            time.sleep(0.02)
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._worker.close()

    @property
    def answering(self) -> bool:
        """Whether requests are taken."""
        return not (self._stopping or self._ended)

    def _send_away(self) -> None:
        """Refuse those who wait, and everybody from now on."""
        with self._changed:
            self._stopping = True
            for ticket in self._line:
                ticket.events.put(stopping())
            self._line.clear()
            self._changed.notify()

    # All that follows is done on the worker's thread.

    def _load(self) -> dict[str, ModelInfo]:
        from comigs_mlx.inference.batch import check_batchable
        from comigs_mlx.inference.loaded_run import LoadedRun
        from comigs_mlx.inference.prompt_cache import PromptCache

        self._check_one_base()
        self._loaded = LoadedRun(self._say)
        if self._cache_bytes is not None:
            self._loaded.prompts = PromptCache(self._cache_bytes)
        infos = {name: self._choose(name) for name in self._runs}
        check_batchable(self._loaded.ready()[0])
        return infos

    def _check_one_base(self) -> None:
        """Refuse runs of several bases: each would have to be loaded for its turn."""
        from comigs_mlx.runs.description import base_model
        from comigs_mlx.runs.folder import RunFolder

        bases = {
            name: base_model(RunFolder(path).read_info())[0]
            for name, path in self._runs.items()
        }
        if len(set(bases.values())) > 1:
            listed = ", ".join(f"{name}: {base}" for name, base in bases.items())
            raise ConfigError(
                f"all runs of one server must be of one base model ({listed}): start a "
                "server for each, on a --port of its own"
            )

    def _choose(self, run: str) -> ModelInfo:
        """Have the values of a run in the experts, as its files are now."""
        before = self._loaded.values
        info = self._loaded.choose(self._runs[run], "", self._best)
        if self._loaded.values != before:
            for working in self._work.values():
                if working.run == run and working.values != self._loaded.values:
                    working.batch.forget()
        return info

    def _serve(self) -> None:
        try:
            while not self._ended:
                if not self._turn():
                    with self._changed:
                        if not (self._ended or self._line):
                            self._changed.wait()
        finally:
            self._ended = True
            self._send_away()
            for key in list(self._work):
                self._fail(key, stopping())
            del self._loaded

    def _turn(self) -> bool:
        """Serve one run for a turn; False if nothing is to be done."""
        waits = self._runs_with_work()
        if not waits:
            return False
        run = min(waits, key=lambda each: self._served.get(each, 0.0))
        start = time.monotonic()
        if run is None or self._chosen(run):
            now = time.monotonic()
            end = now + max(TURN_SECONDS, TURN_SHARE * (now - start))
            while not self._ended:
                self._admit(run)
                for key in [k for k, w in self._work.items() if w.run == run]:
                    self._step(key)
                waits = self._runs_with_work()
                if run not in waits or (len(waits) > 1 and time.monotonic() > end):
                    break
        self._served[run] = time.monotonic()
        return True

    def _runs_with_work(self) -> set[str | None]:
        """The runs that have answers under way, or the first one in the line."""
        busy = {working.run for working in self._work.values()}
        with self._changed:
            self._drop_cancelled()
            if self._line and self._free():
                busy.add(self._line[0].model.run)
        return busy

    def _drop_cancelled(self) -> None:
        while self._line and self._line[0].cancelled:
            self._line.popleft()

    def _free(self) -> bool:
        return sum(len(w.tickets) for w in self._work.values()) < self._parallel

    def _chosen(self, run: str) -> bool:
        """Choose a run for its turn; whoever waits for it hears if that fails."""
        try:
            self._choose(run)
        except BaseException as error:
            refusal = self._refusal(error)
            for key in [k for k, w in self._work.items() if w.run == run]:
                self._fail(key, refusal)
            with self._changed:
                mine = [ticket for ticket in self._line if ticket.model.run == run]
                for ticket in mine:
                    self._line.remove(ticket)
                    ticket.events.put(refusal)
            return False
        return True

    def _admit(self, run: str | None) -> None:
        """Begin what stands first in the line, as long as it is for this run."""
        while self._free():
            with self._changed:
                self._drop_cancelled()
                if not self._line or self._line[0].model.run != run:
                    return
                ticket = self._line.popleft()
            try:
                if run is not None:
                    self._choose(run)
                ticket.events.put(self._begin(ticket))
            except BaseException as error:
                ticket.events.put(self._refusal(error))

    def _begin(self, ticket: Ticket) -> Begun:
        """Put a request into the batch of its experts."""
        from comigs_mlx.inference import tilts
        from comigs_mlx.inference.batch import Answer, Batch
        from comigs_mlx.model.tables import GIVEN

        request, run = ticket.request, ticket.model.run
        settings = replace(request.settings, selection=ticket.model.selection)
        settings.check()
        base, mixture = self._loaded.ready()
        prompt = _tokens(base.tokenizer, request)
        if isinstance(request.prompt, list):
            base.check_tokens(prompt, "the prompt", GIVEN)
        if run is not None:
            settings = self._loaded.tilted(settings, _first(request))
        answer = Answer(base, prompt, settings, request.likeliest)
        tilt = tilts.of_settings(mixture, settings)
        speaker = self._loaded.speaker(settings.selection)
        key = (run, speaker, tilts.digest(tilt))
        if key not in self._work:
            given = (base, settings.selection, tilt, self._loaded.prompts, speaker)
            values = self._loaded.values
            self._work[key] = Working(run, values, Batch(*given), {})
        working = self._work[key]
        working.batch.add(answer, mixture)
        working.tickets[answer] = ticket
        splitter: Splitter | Plain = Plain()
        if request.chat:
            splitter = Splitter(base.tokenizer, prompt, request.tools)
        return Begun(len(prompt), answer.cached, splitter)

    def _step(self, key: Hashable) -> None:
        """Draw one token of each answer of a batch; who has gone leaves it."""
        working = self._work[key]
        try:
            for answer, ticket in list(working.tickets.items()):
                if ticket.cancelled:
                    del working.tickets[answer]
                    working.batch.remove(answer)
            _, mixture = self._loaded.ready()
            for answer, token in working.batch.step(mixture):
                working.tickets[answer].events.put(token)
                if token.finish_reason is not None:
                    del working.tickets[answer]
        except BaseException as error:
            self._fail(key, self._refusal(error))
            return
        if not len(working.batch):
            self._close(key)

    def _fail(self, key: Hashable, refusal: Refusal) -> None:
        """End a batch, and tell everybody in it why."""
        for ticket in self._work[key].tickets.values():
            ticket.events.put(refusal)
        self._close(key)

    def _close(self, key: Hashable) -> None:
        with contextlib.suppress(Exception):
            self._work.pop(key).batch.close()

    def _refusal(self, error: BaseException) -> Refusal:
        """What a client is told of an error; one of this program is said here, too."""
        if isinstance(error, Refusal):
            return error
        if isinstance(error, ComigsError):
            return _of_user(error)
        if is_out_of_memory(error):
            self._loaded.prompts.clear()
            return Refusal(
                503,
                "out of memory: shorten the conversation, or start the server with a "
                "smaller --parallel or base model",
                code="out_of_memory",
            )
        self._say(where(error))
        return Refusal(500, "an error of this server, which its window tells of")


def _of_user(error: ComigsError) -> Refusal:
    text = str(error)
    if "reads at most" in text:  # `prompts.room`
        return Refusal(400, text, "messages", "context_length_exceeded")
    return Refusal(400, text)


def _tokens(tokenizer: Any, request: Request) -> list[int]:
    """The token ids of what was asked."""
    from comigs_mlx.inference.prompts import chat_tokens, prompt_tokens

    if isinstance(request.prompt, list):
        return request.prompt
    if not request.chat:
        return prompt_tokens(tokenizer, request.prompt, template=False)
    settings = request.settings
    if request.tools and not tokenizer.has_chat_template:
        raise ConfigError("this model has no chat template: it takes no tools")
    given = (request.messages, settings.system, settings.template_args)
    return chat_tokens(tokenizer, *given)


def _first(request: Request) -> list[Message]:
    """What a prior looks at: the conversation, or a prompt as if it were one."""
    if request.chat or not isinstance(request.prompt, str):
        return request.messages
    return [{"role": "user", "content": request.prompt}]
