"""The Chat tab."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from comigs_mlx.errors import ConfigError
from comigs_mlx.inference.trace import to_html, to_json

from .. import chat_settings
from ..chat import Chat
from ..chat_settings import ReplyOptions
from ..model_queue import ModelQueue
from ..sessions import Sessions, secret
from ..store import Store
from . import runs


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
