"""The Chat and Compare tabs."""

from __future__ import annotations

import json
import random
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from comigs_mlx.errors import ConfigError
from comigs_mlx.inference.trace import to_html, to_json

from .. import chat_settings, render
from ..chat import Chat, check, finish, speak
from ..chat_settings import ReplyOptions
from ..feed import Feed
from ..kept_replies import Reply
from ..model_queue import ModelQueue
from ..sessions import Sessions, secret
from ..store import Store
from . import runs

COMPARED = ("base", "generalist", "specialist", "auto")
"""Expert selections side by side, in this order."""


class ChatActions:
    """What the Chat tab does.

    Args:
        model_queue: Has the engine.
        folder: Holds the runs.
        model: Base model where no run is chosen.
    """

    def __init__(self, model_queue: ModelQueue, folder: Path, model: str):
        self.model_queue, self.folder, self.model = model_queue, folder, model
        self.store = Store(folder)
        self.sessions = Sessions(
            lambda name: Chat(model_queue, self.store, name),
            needed=lambda chat: chat.feed.active or bool(chat.extras["notice"]),
        )

    def close(self) -> None:
        """Keep every conversation, also an answer under way."""
        for chat in self.sessions.all():
            chat.close()

    def kept(self, question: Any) -> list[dict[str, str]]:
        """The conversations of a browser, the newest first: `name`, `title`, `when`.

        Args:
            question: `owner`, the secret of the browser.
        """
        return self.store.listed(secret(question.get("owner")))

    def forget(self, question: Any) -> dict[str, str]:
        """Delete a conversation for good.

        Args:
            question: Its name as `id`.
        """
        name = secret(question.get("id"))
        chat = self.sessions.find(name)
        if chat.feed.active:
            raise ConfigError("An answer is under way: wait for it, or stop it.")
        self.sessions.drop(name)
        self.store.remove(name)
        return {}

    def changes(self, question: Any) -> dict[str, Any]:
        """What a page lacks: `id`, `epoch` and `since` in, events out."""
        return answer(self.sessions, question)

    def options(
        self,
        run: Any,
        experts: Any,
        blend: Any,
        temperature: Any,
        top_p: Any,
        max_tokens: Any,
        system: Any,
    ) -> ReplyOptions:
        """The widgets' values.

        Raises:
            ComigsError: If one cannot be.
        """
        return ReplyOptions(
            run=runs.find(self.folder, run),
            model=self.model,
            experts=str(experts),
            blend=chat_settings.number(blend, "blend") / 100,
            temperature=chat_settings.number(temperature, "temperature"),
            top_p=chat_settings.number(top_p, "top-p"),
            max_tokens=int(chat_settings.number(max_tokens, "max tokens")),
            system=str(system or ""),
        )

    def send(self, session: dict[str, str], text: str, *chosen: Any) -> dict[str, str]:
        """Say something; returns the element's value, changed so that it asks."""
        self._chat(session).send(text, self.options(*chosen))
        return touch(session)

    def _chat(self, session: dict[str, str]) -> Any:
        chat = self.sessions.find(session["id"])
        chat.owner = chat.owner or session.get("owner", "")
        return chat

    def command(
        self, session: dict[str, str], order: dict[str, Any], *chosen: Any
    ) -> dict[str, str]:
        """Retry, edit or undo, as the conversation's own buttons say."""
        chat = self._chat(session)
        if order.get("undo"):
            chat.undo()
        elif order.get("retry"):
            chat.retry(self.options(*chosen))
        elif isinstance(index := order.get("edit"), int):
            chat.edit(index, order.get("text"), self.options(*chosen))
        return touch(session)

    def stop(self, session: dict[str, str]) -> None:
        """End the answer under way."""
        self.sessions.find(session["id"]).stop()

    def clear(self, session: dict[str, str]) -> dict[str, str]:
        """Begin with nothing; the conversation can be had back."""
        self.sessions.find(session["id"]).clear()
        return touch(session)

    def save(self, question: Any) -> dict[str, str]:
        """The conversation as a file, which the page keeps and no folder here does.

        Args:
            question: `id`, and as `kind` `html` for a page that needs nothing else or
                `json` for a trace.

        Returns:
            `name`, `type` and `text`.
        """
        trace = self.sessions.find(question["id"]).trace()
        if question["kind"] == "html":
            return {
                "name": "conversation.html",
                "type": "text/html",
                "text": to_html(trace),
            }
        text = json.dumps(to_json(trace), ensure_ascii=False)
        return {"name": "trace.json", "type": "application/json", "text": text}


