"""A conversation that is open: its answer under way, and what pages are told of it.

A page says which version of the conversation it has, and is told what has changed
since: turns by their number, and of an answer the blocks that are other than before.
Weights stay here; a page asks for the one piece that somebody looks at.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from comigs_mlx.conversations import export, marks
from comigs_mlx.conversations.answers import Answer
from comigs_mlx.conversations.marks import Piece
from comigs_mlx.conversations.store import Store
from comigs_mlx.conversations.tokens import Said, said_text
from comigs_mlx.conversations.tree import Conversation, Turn, check_message, heading
from comigs_mlx.errors import ConfigError
from comigs_mlx.inference.replies import Progress, Stopped

from . import remedies, render
from .chat_settings import ReplyOptions
from .model_queue import ModelQueue, explain
from .remedies import outdated
from .shown import ALL_LAYERS, Shown, token_details

AT_ONCE = 8
"""Turns at the end that an opened page gets whole; others come when they are seen."""

MOST_TINTED = 1500
"""Tokens of an answer up to which it is tinted while it comes: ten times a second."""

LOOKED_AT = 4
"""Answers whose tokens stay in memory because somebody looks at them."""

SAVED_EACH = 3.0
"""Seconds between two saves of an answer under way."""

DOING = {"loading": "Loading the experts", "reading": "Reading"}


@dataclass
class Live:
    """The answer under way.

    Attributes:
        turn: Its turn.
        stop: Ends it early.
        tokens: What has been said so far, also before a continuation.
        before: How many of these were there before.
        spent: The seconds that these took.
        begun: When the first new token came, in seconds of `time.monotonic`.
        growing: The pieces of its tokens, once a page has asked for them.
    """

    turn: Turn
    tokens: list[Said]
    stop: threading.Event = field(default_factory=threading.Event)
    before: int = 0
    spent: float = 0.0
    begun: float | None = None
    growing: marks.Growing | None = None

    @property
    def answer(self) -> Answer:
        """What is known of it."""
        assert self.turn.answer is not None
        return self.turn.answer


class Talk:
    """One conversation, open on any number of pages.

    Args:
        model_queue: Has the engine.
        store: Keeps it.
        name: Its name there.

    Raises:
        ConfigError: If it is kept but cannot be read.
    """

    def __init__(self, model_queue: ModelQueue, store: Store, name: str):
        self._model_queue, self._store, self._name = model_queue, store, name
        self._lock = threading.RLock()
        self.conversation: Conversation = store.read(name) or Conversation(id=name)
        self._epoch = random.getrandbits(31)
        self._version = 1
        self._revisions: dict[int, int] = {}
        self._shown: dict[int, Shown] = {}
        self._tokens: OrderedDict[int, list[Said]] = OrderedDict()
        self._live: Live | None = None
        self._status: dict[str, Any] = {"text": "", "done": 0, "total": 0}
        self._next_save = 0.0

    # What somebody asks for

    def send(self, text: Any, options: ReplyOptions) -> None:
        """Say something and have it answered.

        Raises:
            ConfigError: If it is empty, too long, or an answer is under way.
        """
        options.check()
        text = check_message(text)
        with self._lock:
            self._check_idle()
            self._answer(self._ask(text, self.conversation.leaf), options)

    def retry(self, turn: Any, options: ReplyOptions) -> None:
        """Answer a message once more; the answer that is there stays beside it."""
        options.check()
        with self._lock:
            self._check_idle()
            one = self.conversation.find(turn)
            user = one if one.role == "user" else self.conversation.find(one.parent)
            self._answer(user, options)

    def edit(self, turn: Any, text: Any, options: ReplyOptions) -> None:
        """Ask in other words; the message that is there stays, as another branch."""
        options.check()
        text = check_message(text)
        with self._lock:
            self._check_idle()
            one = self.conversation.find(turn)
            if one.role != "user":
                raise ConfigError("Only your own messages can be edited.")
            self._answer(self._ask(text, one.parent), options)

    def go_on(self, turn: Any, options: ReplyOptions) -> None:
        """Have an answer that ended early continued.

        Raises:
            ConfigError: If it is whole.
        """
        options.check()
        with self._lock:
            self._check_idle()
            one = self.conversation.find(turn)
            if one.answer is None or not can_go_on(one):
                raise ConfigError("This answer is whole: ask for more instead.")
            self._go_on(one, one.answer.seconds, options)

    def leave_out(self, turn: Any, options: ReplyOptions) -> None:
        """Have an answer that waits given without the oldest turns, and later ones.

        Raises:
            ConfigError: If it does not wait.
        """
        options.check()
        with self._lock:
            self._check_idle()
            one = self.conversation.find(turn)
            if one.answer is None or not one.answer.waits:
                raise ConfigError("Nothing needs to be left out before this answer.")
            self.conversation.shortens = True
            self._go_on(one, one.answer.seconds, options)

    def speaker(self, turn: Any) -> tuple[str, str, float]:
        """Who gave an answer: the run, who of it spoke, and the lean."""
        with self._lock:
            answer = self.conversation.find(turn).answer
            if answer is None:
                raise ConfigError("Only answers can be continued.")
            given = answer.settings
            lean: Any = given.get("lean")
            known = isinstance(lean, (int, float)) and not isinstance(lean, bool)
            experts = str(given.get("experts", "auto"))
            return answer.run, experts, float(lean) if known else 0.0

    def show(self, turn: Any) -> None:
        """Go on with a variant, as it was left."""
        with self._lock:
            self._check_idle()
            one, before = self.conversation.find(turn), set(self._path_ids())
            self.conversation.show(one.id)
            self._touch(*(t for t in self._path_ids() if t not in before))
            self._save()

    def rate(self, turn: Any, rating: Any) -> None:
        """Keep what somebody thinks of an answer: -1, 0 or 1."""
        with self._lock:
            one = self.conversation.find(turn)
            if one.answer is None or rating not in (-1, 0, 1):
                raise ConfigError("Only answers are rated.")
            one.answer.rating = int(rating)
            self._touch(one.id)
            self._save()

    def rename(self, title: str) -> None:
        """Call it by a name of one's own."""
        with self._lock:
            self.conversation.rename(title)
            self._touch()
            self._save()

    def stop(self) -> None:
        """End the answer under way after its current token."""
        with self._lock:
            if self._live is not None:
                self._live.stop.set()

    def close(self) -> None:
        """Keep what there is."""
        self.stop()
        with self._lock:
            if self._live is not None and self._live.tokens:
                self._keep_tokens(self._live)
            self._save()

    # What pages are told

    @property
    def active(self) -> bool:
        """Whether an answer is under way."""
        with self._lock:
            return self._live is not None

    @property
    def notice(self) -> str:
        """Why it is not kept, in a sentence; empty: it is."""
        return self._store.problem

    def changes(self, epoch: int, since: int, tint: bool) -> dict[str, Any]:
        """What a page lacks that has version `since` of `epoch`."""
        with self._lock:
            since = since if epoch == self._epoch else 0
            path = self.conversation.path()
            late = len(path) - AT_ONCE if not since else 0
            turns = [
                self._payload(turn, since, tint, later=i < late)
                for i, turn in enumerate(path)
                if self._revisions.get(turn.id, 1) > since
            ]
            return {
                "epoch": self._epoch,
                "version": self._version,
                "active": self._live is not None,
                "status": self._status,
                "title": self.conversation.title,
                "notice": self.notice,
                "path": [turn.id for turn in path],
                "turns": turns,
                "waiting": waiting(self.conversation),
            }

    def whole(self, turn: Any, tint: bool) -> dict[str, Any]:
        """All of one turn, for a page that has scrolled to it."""
        with self._lock:
            return self._payload(self.conversation.find(turn), 0, tint)

    def text(self, turn: Any) -> str:
        """What was said, as it was written."""
        with self._lock:
            return self.conversation.find(turn).text

    def marks(self, turn: Any, layer: Any = ALL_LAYERS) -> dict[str, Any]:
        """Whose each piece of an answer is.

        Args:
            turn: The answer.
            layer: A layer's place in the run; -1 is the mean over all.

        Returns:
            `marks`, one list for each block (see `marks.over`), `layers`, the paths of
            the layers, and `routed`: whether the router has learnt.
        """
        with self._lock:
            one = self.conversation.find(turn)
            if one.answer is None or type(layer) is not int:
                raise outdated()
            layers = list(one.answer.layers)
            return {
                "marks": self._marks(one, layer if layer < len(layers) else ALL_LAYERS),
                "layers": layers,
                "routed": self._routed(one),
            }

    def token(self, turn: Any, piece: Any) -> dict[str, Any]:
        """What is known of one piece of an answer; see `token_details`."""
        with self._lock:
            one = self.conversation.find(turn)
            tokens, pieces = self._pieces(one)
            if (
                one.answer is None
                or type(piece) is not int
                or piece not in range(len(pieces))
            ):
                raise ConfigError("That token is no longer there.")
            found = pieces[piece]
            text = one.text[found.start : found.end]
            names = (one.answer.experts, one.answer.layers)
            return {
                **token_details(tokens, *names, found, text),
                "title": one.answer.title,
            }

    def as_file(self, kind: Any) -> dict[str, str]:
        """The conversation as a file: `name`, `type` and `text`.

        Args:
            kind: `markdown`, `html` or `json`.

        Raises:
            ConfigError: If nothing has been said.
        """
        with self._lock:
            kept = self.conversation
            if not kept.turns:
                raise ConfigError("There is nothing to save yet.")
            answers = [t for t in kept.path() if t.answer is not None]
            tokens = {t.id: self._tokens_of(t) for t in answers}
            make: dict[Any, tuple[str, str, Callable[[], str]]] = {
                "markdown": ("md", "markdown", lambda: export.to_markdown(kept)),
                "html": ("html", "html", lambda: export.to_html(kept, tokens)),
                "json": ("json", "json", lambda: export.to_json(kept)),
            }
            if kind not in make:
                raise outdated()
            ending, media, write = make[kind]
            name = f"{filename(kept.title)}.{ending}"
            return {"name": name, "type": f"text/{media}", "text": write()}

    def _payload(
        self, turn: Turn, since: int, tint: bool, later: bool = False
    ) -> dict[str, Any]:
        variants = [one.id for one in self.conversation.variants(turn.id)]
        common = {
            "id": turn.id,
            "role": turn.role,
            "variants": [variants.index(turn.id) + 1, len(variants), variants],
        }
        if turn.answer is None:
            return {**common, "text": turn.text}
        facts = self._facts(turn, turn.answer)
        if later:
            return {**common, **facts, "later": len(turn.text)}
        shown = self._shown.setdefault(turn.id, Shown())
        shown.follow(turn.text, self._revisions.get(turn.id, 1))
        told = shown.since(since)
        if tint and facts["can_tint"] and turn.answer.count <= MOST_TINTED:
            over = self._marks(turn, ALL_LAYERS, [i for i, _ in told])
            told = [[*one, mark] for one, mark in zip(told, over, strict=True)]
        return {**common, **facts, "blocks": told, "count": len(shown.blocks)}

    def _facts(self, turn: Turn, answer: Answer) -> dict[str, Any]:
        """What stands round an answer's text."""
        live = self._live is not None and self._live.turn is turn
        spoken = answer.count > 1 and answer.seconds > 0
        return {
            "title": answer.title,
            "run": answer.run,
            "live": live,
            "tokens": answer.count,
            "rate": round((answer.count - 1) / answer.seconds, 1) if spoken else None,
            "share": None if answer.share is None else round(100 * answer.share),
            "routed": self._has_learnt(turn, answer, live),
            "layers": len(answer.layers),
            "can_tint": bool(answer.experts) and answer.count > 0,
            "remark": answer.remark,
            "waits": answer.waits,
            "problem": answer.problem,
            "remedy": remedies.named(answer.remedy),
            "rating": answer.rating,
            "can_continue": not live and can_go_on(turn),
        }

    def _has_learnt(self, turn: Turn, answer: Answer, live: bool) -> bool:
        """Whether the router that spoke has learnt, as far as is known."""
        if live and answer.count > MOST_TINTED:
            return True
        if live or (answer.experts and "routed" not in answer.settings):
            known = self._routed(turn)
            answer.settings = {**answer.settings, "routed": known}
        return bool(answer.settings.get("routed", True))

    # The tokens behind an answer

    def _tokens_of(self, turn: Turn) -> Sequence[Said]:
        if self._live is not None and self._live.turn is turn:
            return self._live.tokens
        if turn.id not in self._tokens:
            self._tokens[turn.id] = self._read_tokens(turn)
        self._tokens.move_to_end(turn.id)
        while len(self._tokens) > LOOKED_AT:
            self._tokens.popitem(last=False)
        return self._tokens[turn.id]

    def _read_tokens(self, turn: Turn) -> list[Said]:
        """The kept tokens of an answer; damaged ones are as good as none."""
        try:
            return list(self._store.read_tokens(self._name, turn.id))
        except ConfigError:
            return []

    def _pieces(self, turn: Turn) -> tuple[Sequence[Said], list[Piece]]:
        tokens = self._tokens_of(turn)
        return tokens, marks.pieces(tokens)

    def _routed(self, turn: Turn) -> bool:
        experts = turn.answer.experts if turn.answer is not None else []
        return marks.routed(self._tokens_of(turn), experts)

    def _marks(
        self, turn: Turn, layer: int, blocks: Sequence[int] | None = None
    ) -> list[list[list[int]]]:
        """Whose each piece of an answer is, for some of its blocks or for all."""
        assert turn.answer is not None
        shown = self._shown.setdefault(turn.id, Shown())
        shown.follow(turn.text, self._revisions.get(turn.id, 1))
        live = self._live
        if live is not None and live.turn is turn and layer == ALL_LAYERS:
            if live.growing is None:
                live.growing = marks.Growing(turn.answer.experts)
            pieces, leans = live.growing.follow(live.tokens)
        else:
            tokens, pieces = self._pieces(turn)
            leans = marks.leans(tokens, pieces, turn.answer.experts, layer)
        drawn = shown.blocks if blocks is None else [shown.blocks[i] for i in blocks]
        return marks.over(drawn, pieces, leans)

    # Answering

    def _ask(self, text: str, parent: int | None) -> Turn:
        turn = self.conversation.ask(text, parent)
        self._touch(turn.id)
        return turn

    def _answer(self, user: Turn, options: ReplyOptions) -> None:
        """Hand a message over; the answer comes on the engine's thread."""
        turn = self.conversation.answer_to(user.id)
        self._begin(Live(turn, []), options)

    def _go_on(self, turn: Turn, spent: float, options: ReplyOptions) -> None:
        """Have an answer continued behind the words that it has."""
        tokens = list(self._tokens_of(turn)) if turn.text else []
        if said_text(tokens) != turn.text:  # they are lost: the text is not
            tokens = [Said(0, turn.text)]
        self._begin(Live(turn, tokens, before=len(tokens), spent=spent), options)

    def _begin(self, live: Live, options: ReplyOptions) -> None:
        answer, messages = live.answer, self._messages(live)
        answer.settings, answer.ended = options.as_dict(), False
        answer.run = "" if options.run is None else options.run.name
        answer.title = answer.title if live.before else options.title
        answer.stopped, answer.problem, answer.finish = False, None, None
        answer.remark, answer.remedy = "", ""
        answer.waits, answer.left_out = False, 0
        self._live = live
        self._tell(render.busy(self._model_queue.queue))
        self._touch(live.turn.id)
        self._save()
        done = self._model_queue.submit(
            "Answering", lambda engine: self._speak(engine, live, options, messages)
        )
        done.add_done_callback(lambda ended: self._ended(live, ended))

    def _messages(self, live: Live) -> list[dict[str, Any]]:
        """What the model reads: all before the answer, and the answer's beginning."""
        messages = self.conversation.messages()
        if live.before:
            begun = {"role": "assistant", "content": live.turn.text, "prefix": True}
            said = messages[:-1] if messages[-1]["role"] == "assistant" else messages
            return [*said, begun]
        return messages

    def _speak(
        self,
        engine: Any,
        live: Live,
        options: ReplyOptions,
        messages: list[dict[str, Any]],
    ) -> None:
        """Have an answer said; errors are kept with it and end it."""
        answer, stop = live.answer, live.stop.is_set

        def listen(progress: Progress) -> None:
            answer.left_out = progress.left_out
            self._progress(progress)

        try:
            info = engine.choose(options.run, options.model, stop=stop, listen=listen)
            answer.base, answer.chat = info.base_id, info.chat
            answer.experts, answer.layers = list(info.experts), list(info.layers)
            settings = options.settings(info.experts)
            if self._must_ask(engine, answer, messages, settings, info):
                return
            for token in engine.reply(messages, settings, stop, info, listen):
                self._take(live, token)
                self._save_sometimes()
        except Stopped:
            pass
        except Exception as error:
            _fail(answer, error)

    def _must_ask(
        self, engine: Any, answer: Answer, messages: list[Any], *given: Any
    ) -> bool:
        """Whether an answer waits, as the user has not allowed to leave out turns."""
        if self.conversation.shortens:
            return False
        answer.left_out = engine.left_out(messages, *given)
        answer.waits = answer.left_out > 0
        return answer.waits

    def _take(self, live: Live, token: Any) -> None:
        now = time.monotonic()
        with self._lock:
            if live.begun is None:
                live.begun = now
                self._tell("")
            live.tokens.append(Said.of(token))
            live.turn.text += token.text
            live.answer.finish = token.finish_reason
            live.answer.count = len(live.tokens)
            live.answer.seconds = live.spent + now - live.begun
            self._touch(live.turn.id)

    def _ended(self, live: Live, ended: Any) -> None:
        error = None if ended.cancelled() else ended.exception()
        answer = live.answer
        with self._lock:
            if error is not None:
                _fail(answer, error)
            answer.stopped = live.stop.is_set() or ended.cancelled()
            share = marks.share(live.tokens, answer.experts)
            answer.share = None if share is None else share / 100
            routed = marks.routed(live.tokens, answer.experts)
            answer.settings = {**answer.settings, "routed": routed}
            answer.end()
            self._tokens[live.turn.id] = live.tokens
            self._live = None
            self._keep_tokens(live)
            self._tell("")
            self._touch(live.turn.id)
            self._save()

    def _progress(self, progress: Progress) -> None:
        text = DOING.get(progress.what, progress.what.capitalize())
        if progress.what == "reading" and progress.total > 1:
            text = f"{text} {100 * progress.done // progress.total} %"
        with self._lock:
            self._tell(text, progress.done, progress.total)

    # Keeping

    def _keep_tokens(self, live: Live) -> None:
        if live.tokens:
            self._store.write_tokens(self._name, live.turn.id, live.tokens)

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
        if self.conversation.turns:
            self._store.write(self.conversation)

    # Small things

    def _touch(self, *turns: int) -> None:
        """Note that something has changed, and these turns with it."""
        self._version += 1
        for turn in turns:
            self._revisions[turn] = self._version

    def _tell(self, text: str, done: int = 0, total: int = 0) -> None:
        self._status = {"text": text, "done": done, "total": total}

    def _path_ids(self) -> list[int]:
        return [turn.id for turn in self.conversation.path()]

    def _check_idle(self) -> None:
        if self._live is not None:
            raise ConfigError("An answer is under way: wait for it, or stop it.")


