"""Conversations: what was said, by whom, and what the page is shown of it."""

from __future__ import annotations

import dataclasses
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comigs_mlx.errors import ConfigError, line
from comigs_mlx.inference.prompts import alternating
from comigs_mlx.inference.replies import Progress, Stopped
from comigs_mlx.inference.trace import Trace, TraceToken

from . import render
from .chat_settings import ReplyOptions
from .feed import Feed
from .kept_replies import Reply, Said, reply_from_json
from .model_queue import ModelQueue, explain
from .store import Store, unreadable

MOST_CHARACTERS = 200_000
"""Longest message."""

MOST_TEXT = 4_000_000
MOST_TURNS = 1000
"""Characters and messages of a conversation, earlier versions included."""

MOST_DETAILED = 20_000
"""Tokens of a conversation whose weights are kept: about 10 MB."""

EARLIER = 8
"""Versions of before an edit, a retry or a clear that can be had back."""

SAVED_EACH = 3.0
"""Seconds between two saves of an answer under way."""

NO_TOKEN = -1
"""Id of a message in a trace: it is no token of the model."""

TITLE = 60
"""Characters of a conversation's title."""

DOING = {"loading": "Loading the experts", "reading": "Reading"}


@dataclass
class Turn:
    """A message and its answer."""

    text: str
    reply: Reply | None = None

    def events(self) -> list[Any]:
        """What a page is shown of it."""
        shown = [] if self.reply is None else self.reply.events()
        return [{"kind": "user", "text": self.text}, *shown]

    def as_json(self) -> dict[str, Any]:
        """JSON values, read by `turn_from_json`."""
        reply = None if self.reply is None else self.reply.as_json()
        return {"text": self.text, "reply": reply}


def speak(
    engine: Any,
    options: ReplyOptions,
    messages: list[dict[str, str]],
    feed: Feed,
    reply: Reply,
    stop: threading.Event,
    each: Callable[[], None] = lambda: None,
) -> None:
    """Have one answer said into a feed; errors are shown and end it.

    Args:
        engine: The engine that the model queue hands to its jobs.
        options: Whose answer, and how it is drawn.
        messages: `role` and `content` of each turn so far.
        feed: Gets `reply_begins`, `token`... and `reply_ends`.
        reply: Filled on the way.
        stop: Ends the answer early.
        each: Called after each token.
    """

    def listen(progress: Progress) -> None:
        reply.left_out = progress.left_out
        feed.tell(standing(progress), True)

    try:
        info = engine.choose(
            options.run, options.model, stop=stop.is_set, listen=listen
        )
        reply.title, reply.base, reply.chat = options.title, info.base_id, info.chat
        reply.experts, reply.layers = info.experts, info.layers
        begin(feed, reply)
        settings = options.settings(info.experts)
        for token in engine.reply(messages, settings, stop.is_set, info, listen):
            reply.tokens.append(Said.of(token))
            feed.append(reply.tokens[-1])
            if len(reply.tokens) == 1:
                feed.tell("Answering", True)
            each()
    except Stopped:
        pass
    except Exception as error:
        reply.problem = explain(error)
    if not reply.base:
        reply.title = options.title
        begin(feed, reply)
    reply.stopped = stop.is_set()
    reply.end()
    feed.append(reply.ending)


def standing(progress: Progress) -> str:
    """How far the model is, for people."""
    what = DOING.get(progress.what, progress.what.capitalize())
    if progress.what == "reading" and progress.total > 1:
        return f"{what}: {progress.done:,} of {progress.total:,} tokens"
    return what


def begin(feed: Feed, reply: Reply) -> None:
    """Open an answer in a feed."""
    feed.append(reply.events()[0])


