"""One base model in memory and a run's experts on it: what a `ChatEngine` uses.

A change of run puts other values into the experts that are attached, where their shape
is the same, and attaches others where it is not; the base stays.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import mlx.core as mx

from comigs_mlx.errors import ComigsError, ConfigError, is_out_of_memory
from comigs_mlx.inference import lean, prior, rerouting, scoring, steering
from comigs_mlx.inference.generation import Generation
from comigs_mlx.inference.prompt_cache import PromptCache
from comigs_mlx.inference.prompts import fitting
from comigs_mlx.inference.replies import (
    Message,
    ModelInfo,
    Progress,
    Scored,
    SpokenToken,
    Stopped,
    Watch,
)
from comigs_mlx.inference.settings import Settings
from comigs_mlx.model.base import Base, load_base
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.model.selection import Selection, usable
from comigs_mlx.options import ExpertOptions
from comigs_mlx.runs.description import base_model, expert_options, revision
from comigs_mlx.runs.folder import RunFolder

LOADING_STEPS = 3
"""Base model, its fingerprint, experts."""

NO_EXPERTS = ExpertOptions(generalists=1, specialists=0, rank=1, attention_lora=False)
"""Experts for a base model without a run: they never speak."""

UNWATCHED = Watch()


class LoadedRun:
    """Chooses, replies and scores; all on one thread, one at a time.

    Attributes:
        base: The base model in memory.
        info: What speaks now; None before `choose`, and after one that failed.
        prompts: What has been read, for the next turns.
        values: The digest of the experts' values; empty before a run was loaded.
    """

    def __init__(self, say: Callable[[str], None]):
        self.base: Base | None = None
        self.info: ModelInfo | None = None
        self._say = say
        self._mixture: Mixture | None = None
        self._fingerprint, self.values = "", ""
        self._signature: Hashable = None
        self.prompts = PromptCache()

    def choose(
        self, run: Path | None, model: str, best: bool, watch: Watch = UNWATCHED
    ) -> ModelInfo:
        """Take a run, as it is now, or a base model alone; see `ChatEngine.choose`."""
        folder, commit = None if run is None else RunFolder(run), None
        if folder is not None:
            info = folder.read_info()
            (model, _), commit = base_model(info), revision(info)
        signature = (run, model, best, folder and folder.signature())
        same = self.base is not None and self.base.is_still(model)
        if self.info is not None and same and signature == self._signature:
            return self.info
        self.info = None
        with _memory(self._forget):
            self._take(model, commit, watch)
            watch.step("loading", LOADING_STEPS - 1, LOADING_STEPS)
            step = 0 if folder is None else self._load_run(folder, best)
        watch.listen(Progress("loading", LOADING_STEPS, LOADING_STEPS))
        self.info = self._described(folder, best, step)
        self._signature = signature
        return self.info

    def _take(self, model: str, commit: str | None, watch: Watch) -> None:
        """Have this base in memory, and no other.

        Args:
            model: The base model's id.
            commit: The one of the Hub that a run was trained on, where it is known.
            watch: Told how far it is.
        """
        if self.base is None or not self.base.is_still(model):
            self._forget()

            def say(sentence: str) -> None:
                watch.step("loading", 0, LOADING_STEPS)
                self._say(sentence)

            base = load_base(model, say, commit)
            watch.step("loading", 1, LOADING_STEPS)
            self._fingerprint = base.fingerprint()
            self.base = base
        if self._mixture is None:
            self._attach(NO_EXPERTS)

    def _load_run(self, folder: RunFolder, best: bool) -> int:
        """Put a run's values into the experts; their training step."""
        base, mixture = self.ready()
        folder.check_base(base.id, self._fingerprint)
        options = expert_options(folder.read_info())
        if mixture.options != options.resolved():
            mixture = self._attach(options)
        step = folder.load_values(mixture, best)
        self.values = lean.values_digest(mixture)
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
        self.base = self.info = self._mixture = None
        self.prompts.clear()
        mx.clear_cache()

    def _described(self, folder: RunFolder | None, best: bool, step: int) -> ModelInfo:
        base, mixture = self.ready()
        chat = bool(base.tokenizer.has_chat_template)
        if folder is None:
            return ModelInfo(None, base.id, [], [], 0, ["base"], chat=chat)
        names, options = mixture.options.names, usable(mixture.options)
        said = (str(folder.path), base.id, names, mixture.layers, step, options, best)
        return ModelInfo(*said, chat=chat)

    def ready(self) -> tuple[Base, Mixture]:
        """The base and the mixture on it.

        Raises:
            ComigsError: If nothing was chosen.
        """
        if self.base is None or self._mixture is None:
            raise ComigsError("nobody to speak: choose a run or a base model first")
        return self.base, self._mixture

    def reply(
        self, messages: Sequence[Message], settings: Settings, watch: Watch
    ) -> Iterator[SpokenToken]:
        """Speak the next turn; see `ChatEngine.reply`."""
        settings.check()
        base, mixture = self.ready()
        selection = self._selection(settings.selection)
        settings = self.tilted(settings, messages, watch)
        prompt, left_out = self._fitting(messages, settings)
        told = replace(watch, listen=partial(_mention, watch.listen, left_out))
        with _memory(mx.clear_cache), mixture.selected(selection):
            kept = (self.prompts, self.speaker(selection))
            answer = Generation(base, mixture, prompt, settings, told, True, *kept)
            yield from answer if self._has_run() else _without_weights(answer)

    def left_out(self, messages: Sequence[Message], settings: Settings) -> int:
        """The oldest messages that do not fit; see `ChatEngine.left_out`."""
        settings.check()
        return self._fitting(messages, settings)[1]

    def _fitting(
        self, messages: Sequence[Message], settings: Settings
    ) -> tuple[list[int], int]:
        base, _ = self.ready()
        given = (base, messages, settings.system, settings.max_tokens)
        return fitting(*given, settings.template_args)

    def speaker(self, selection: Selection) -> Hashable:
        """What keys and values depend on besides the tilt; see `PromptCache`."""
        values = "" if selection == "base" else self.values
        return self._fingerprint, values, selection

    def tilted(
        self,
        settings: Settings,
        messages: Sequence[Message],
        watch: Watch = UNWATCHED,
    ) -> Settings:
        """The settings with all tilts that are asked for or that the run keeps.

        Lean and prior are looked up for each reply, as they may be calibrated while
        the run is open.

        Raises:
            ConfigError: If a base model without a run is to be tilted.
        """
        base, mixture = self.ready()
        assert self.info is not None
        if self.info.run is None:
            asked = (settings.lean, settings.tilt, settings.prior, settings.reroute)
            if any(asked):
                raise ConfigError(
                    "without a run there are no experts to lean to: choose one"
                )
            return settings
        folder, values = RunFolder(self.info.run), lambda: self.values
        settings = lean.with_kept(settings, folder, values)
        first = messages[0].get("content", "") if messages else ""
        with _memory(mx.clear_cache):
            speaking = (base, mixture, first, values)
            step = partial(_unless_stopped, watch)
            settings = prior.with_prior(settings, folder, *speaking, step=step)
            if not settings.reroute:
                return settings
            tokens = rerouting.context(base, messages, settings.pasted)
            return rerouting.rerouted(settings, mixture, tokens, step=step)

    def _has_run(self) -> bool:
        return self.info is not None and self.info.run is not None

    def _selection(self, wanted: Selection) -> Selection:
        """What to select; a base without a run speaks for itself."""
        if self.info is None:
            raise ComigsError("nobody to speak: choose a run or a base model first")
        if self.info.run is not None:
            return wanted
        if wanted in ("auto", "base"):
            return "base"
        raise ConfigError(f"there is no {wanted} without a run: choose a run, or base")

    def steer(
        self, settings: Settings, text: str, strength: float, watch: Watch = UNWATCHED
    ) -> Settings:
        """Settings that steer by a text; see `ChatEngine.steer`."""
        base, mixture = self.ready()
        if not self._has_run():
            raise ConfigError("without a run there are no experts to steer: choose one")
        step = partial(watch.step, "scoring")
        with _memory(mx.clear_cache):
            asked = (settings, base, mixture, text, strength)
            return steering.steered(*asked, say=self._say, step=step)

    def calibrate_lean(self, watch: Watch = UNWATCHED) -> lean.Kept:
        """Find the run's lean; see `ChatEngine.calibrate_lean`."""
        from comigs_mlx.inference import calibration
        from comigs_mlx.training.evaluation import Evaluator

        base, mixture = self.ready()
        if self.info is None or self.info.run is None:
            raise ConfigError(
                "without a run there are no experts to lean to: choose one"
            )
        folder, done = RunFolder(self.info.run), itertools.count(1)
        with _memory(mx.clear_cache):
            batches = calibration.validation(folder, base, self._say)
            total = len(batches) * lean.MOST_TRIALS
            watch.step("scoring", 0, total)
            kept, _ = calibration.find_lean(
                folder,
                Evaluator(mixture),
                batches,
                lambda value: watch.step("scoring", next(done), total),
            )
        return kept

    def score(
        self, text: str, selections: Sequence[str], watch: Watch = UNWATCHED
    ) -> Scored:
        """Read a text; see `ChatEngine.score`."""
        base, mixture = self.ready()
        chosen = {name: self._selection(name) for name in (*selections, "auto")}
        assert self.info is not None
        with _memory(mx.clear_cache):
            tokens = scoring.encode(base, text)
            read = scoring.read(mixture, tokens, chosen, watch)
        return scoring.scored(base, self.info, tokens, selections, read)


def _unless_stopped(watch: Watch, done: int, total: int) -> None:
    if watch.stop():
        raise Stopped


def _without_weights(tokens: Iterable[SpokenToken]) -> Iterator[SpokenToken]:
    """Of a base model alone, which nobody routes."""
    for token in tokens:
        yield replace(token, weights=[])


def _mention(
    listen: Callable[[Progress], None], left_out: int, progress: Progress
) -> None:
    listen(replace(progress, left_out=left_out))


@contextlib.contextmanager
def _memory(mend: Callable[[], None]) -> Iterator[None]:
    """Around work on arrays: what MLX says of memory becomes a sentence to act on."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        mend()
        raise ComigsError(
            "out of memory: close other programs, shorten the conversation, or choose "
            "a smaller or quantised base model"
        ) from error