def can_go_on(turn: Turn) -> bool:
    """Whether an answer ended before the model was done, and has words to go on."""
    answer = turn.answer
    return (
        answer is not None
        and bool(turn.text)
        and (answer.stopped or answer.finish == "length")
    )


def _fail(answer: Answer, error: BaseException) -> None:
    """Keep with an answer why it failed, and what would mend that."""
    answer.problem = explain(error)
    answer.remedy = remedies.of(error, answer.problem, remedies.IN_AN_ANSWER)


def waiting(conversation: Conversation) -> dict[str, Any] | None:
    """What is asked before the last answer, where it waits; see `Answer.waits`.

    Returns:
        `turn`, its number, `count`, how many messages would be left out, and `last`,
        the beginning of the user's last one among them.
    """
    last = None if conversation.leaf is None else conversation.find(conversation.leaf)
    if last is None or last.answer is None or not last.answer.waits:
        return None
    gone = conversation.messages()[: last.answer.left_out]
    asked = [one["content"] for one in gone if one["role"] == "user"]
    return {"turn": last.id, "count": len(gone), "last": heading(asked[-1])}


def filename(title: str) -> str:
    """A title as the name of a file, without its ending."""
    words = re.sub(r"[^\w]+", "-", title.casefold()).strip("-")
    return words[:60].strip("-") or "conversation"
