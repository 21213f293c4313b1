"""A chat engine of plain data, with the interface of `inference.chat_engine`."""

import threading
import time
import types
from pathlib import Path

from comigs_mlx.errors import RunError
from comigs_mlx.inference.replies import (
    Alternative,
    ModelInfo,
    Progress,
    Scored,
    ScoredToken,
    SpokenToken,
    Stopped,
)
from comigs_mlx.inference.worker import Worker

EXPERTS = ["generalist", "specialist"]
LAYERS = [f"model.layers.{i}.mlp" for i in range(4)]
SELECTIONS = ["auto", "base", "generalist", "specialist"]
SHARES = {"generalist": 0.0, "specialist": 1.0, "base": None}


class Parrot:
    """Says the last message back, a word a token; `asked` keeps what it was told.

    It says it over and over, up to the tokens that are asked for, or `most`. It reads
    as many messages as `context` says, the last ones; None is all of them.
    """

    def __init__(self, delay=0.0, problem=None, most=None, context=None):
        self.delay, self.problem, self.most = delay, problem, most
        self.context, self.going = context, threading.Event()
        self.going.set()
        self.asked, self.chosen, self.at = [], [], 2
        self.speaking = threading.Lock()
        self.info = self.tokenizer = None
        self._worker = Worker()

    @property
    def unfinished(self):
        return self._worker.unfinished

    def submit(self, job):
        return self._worker.submit(lambda: job(self))

    def choose(self, run, model="demo", best=False, stop=None, listen=None):
        self.chosen.append(run)
        if run is not None and not Path(run).is_dir():
            raise RunError(f"no run at {run}")
        with_run = run is not None
        self.info = ModelInfo(
            run=str(run) if with_run else None,
            base_id=model,
            experts=EXPERTS if with_run else [],
            layers=LAYERS if with_run else [],
            step=4 if with_run else 0,
            selections=SELECTIONS if with_run else ["base"],
        )
        return self.info

    def reply(self, messages, settings, stop=lambda: False, info=None, listen=None):
        assert self.speaking.acquire(blocking=False), "two answers at once"
        try:
            self.asked.append((messages, settings))
            yield from self._words(messages[-1]["content"], settings, stop)
        finally:
            self.speaking.release()

    def left_out(self, messages, settings, info=None):
        return 0 if self.context is None else max(len(messages) - self.context, 0)

    def calibrate_lean(self, info, stop, listen):
        """Four parts; it waits in the third for `going`, or to be stopped."""
        for i in range(4):
            listen(Progress("scoring", i, 4))
            while i == 2 and not self.going.wait(0.005):
                if stop():
                    raise Stopped
        return types.SimpleNamespace(lean=0.75, loss=2.0, loss_without=2.1)

    def _words(self, text, settings, stop):
        most = self.most or settings.max_tokens
        words = (text.split(" ") * most)[:most]
        for i, word in enumerate(words):
            if stop():
                return
            if self.problem is not None and i == self.at:
                raise self.problem
            time.sleep(self.delay)
            last = i + 1 == len(words)
            yield spoken(word, i, settings.selection, "length" if last else None)

    def close(self):
        self.delay = 0.0
        self._worker.close()

    def score(self, text, selections, stop=None, listen=None):
        words = text.split(" ")
        tokens = [
            ScoredToken(
                i,
                word,
                weights(i, "auto"),
                {
                    name: None if i == 0 else 1.0 + k
                    for k, name in enumerate(selections)
                },
            )
            for i, word in enumerate(words)
        ]
        perplexity = {name: 2.718281828 + k for k, name in enumerate(selections)}
        return Scored("demo", tokens, EXPERTS, LAYERS, perplexity)


def weights(i, selection):
    if selection == "base":
        return [[0.0, 0.0] for _ in LAYERS]
    if isinstance(selection, tuple):
        return [list(selection) for _ in LAYERS]
    own = {"generalist": 0.0, "specialist": 1.0}.get(selection, (i % 5) / 4)
    return [[1 - own, own] for _ in LAYERS]


def spoken(text, i=0, selection="auto", reason=None):
    likeliest = [Alternative(i, text, 0.5), Alternative(i + 1, "<i>", 0.25)]
    return SpokenToken(i, text, weights(i, selection), likeliest, reason)
