"""One base model in memory, and one run's experts on it: what a `Speaker` speaks with.

A change of run puts other values into the experts that are attached, where their shape
is the same, and attaches others where it is not; the base stays.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from comigs_mlx.errors import ComigsError, ConfigError
from comigs_mlx.inference import scoring
from comigs_mlx.inference.generate import Recorder, Sampling, responses
from comigs_mlx.inference.heard import Heard
from comigs_mlx.inference.prompt_cache import PromptCache
from comigs_mlx.inference.prompts import chat_tokens
from comigs_mlx.inference.spoken import (
    Message,
    Scored,
    Settings,
    SpokenToken,
    Voice,
)
from comigs_mlx.model import params
from comigs_mlx.model.base import Base, load_base
from comigs_mlx.model.fingerprint import array_digest
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.model.selection import Selection, usable
from comigs_mlx.options import ExpertOptions
from comigs_mlx.runs.description import base_model, expert_options
from comigs_mlx.runs.folder import RunFolder
from comigs_mlx.train_options import TrainConfig
from comigs_mlx.training import memory

NOBODY = ExpertOptions(generalists=1, specialists=0, rank=1, attention_lora=False)
"""Experts for a base model without a run: they never speak."""


class Speech:
    """Chooses, replies and scores; all on one thread, one at a time.

    Attributes:
        base: The base model in memory.
        voice: What speaks now; None before `choose`, and after one that failed.
    """

    def __init__(self, say: Callable[[str], None]):
        self.base: Base | None = None
        self.voice: Voice | None = None
        self._say = say
        self._mixture: Mixture | None = None
        self._fingerprint, self._values = "", ""
        self._signature: Hashable = None
        self._prompts = PromptCache()

    def choose(self, run: Path | None, model: str, best: bool) -> Voice:
        """Take a run, as it is now, or a base model alone; see `Speaker.choose`."""
        folder = None if run is None else RunFolder(run)
        if folder is not None:
            model, _ = base_model(folder.read_info())
        signature = (run, model, best, folder and folder.signature())
        same = self.base is not None and self.base.is_still(model)
        if self.voice is not None and same and signature == self._signature:
            return self.voice
        self.voice = None
        with _memory(self._forget):
            self._take(model)
            step = 0 if folder is None else self._wear(folder, best)
        self.voice = self._described(folder, best, step)
        self._signature = signature
        return self.voice

    def _take(self, model: str) -> None:
        """Have this base in memory, and no other."""
        if self.base is None or not self.base.is_still(model):
            self._forget()
            base = load_base(model, self._say)
            self._fingerprint = base.fingerprint()
            self.base = base
        if self._mixture is None:
            self._attach(NOBODY)

    def _wear(self, folder: RunFolder, best: bool) -> int:
        """Put a run's values into the experts; their training step."""
        base, mixture = self._ready()
        folder.check_base(base.id, self._fingerprint)
        options = expert_options(folder.read_info())
        if mixture.options != options.resolved():
            mixture = self._attach(options)
        step = folder.load_values(mixture, best)
        self._values = _digest(mixture)
        return step

    def _attach(self, options: ExpertOptions) -> Mixture:
        """Attach fresh experts of another shape instead of those there are."""
        assert self.base is not None
        if self._mixture is not None:
            self._mixture.detach()
        self._mixture = None
        self._mixture = Mixture(self.base.model, options)
        return self._mixture

    def _forget(self) -> None:
        """Give back all memory."""
        self.base = self.voice = self._mixture = None
        self._prompts.clear()
        mx.clear_cache()

    def _described(self, folder: RunFolder | None, best: bool, step: int) -> Voice:
        base, mixture = self._ready()
        if folder is None:
            return Voice(None, base.id, [], [], 0, ["base"])
        names, options = mixture.options.names, usable(mixture.options)
        run = str(folder.path)
        return Voice(run, base.id, names, mixture.layers, step, options, best)

    def _ready(self) -> tuple[Base, Mixture]:
        if self.base is None or self._mixture is None:
            raise ComigsError("nobody to speak: choose a run or a base model first")
        return self.base, self._mixture

    def reply(
        self, messages: Sequence[Message], settings: Settings, stop: Callable[[], bool]
    ) -> Iterator[SpokenToken]:
        """Speak the next turn; see `Speaker.reply`."""
        settings.check()
        base, mixture = self._ready()
        selection = self._selection(settings.selection)
        prompt = chat_tokens(base.tokenizer, messages, settings.system)
        most = min(settings.max_tokens, _room(base, prompt))
        seed = secrets.randbits(32) if settings.seed is None else settings.seed
        sampling = Sampling(settings.temperature, settings.top_p, seed)
        with _memory(mx.clear_cache), mixture.selected(selection):
            yield from self._speak(prompt, most, sampling, stop)

    def _selection(self, wanted: Selection) -> Selection:
        """What to select; a base without a run speaks for itself."""
        if self.voice is None:
            raise ComigsError("nobody to speak: choose a run or a base model first")
        if self.voice.run is not None:
            return wanted
        if wanted in ("auto", "base"):
            return "base"
        raise ConfigError(f"there is no {wanted} without a run: choose a run, or base")

    def _speak(
        self,
        prompt: list[int],
        max_tokens: int,
        sampling: Sampling,
        stop: Callable[[], bool],
    ) -> Iterator[SpokenToken]:
        """Tokens, each handed out while the one after the next is being computed."""
        base, mixture = self._ready()
        key = (self._fingerprint, self._values, mixture.selection)
        recorder = Recorder(mixture)
        cache, read = self._prompts.take(key, prompt, recorder)
        rest, heard = prompt[read:], list[int]()
        traced = self.voice is not None and self.voice.run is not None
        last: Heard | None = None
        stream: Any = responses(
            recorder, base.tokenizer, rest, max_tokens, sampling, cache
        )
        with contextlib.closing(stream):
            while not stop() and (response := next(stream, None)) is not None:
                if last is not None:
                    yield last.token(base.tokenizer)
                weights = recorder.at(len(rest) + len(heard)) if traced else None
                last = Heard(response, weights)
                heard.append(response.token)
            if last is not None:
                yield last.token(base.tokenizer)
        self._prompts.keep(key, prompt + heard, cache)

    def plan(self, config: TrainConfig) -> tuple[int, list[str]] | None:
        """What a training would need; see `Speaker.memory`."""
        if self.base is None or not self.base.is_still(config.model):
            return None
        work = memory.Work(
            batch_size=config.data.batch_size,
            seq_len=config.data.seq_len,
            checkpoint=config.training.grad_checkpoint,
            accumulation=config.training.grad_accumulation,
        )
        voice, self.voice = self.voice, None
        plan = memory.plan(self._attach(config.experts), work)
        notes = list(plan.notes(config.memory_limit))
        if voice is not None:
            run = None if voice.run is None else Path(voice.run)
            self.choose(run, voice.base_id, voice.best)
        return plan.estimate.peak, notes

    def score(self, text: str, selections: Sequence[str]) -> Scored:
        """Read a text; see `Speaker.score`."""
        base, mixture = self._ready()
        chosen = {name: self._selection(name) for name in (*selections, "auto")}
        assert self.voice is not None
        with _memory(mx.clear_cache):
            tokens = scoring.encode(base, text)
            read = scoring.read(mixture, tokens, chosen)
        return scoring.scored(base, self.voice, tokens, selections, read)


def _digest(mixture: Mixture) -> str:
    """SHA-256 of all values of the experts and routers."""
    values = params.flatten(params.select(mixture.model, params.ROLES))
    return array_digest(values, repr(mixture.options))


def _room(base: Base, prompt: Sequence[int]) -> int:
    """Tokens that can be spoken before the model's context is full."""
    if (most := base.context) is None:
        return 2**31
    if len(prompt) >= most:
        raise ConfigError(
            f"the conversation is {len(prompt):,} tokens long, {base.id} reads at most "
            f"{most:,}: clear it, or shorten what you said"
        )
    return most - len(prompt)


@contextlib.contextmanager
def _memory(mend: Callable[[], None]) -> Iterator[None]:
    """Around work on arrays: what MLX says of memory becomes a sentence to act on."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error).lower()
        if not isinstance(error, MemoryError) and not (
            "alloc" in text or "memory" in text
        ):
            raise
        mend()
        raise ComigsError(
            "out of memory: close other programs, shorten the conversation, or choose "
            "a smaller or quantised base model"
        ) from error