class Chat:
    """One conversation.

    Args:
        model_queue: Has the engine.
        store: Keeps it; None: it ends with the app.
        name: Its name there.

    Raises:
        ConfigError: If it is kept but cannot be read.
    """

    def __init__(
        self, model_queue: ModelQueue, store: Store | None = None, name: str = ""
    ):
        self.feed = Feed.fresh()
        self.owner = ""
        self._model_queue, self._store, self._name = model_queue, store, name
        self._lock = threading.RLock()
        self._turns: list[Turn] = []
        self._earlier: list[list[Turn]] = []
        self._stop = threading.Event()
        self._next_save = 0.0
        found = store.read(name) if store is not None else None
        if store is not None and found is not None:
            self._restore(store, found)

    def send(self, text: str, options: ReplyOptions) -> None:
        """Say something and have it answered.

        Raises:
            ConfigError: If it is empty, too long, or an answer is under way.
        """
        options.check()
        text = check(text)
        with self._lock:
            self._check_idle()
            self._check_room(text)
            self._turns = [*self._turns, Turn(text)]
            self.feed.add("user", text=text)
            self._answer(options)

    def retry(self, options: ReplyOptions) -> None:
        """Answer the last message once more; the first answer can be had back."""
        options.check()
        with self._lock:
            self._check_idle()
            if not self._turns:
                raise ConfigError("There is nothing to answer yet.")
            self._change([*self._turns[:-1], Turn(self._turns[-1].text)])
            self._answer(options)

    def edit(self, index: int, text: Any, options: ReplyOptions) -> None:
        """Replace message `index`, leave out what came after it, and answer it."""
        options.check()
        text = check(text)
        with self._lock:
            self._check_idle()
            self._check_room(text)
            if not 0 <= index < len(self._turns):
                raise ConfigError("That message is no longer there.")
            self._change([*self._turns[:index], Turn(text)])
            self._answer(options)

    def stop(self) -> None:
        """End the answer under way after its current token."""
        self._stop.set()

    def clear(self) -> None:
        """Begin with nothing; what was said can be had back with `undo`."""
        self.stop()
        with self._lock:
            self.feed = self.feed.successor()
            self._change([])
            self._save()

    def undo(self) -> None:
        """Have the conversation of before the last edit, retry or clear again.

        The one that is left takes the oldest place, so that nothing is lost by this.
        """
        with self._lock:
            self._check_idle()
            if not self._earlier:
                raise ConfigError("There is nothing to undo.")
            now, self._turns = self._turns, self._earlier.pop()
            if now:
                self._earlier.insert(0, now)
            self._show()
            self._save()

    def close(self) -> None:
        """Keep what there is."""
        self.stop()
        with self._lock:
            self._save()

    @property
    def extras(self) -> dict[str, Any]:
        """What the page shows beside the conversation."""
        problem = "" if self._store is None else self._store.problem
        return {"undo": bool(self._earlier), "notice": problem}

    @property
    def messages(self) -> list[dict[str, str]]:
        """What was said so far, an answer under way left out."""
        return history(self._turns)

    def trace(self) -> Trace:
        """The conversation as one trace, by the experts of its last answer.

        Raises:
            ConfigError: If nothing has been answered.
        """
        with self._lock:
            turns = list(self._turns)
        answers = [t.reply for t in turns if t.reply is not None and t.reply.tokens]
        if not answers:
            raise ConfigError("There is nothing to save yet.")
        last = answers[-1]
        empty = [[0.0] * len(last.experts) for _ in last.layers]
        tokens: list[TraceToken] = []
        for turn in turns:
            tokens.append(TraceToken(NO_TOKEN, turn.text, True, empty))
            for one in turn.reply.trace().tokens if turn.reply is not None else []:
                known = turn.reply is not None and turn.reply.experts == last.experts
                fits = known and len(one.weights) == len(empty)
                weights = one.weights if fits else empty
                tokens.append(dataclasses.replace(one, weights=weights))
        return Trace(last.base, last.experts, last.layers, tokens)

    def _check_idle(self) -> None:
        if self.feed.active:
            raise ConfigError("An answer is under way: wait for it, or stop it.")

    def _check_room(self, text: str) -> None:
        turns = self._all()
        size = sum(len(t.text) + len(t.reply.text if t.reply else "") for t in turns)
        if len(turns) >= MOST_TURNS or size + len(text) > MOST_TEXT:
            raise ConfigError("This conversation is full: begin a new one.")

    def _all(self) -> list[Turn]:
        """Every turn of every version, once, the oldest first."""
        every = [t for version in (*self._earlier, self._turns) for t in version]
        return list({id(turn): turn for turn in every}.values())

    def _change(self, turns: list[Turn]) -> None:
        """Go on with other turns; the present ones can be had back."""
        if self._turns:
            self._earlier = [*self._earlier, self._turns][-EARLIER:]
        self._turns = turns
        self._show()

    def _show(self) -> None:
        self.feed.show([event for turn in self._turns for event in turn.events()])

    def _answer(self, options: ReplyOptions) -> None:
        """Hand the newest message over; the answer comes through the feed."""
        messages, feed, reply = self.messages, self.feed, Reply()
        stop = self._stop = threading.Event()
        turn = self._turns[-1]
        feed.tell(render.busy(self._model_queue.queue), True)
        self._save()

        def job(engine: Any) -> None:
            turn.reply = reply
            speak(engine, options, messages, feed, reply, stop, self._save_sometimes)

        done = self._model_queue.submit("Answering", job)
        done.add_done_callback(lambda ended: self._ended(feed, turn, ended))

    def _ended(self, feed: Feed, turn: Turn, ended: Any) -> None:
        error = None if ended.cancelled() else ended.exception()
        if error is not None and (turn.reply is None or not turn.reply.remark):
            turn.reply = refused(feed, error)
        with self._lock:
            if self._thin() and feed is self.feed:
                self._show()
            self._save()
        feed.tell("", False)

    def _thin(self) -> bool:
        """Bound what the weights of old answers take; whether any went."""
        left, thinned = MOST_DETAILED, False
        for turn in reversed(self._all()):
            if turn.reply is not None:
                left -= len(turn.reply.tokens)
                if left < 0 and len(turn.reply.tokens) > 1 and turn.reply.remark:
                    turn.reply.thin()
                    thinned = True
        return thinned

    def _save_sometimes(self) -> None:
        """Keep an answer under way now and then; never wait for a page to do it."""
        now = time.monotonic()
        if now >= self._next_save and self._lock.acquire(blocking=False):
            try:
                self._save()
            finally:
                self._lock.release()
            took = time.monotonic() - now
            self._next_save = now + max(SAVED_EACH, 20 * took)

    def _save(self) -> None:
        turns = self._all()
        if self._store is None or not turns:
            return
        number = {id(turn): i for i, turn in enumerate(turns)}
        first = " ".join((self._turns or turns)[0].text.split())
        content = {
            "owner": self.owner,
            "title": first if len(first) <= TITLE else f"{first[: TITLE - 1]}…",
            "turns": [turn.as_json() for turn in turns],
            "shown": [number[id(turn)] for turn in self._turns],
            "earlier": [[number[id(t)] for t in old] for old in self._earlier],
        }
        self._store.write(self._name, content)

    def _restore(self, store: Store, content: Mapping[str, Any]) -> None:
        try:
            turns = [turn_from_json(one) for one in content["turns"]]
            self._turns = [turns[int(i)] for i in content["shown"]]
            old = content.get("earlier", [])
            self._earlier = [[turns[int(i)] for i in one] for one in old][-EARLIER:]
            self.owner = str(content.get("owner", ""))
            self._show()
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            file = store.folder / f"{self._name}.json"
            raise unreadable(file, line(error)) from error


