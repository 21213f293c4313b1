"""Conversations: what was said, by whom, and what the page is shown of it."""

from __future__ import annotations

import dataclasses
import threading
from dataclasses import dataclass, field
from typing import Any

from app import render
from app.asked import Asked
from app.feed import Feed
from app.office import Office, explain
from comigs_mlx.errors import ConfigError
from comigs_mlx.inference.trace import Trace, TraceToken, summary

MOST_CHARACTERS = 200_000
"""Longest message."""

NO_TOKEN = -1
"""Id of a message in a trace: it is no token of the model."""


@dataclass
class Reply:
    """One answer, as far as it has come."""

    base: str = ""
    experts: list[str] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    tokens: list[Any] = field(default_factory=list)

    @property
    def text(self) -> str:
        """What has been said."""
        return "".join(token.text for token in self.tokens)

    def trace(self) -> Trace:
        """How it was routed."""
        tokens = [TraceToken(t.id, t.text, False, t.weights) for t in self.tokens]
        return Trace(self.base, self.experts, self.layers, tokens)

    def note(self, stopped: bool) -> str:
        """A line under the answer."""
        parts = [f"{len(self.tokens)} tokens"] if self.tokens else ["nothing was said"]
        trace = self.trace()
        if any(w for token in trace.tokens for row in token.weights for w in row):
            parts.insert(0, summary(trace))
        elif self.tokens:
            parts.insert(0, "the base model alone")
        if stopped:
            parts.append("stopped")
        elif self.tokens and self.tokens[-1].finish_reason == "length":
            parts.append("cut at max tokens")
        return " · ".join(parts)


def speak(
    speaker: Any,
    asked: Asked,
    messages: list[dict[str, str]],
    feed: Feed,
    reply: Reply,
    stop: threading.Event,
) -> None:
    """Have one answer said into a feed; errors are shown and end it.

    Args:
        speaker: Of the office.
        asked: Whose voice.
        messages: `role` and `content` of each turn so far.
        feed: Gets `reply_begins`, `token`... and `reply_ends`.
        reply: Filled on the way.
        stop: Ends the answer early.
    """
    feed.tell("Loading the experts", True)
    problem = None
    try:
        voice = speaker.choose(asked.run, asked.model)
        reply.base, reply.experts, reply.layers = (
            voice.base_id,
            voice.experts,
            voice.layers,
        )
        begin(feed, asked.title, reply)
        feed.tell("Reading", True)
        settings = asked.settings(voice.experts)
        for token in speaker.reply(messages, settings, stop.is_set, voice):
            reply.tokens.append(token)
            feed.add("token", **render.token(token))
            if len(reply.tokens) == 1:
                feed.tell("Answering", True)
    except Exception as error:
        problem = explain(error)
        if not reply.base:
            begin(feed, asked.title, reply)
    feed.add("reply_ends", note=reply.note(stop.is_set()), problem=problem)


def begin(feed: Feed, title: str, reply: Reply) -> None:
    """Open an answer in a feed."""
    feed.add("reply_begins", title=title, experts=reply.experts, layers=reply.layers)


class Chat:
    """One conversation of one page."""

    def __init__(self, office: Office):
        self.feed = Feed.fresh()
        self._office = office
        self._lock = threading.Lock()
        self._turns: list[tuple[str, Reply | None, int]] = []  # text, answer, its event
        self._stop = threading.Event()

    def send(self, text: str, asked: Asked) -> None:
        """Say something and have it answered.

        Raises:
            ConfigError: If it is empty, too long, or an answer is under way.
        """
        asked.check()
        text = check(text)
        with self._lock:
            self._check_idle()
            self._turns.append((text, None, len(self.feed)))
            self.feed.add("user", text=text)
            self._answer(asked)

    def retry(self, asked: Asked) -> None:
        """Answer the last message once more."""
        asked.check()
        with self._lock:
            self._check_idle()
            if not self._turns:
                raise ConfigError("There is nothing to answer yet.")
            text, _, at = self._turns[-1]
            self._turns[-1] = (text, None, at)
            self.feed.cut(at + 1)
            self._answer(asked)

    def edit(self, index: int, text: str, asked: Asked) -> None:
        """Replace message `index`, forget what came after it, and answer it."""
        asked.check()
        text = check(text)
        with self._lock:
            self._check_idle()
            if not 0 <= index < len(self._turns):
                raise ConfigError("That message is no longer there.")
            at = self._turns[index][2]
            self._turns[index:] = [(text, None, at)]
            self.feed.cut(at)
            self.feed.add("user", text=text)
            self._answer(asked)

    def stop(self) -> None:
        """End the answer under way after its current token."""
        self._stop.set()

    def clear(self) -> None:
        """Forget everything that was said."""
        self.stop()
        with self._lock:
            self._turns = []
            self.feed = self.feed.successor()

    @property
    def messages(self) -> list[dict[str, str]]:
        """What was said so far, an answer under way left out."""
        said = []
        for text, reply, _ in self._turns:
            said.append({"role": "user", "content": text})
            if reply is not None and reply.tokens:
                said.append({"role": "assistant", "content": reply.text})
        return said

    def trace(self) -> Trace:
        """The conversation as one trace, by the experts of its last answer.

        Raises:
            ConfigError: If nothing has been answered.
        """
        with self._lock:
            turns = [(text, reply) for text, reply, _ in self._turns]
        answers = [reply for _, reply in turns if reply is not None and reply.tokens]
        if not answers:
            raise ConfigError("There is nothing to save yet.")
        last = answers[-1]
        empty = [[0.0] * len(last.experts) for _ in last.layers]
        tokens: list[TraceToken] = []
        for text, reply in turns:
            tokens.append(TraceToken(NO_TOKEN, text, True, empty))
            for one in reply.trace().tokens if reply is not None else []:
                known = reply is not None and reply.experts == last.experts
                fits = known and len(one.weights) == len(empty)
                weights = one.weights if fits else empty
                tokens.append(dataclasses.replace(one, weights=weights))
        return Trace(last.base, last.experts, last.layers, tokens)

    def _check_idle(self) -> None:
        if self.feed.active:
            raise ConfigError("An answer is under way: wait for it, or stop it.")

    def _answer(self, asked: Asked) -> None:
        """Hand the newest message over; the answer comes through the feed."""
        messages, feed, reply = self.messages, self.feed, Reply()
        stop = self._stop = threading.Event()
        text, _, at = self._turns[-1]
        self._turns[-1] = (text, reply, at)
        queue = self._office.queue
        feed.tell(
            f"Waiting: the model is busy ({queue} before you)" if queue else "", True
        )

        def job(speaker: Any) -> None:
            speak(speaker, asked, messages, feed, reply, stop)

        done = self._office.submit("Answering", job)
        done.add_done_callback(lambda ended: finish(feed, ended))


def finish(feed: Feed, ended: Any) -> None:
    """Tell a page that its job has ended, and why where it never began."""
    error = None if ended.cancelled() else ended.exception()
    if error is not None:
        begin(feed, "No answer", Reply())
        feed.add("reply_ends", note="", problem=explain(error))
    feed.tell("", False)


def check(text: Any) -> str:
    """A message that can be answered.

    Raises:
        ConfigError: If it is empty or too long.
    """
    if not isinstance(text, str) or not text.strip():
        raise ConfigError("Write something first.")
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"That is longer than {MOST_CHARACTERS:,} characters.")
    return text.strip()