class Comparison:
    """One prompt, answered by every selection in turn, with one seed."""

    def __init__(self, model_queue: ModelQueue):
        self.feed = Feed.fresh()
        self._model_queue = model_queue
        self._stop = threading.Event()

    def ask(self, text: Any, settings: ReplyOptions) -> None:
        """Have a prompt answered by all.

        Raises:
            ConfigError: If answers are under way, or the prompt is empty or too long.
        """
        settings.check()
        text = check(text)
        if self.feed.active:
            raise ConfigError("Answers are under way: wait for them, or stop them.")
        self.feed = feed = self.feed.successor()
        stop = self._stop = threading.Event()
        feed.tell(render.busy(self._model_queue.queue), True)
        messages = [{"role": "user", "content": text}]
        seeded = replace(settings, seed=random.randrange(2**31))

        def job(engine: Any) -> None:
            info = engine.choose(settings.run, settings.model, stop=stop.is_set)
            for name in COMPARED:
                if stop.is_set():
                    break
                if name in info.selections:
                    speaking = replace(seeded, experts=name)
                    speak(engine, speaking, messages, feed, Reply(), stop)

        done = self._model_queue.submit("Comparing", job)
        done.add_done_callback(lambda ended: finish(feed, ended))

    def stop(self) -> None:
        """End what is under way."""
        self._stop.set()

    @property
    def extras(self) -> dict[str, Any]:
        """Nothing beside the answers."""
        return {}


class CompareActions:
    """What the Compare tab does; see `ChatActions`."""

    def __init__(self, chat: ChatActions):
        self._chat = chat
        self.sessions = Sessions(
            lambda name: Comparison(chat.model_queue),
            needed=lambda one: one.feed.active,
        )

    def changes(self, question: Any) -> dict[str, Any]:
        """What a page lacks."""
        return answer(self.sessions, question)

    def ask(self, session: dict[str, str], text: str, *chosen: Any) -> dict[str, str]:
        """Have a prompt answered by all.

        Args:
            session: The element's value.
            text: The prompt.
            chosen: Run, temperature, top-p, max tokens, system prompt.
        """
        run, *drawing = chosen
        settings = self._chat.options(run, "auto", 50, *drawing)
        if settings.run is None:
            raise ConfigError("Choose a run: the base model alone has no experts.")
        self.sessions.find(session["id"]).ask(text, settings)
        return touch(session)

    def stop(self, session: dict[str, str]) -> None:
        """End the answers under way."""
        self.sessions.find(session["id"]).stop()


def answer(sessions: Sessions, question: Any) -> dict[str, Any]:
    """A page's question for what is new.

    Raises:
        ConfigError: If it is no such question.
    """
    numbers = ("epoch", "since")
    if not isinstance(question, dict) or not all(
        type(question.get(name)) is int for name in numbers
    ):
        raise ConfigError("expected id, epoch and since")
    session = sessions.find(question.get("id"))
    changes: dict[str, Any] = session.feed.changes(*(question[n] for n in numbers))
    return {**changes, **session.extras}


def touch(session: dict[str, str]) -> dict[str, str]:
    """The element's value, changed so that it asks for what is new."""
    return {**session, "turn": f"{random.getrandbits(32):x}"}