def turn_from_json(values: Mapping[str, Any]) -> Turn:
    """A turn of a file; an answer that was cut off by the app's end says so.

    Raises:
        ValueError: If it is none.
    """
    text, reply = values["text"], values.get("reply")
    if not isinstance(text, str):
        raise ValueError("a message is a text")
    made = Reply() if reply is None else reply_from_json(reply)
    if not made.remark:
        made.stopped = True
        made.end()
        made.remark += ": the app ended"
    return Turn(text, made)


def history(turns: Sequence[Turn]) -> list[dict[str, str]]:
    """Turns as messages whose roles alternate, as many templates demand.

    A message that could not be answered, such as one that is too long, is left out: it
    would be met again with every later one. One whose answer was stopped before its
    first word is joined with the next.
    """
    said: list[dict[str, str]] = []
    for turn in turns:
        if turn.reply is not None and turn.reply.failed:
            continue
        said.append({"role": "user", "content": turn.text})
        if turn.reply is not None:
            said.append({"role": "assistant", "content": turn.reply.text})
    return alternating(said)


def refused(feed: Feed, error: BaseException) -> Reply:
    """Show an answer that never began."""
    reply = Reply(title="No answer", problem=explain(error))
    reply.end()
    begin(feed, reply)
    feed.append(reply.ending)
    return reply


def finish(feed: Feed, ended: Any) -> None:
    """Tell a page that its job has ended, and why where it never began."""
    error = None if ended.cancelled() else ended.exception()
    if error is not None:
        refused(feed, error)
    feed.tell("", False)


def check(text: Any) -> str:
    """A message that can be answered: without blank lines around it.

    Blanks before its first word stay: they are part of pasted code.

    Raises:
        ConfigError: If it is empty, too long, or holds half a character.
    """
    if not isinstance(text, str) or not text.strip():
        raise ConfigError("Write something first.")
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"That is longer than {MOST_CHARACTERS:,} characters.")
    if re.search(r"[\ud800-\udfff]", text):
        raise ConfigError("The text holds half a character: write or paste it again.")
    return re.sub(r"\A(?:[^\S\n]*\n)+", "", text).rstrip()
