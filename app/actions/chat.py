"""What the Chat tab and the list of conversations do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comigs_mlx import command
from comigs_mlx.conversations.disk import check_id
from comigs_mlx.conversations.store import Store
from comigs_mlx.errors import ConfigError

from .. import chat_settings
from ..chat_settings import ReplyOptions
from ..model_queue import ModelQueue
from ..remedies import outdated
from ..sessions import Sessions
from ..talk import Talk
from ..watched import asks, touched
from . import runs

MOST_TITLE = 200
"""Characters of a title that somebody gives."""


class ChatActions:
    """What the Chat tab and the list of conversations do.

    Args:
        model_queue: Has the engine.
        folder: Holds the runs.
        model: Base model where no run is chosen.
    """

    def __init__(self, model_queue: ModelQueue, folder: Path, model: str):
        self.model_queue, self.folder, self.model = model_queue, folder, model
        self.store = Store(folder, command.say)
        self.talks = Sessions(
            lambda name: Talk(model_queue, self.store, name),
            needed=lambda talk: talk.active or bool(talk.notice),
        )

    def close(self) -> None:
        """Keep every conversation, also an answer under way."""
        for talk in self.talks.all():
            talk.close()

    # Asked by the page's scripts: a question of JSON values in, an answer of such out

    def changes(self, question: Any) -> dict[str, Any]:
        """What a page lacks: `id`, `epoch`, `since` and `tint` in; see `Talk.changes`.

        Raises:
            ConfigError: If it is no such question.
        """
        if not asks(question):
            raise outdated()
        epoch, since = question["epoch"], question["since"]
        return self._talk(question).changes(epoch, since, bool(question.get("tint")))

    def whole(self, question: Any) -> dict[str, Any]:
        """One `turn` of `id`, with marks where `tint` is true."""
        talk = self._talk(question)
        return talk.whole(question.get("turn"), bool(question.get("tint")))

    def marks(self, question: Any) -> dict[str, Any]:
        """Whose each piece of a `turn` is, in one `layer` or over all (-1)."""
        talk = self._talk(question)
        return talk.marks(question.get("turn"), question.get("layer", -1))

    def token(self, question: Any) -> dict[str, Any]:
        """What is known of one `piece` of a `turn`."""
        return self._talk(question).token(question.get("turn"), question.get("piece"))

    def source(self, question: Any) -> dict[str, str]:
        """A `turn` as it was written, as `text`."""
        return {"text": self._talk(question).text(question.get("turn"))}

    def stop(self, question: Any) -> dict[str, Any]:
        """End the answer under way."""
        self._talk(question).stop()
        return {}

    def rate(self, question: Any) -> dict[str, Any]:
        """Keep what somebody thinks of a `turn`, as `rating`."""
        talk = self._talk(question)
        talk.rate(question.get("turn"), question.get("rating"))
        return {}

    def show(self, question: Any) -> dict[str, Any]:
        """Go on with a variant: `turn`."""
        self._talk(question).show(question.get("turn"))
        return {}

    def save(self, question: Any) -> dict[str, str]:
        """A conversation as a file, which the page keeps and no folder here does.

        Args:
            question: `id`, and as `kind` `markdown`, `html` or `json`.
        """
        return self._talk(question).as_file(question.get("kind"))

    # The list of conversations

    def listed(self, question: Any) -> list[dict[str, Any]]:
        """The conversations, the newest first; `query` looks in titles and texts."""
        query = question.get("query") if isinstance(question, dict) else ""
        return list(self.store.listed(str(query or "")))

    def rename(self, question: Any) -> dict[str, str]:
        """Give the conversation `id` another `title`."""
        title = " ".join(str(question.get("title") or "").split())[:MOST_TITLE]
        if not title:
            raise ConfigError("Write a name first.")
        self._talk(question).rename(title)
        return {"title": title}

    def forget(self, question: Any) -> dict[str, str]:
        """Take a conversation away; `restore` brings it back."""
        name = check_id(question.get("id"))
        if self._talk(question).active:
            raise ConfigError("An answer is under way: wait for it, or stop it.")
        self.talks.drop(name)
        self.store.remove(name)
        return {}

    def restore(self, question: Any) -> dict[str, str]:
        """Bring back a conversation that was taken away."""
        name = check_id(question.get("id"))
        self.talks.drop(name)
        self.store.restore(name)
        return {}

    def keep(self, question: Any) -> dict[str, bool]:
        """Whether conversations are kept; `keeping` sets it, for as long as the app."""
        wanted = question.get("keeping") if isinstance(question, dict) else None
        if isinstance(wanted, bool):
            self.store.keeping = wanted
        return {"keeping": self.store.keeping}

    # With the widgets' values

    def options(
        self,
        run: Any,
        experts: Any,
        lean: Any,
        temperature: Any,
        top_p: Any,
        max_tokens: Any,
        system: Any,
    ) -> ReplyOptions:
        """The widgets' values.

        A lean of 0 is the run's own; the untrained model and each side alone have none.

        Raises:
            ComigsError: If one cannot be.
        """
        found, chosen = runs.find(self.folder, run), str(experts)
        if found is None and chosen in ("specialist", "generalist"):
            chosen = "base"  # the choice is for a model of one's own, and stays
        leaning = chat_settings.number(lean, "lean") if chosen == "auto" else 0
        return ReplyOptions(
            run=found,
            model=self.model,
            experts=chosen,
            temperature=chat_settings.number(temperature, "temperature"),
            top_p=chat_settings.number(top_p, "top-p"),
            max_tokens=int(chat_settings.number(max_tokens, "max tokens")),
            system=str(system or ""),
            lean=leaning if leaning and found is not None else None,
        )

    def send(self, session: dict[str, Any], text: Any, *chosen: Any) -> dict[str, Any]:
        """Say something; returns the element's value, changed so that it asks."""
        self._talk(session).send(text, self.options(*chosen))
        return touched(session)

    def command(
        self, session: dict[str, Any], order: dict[str, Any], *chosen: Any
    ) -> dict[str, Any]:
        """Do what one of the conversation's own buttons says: the order's `do`."""
        talk, turn = self._talk(session), order.get("turn")
        if order.get("do") == "continue":  # whoever began it goes on
            chosen = (*talk.speaker(turn), *chosen[3:])
        options = self.options(*chosen)
        if order.get("do") == "retry":
            talk.retry(turn, options)
        elif order.get("do") == "edit":
            talk.edit(turn, order.get("text"), options)
        elif order.get("do") == "continue":
            talk.go_on(turn, options)
        elif order.get("do") == "leave_out":
            talk.leave_out(turn, options)
        elif order.get("do") == "send":
            talk.send(order.get("text"), options)
        return touched(session)

    def _talk(self, question: Any) -> Talk:
        if not isinstance(question, dict):
            raise outdated()
        talk: Talk = self.talks.find(question.get("id"))
        return talk
