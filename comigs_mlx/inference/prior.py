"""A lean that each prompt brings along: towards me, the more it is like my own text.

    e(text) = mean over tokens of the last norm's output, of the base model alone
    lean(text) = scale (cos(e(text), mu_S) - cos(e(text), mu_0))

mu_S is the mean of e over windows of the private training text, mu_0 over those of
generic text (`windows.generic`). Source: the global router of Glider (Li et al., arXiv
2410.07172), which adds scale * cos(embedding of the query's instruction, the expert's)
to the local logits. What differs here: no language model writes instructions and no
second model embeds them; there is one number for all specialists, as their texts are
one person's; generic text stands for the generalists.

The scale is found on validation text: the first half of a window is the prompt, and the
loss is that of the second half. A conversation's prompt is its first message, so that
every turn has the same tilt and nothing is read twice. All is kept in

    RUN/prior.json   {"format_version", "values", "scale", "mine", "generic", "loss",
                      "loss_without", "tokens"}

and stays on the device, as `mine` (mu_S) comes from private text. `values` is the
digest of the experts and routers that the scale was found for.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from comigs_mlx import json_files
from comigs_mlx.data.batches import Batch
from comigs_mlx.errors import ConfigError, DataError, RunError, reading
from comigs_mlx.files import write_json
from comigs_mlx.inference import lean, tilts, windows
from comigs_mlx.inference.lean import MOST_TRIALS as MOST_TRIALS
from comigs_mlx.inference.lean import Trial
from comigs_mlx.inference.settings import MOST_LEAN, MOST_PRIOR, Settings
from comigs_mlx.messages import Note, Say, quiet
from comigs_mlx.model.base import Base
from comigs_mlx.model.embedding import Vector, embedded
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.runs.place import Place
from comigs_mlx.training.evaluation import Evaluator

FILE = "prior.json"
FORMAT = 1

TRAINING_WINDOWS = 64
"""Windows of the training text that make mu_S, at least."""


@dataclass(frozen=True)
class Centres:
    """What texts are compared with.

    Attributes:
        mine: mu_S, the mean of e over the private training text, `[dims]`.
        generic: mu_0, the same of generic text.
    """

    mine: Vector
    generic: Vector

    def nearness(self, vector: Vector) -> float:
        """How much more like mine than like generic text an e is, -2 to 2."""
        return cosine(vector, self.mine) - cosine(vector, self.generic)


@dataclass(frozen=True)
class Kept:
    """The prior that a run keeps.

    Attributes:
        values: The digest of the experts and routers that the scale was found for.
        scale: The factor of the nearness; 0 where none was found to help.
        centres: The vectors that prompts are compared with.
    """

    values: str
    scale: float
    centres: Centres


def cosine(one: Vector, other: Vector) -> float:
    """The cosine of the angle between two vectors."""
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def of_windows(
    mixture: Mixture,
    texts: Sequence[mx.array],
    step: windows.Step = windows.nothing,
) -> Vector:
    """e of the tokens of all windows `[1, tokens]` together: `[dims]`."""
    vectors = [
        embedded(mixture, text, np.ones(text.shape, np.float32))
        for text in windows.watched(texts, step)
    ]
    sizes = [text.size for text in texts]
    return np.average(np.concatenate(vectors), axis=0, weights=sizes)


def of_batches(
    mixture: Mixture, batches: Sequence[Batch], step: windows.Step = windows.nothing
) -> Vector:
    """The mean of e over the rows of batches that have anything to predict."""
    vectors = []
    for done, batch in enumerate(batches):
        step(done, len(batches))
        used = batch.mask.sum(1) > 0
        tokens, mask = batch.tokens[used, :-1], batch.mask[used]
        if used.any():
            vectors.append(embedded(mixture, mx.array(tokens), mask))
    if not vectors:
        raise DataError("there is nothing to compare prompts with: train is empty")
    return np.concatenate(vectors).mean(0)


class PromptWindows:
    """Validation windows whose first half is a prompt, to find the scale on.

    Attributes:
        unit: The root mean square of the prompts' nearness.
    """

    def __init__(
        self, evaluator: Evaluator, centres: Centres, batches: Sequence[Batch]
    ):
        """Compare all prompts with the centres.

        Args:
            evaluator: The evaluator of the mixture.
            centres: The vectors that prompts are compared with.
            batches: The batches of validation text.

        Raises:
            DataError: If no window is long enough for a prompt and what follows.
        """
        self._evaluator = evaluator
        self._parts: list[tuple[Batch, Vector]] = []
        squares, rows = 0.0, 0
        for batch in batches:
            if (part := self._divided(batch, centres)) is None:
                continue
            self._parts.append(part)
            squares += float((part[1] ** 2).sum())
            rows += int((part[0].mask.sum(1) > 0).sum())
        if not rows:
            raise DataError(
                "valid: no window has a prompt and a rest to find the prior on: "
                "raise --seq-len, or give more text"
            )
        self.unit = math.sqrt(squares / rows)

    def _divided(self, batch: Batch, centres: Centres) -> tuple[Batch, Vector] | None:
        half = batch.mask.shape[1] // 2
        mask = batch.mask.copy()
        mask[:, :half] = 0
        if not half or not mask.any():
            return None
        prompts = mx.array(batch.tokens[:, :half])
        vectors = embedded(
            self._evaluator.mixture, prompts, np.ones(prompts.shape, np.float32)
        )
        near = np.array([centres.nearness(vector) for vector in vectors], np.float32)
        near[mask.sum(1) == 0] = 0
        return batch._replace(mask=mask), near

    def loss(
        self, scale: float, rows: tilts.Values, advance: Callable[[], None]
    ) -> tuple[float, int]:
        """The mean loss of what follows the prompts, in nats a token, and their tokens.

        Args:
            scale: The factor of each prompt's nearness.
            rows: The tilt `[layers, E]` that is there besides.
            advance: Is called after each batch.
        """
        one = tilts.lean_rows(self._evaluator.mixture, 1.0)
        total, tokens = 0.0, 0
        for batch, near in self._parts:
            leans = np.clip(scale * near, -MOST_LEAN, MOST_LEAN)
            tilt = leans[:, None, None, None] * one + rows  # [B, 1, layers, E]
            score = self._evaluator.score([batch], "auto", tilts.as_input(tilt))
            total += score.loss * score.token_count
            tokens += score.token_count
            advance()
        return total / tokens, tokens

    def __len__(self) -> int:
        return len(self._parts)


def search(
    parts: PromptWindows, rows: tilts.Values, advance: Callable[[], None]
) -> tuple[list[Trial], int]:
    """Try scales as `lean.search` tries leans; `Trial.lean` is the scale.

    A lean of 1 there is here a scale with which prompts lean by 1, root mean square.

    Returns:
        All trials, and the tokens that each was measured on.
    """
    tokens = 0

    def loss(leaning: float) -> float:
        nonlocal tokens
        found, tokens = parts.loss(leaning / parts.unit, rows, advance)
        return found

    trials = lean.search(loss)
    return [Trial(one.lean / parts.unit, one.loss) for one in trials], tokens


def keep(
    folder: Place,
    mixture: Mixture,
    centres: Centres,
    trials: Sequence[Trial],
    tokens: int,
) -> Kept:
    """Write centres, and the best scale of some trials, into a run's folder.

    A scale below 0 would lean away from me where a prompt is like my text: it is
    never kept.
    """
    best = lean.best([trial for trial in trials if trial.lean >= 0])
    without = next(trial.loss for trial in trials if not trial.lean)
    kept = Kept(lean.values_digest(mixture), best.lean, centres)
    content = {
        "format_version": FORMAT,
        "values": kept.values,
        "scale": kept.scale,
        "mine": centres.mine.astype(float).tolist(),
        "generic": centres.generic.astype(float).tolist(),
        "loss": best.loss,
        "loss_without": without,
        "tokens": tokens,
    }
    write_json(folder.path / FILE, content)
    return kept


def read(folder: Place) -> Kept | None:
    """Read a run's prior; None if it keeps none.

    Raises:
        RunError: If the file is damaged or of another format version.
    """
    file = folder.path / FILE
    if not file.exists():
        return None
    advice = "make it again with comigs_mlx.evaluate --calibrate-prior, or remove it"
    found = json_files.read(file, RunError, advice, FORMAT)
    with reading(file, RunError, advice):
        vectors = [np.array(found[name], np.float32) for name in ("mine", "generic")]
        kept = Kept(str(found["values"]), float(found["scale"]), Centres(*vectors))
        shapes = {vector.shape for vector in vectors}
        whole = len(shapes) == 1 and vectors[0].ndim == 1
        if not whole or not np.isfinite(vectors).all():
            raise ValueError("no two vectors of the same length")
        if not abs(kept.scale) <= MOST_PRIOR:
            raise ValueError(f"the scale is {kept.scale:g}")
    return kept


def with_prior(
    settings: Settings,
    folder: Place,
    base: Base,
    mixture: Mixture,
    text: str,
    values: Callable[[], str],
    say: Say = quiet,
    step: windows.Step = windows.nothing,
) -> Settings:
    """The settings with what the first message of a conversation brings along.

    Args:
        settings: The settings that were asked for; `prior` is the scale, and None
            takes the kept one.
        folder: The run that speaks.
        base: The model of the mixture, and its tokenizer.
        mixture: The mixture, attached.
        text: The first message; one that is too short to tell anything brings nothing.
        values: Gives the digest of the values that speak; is called only if needed.
        say: Receives a sentence where it leans, or what is kept cannot be used.
        step: Is called with the number of windows read and of all; may raise.

    Raises:
        ConfigError: If a scale is asked for and the run keeps no centres.
    """
    if settings.prior == 0 or settings.selection != "auto":
        return settings
    if (kept := read(folder)) is None:
        if settings.prior is None:
            return settings
        raise ConfigError(
            f"the run keeps no {FILE}: make it with comigs_mlx.evaluate "
            "--calibrate-prior"
        )
    scale = kept.scale if settings.prior is None else settings.prior
    if settings.prior is None and scale and kept.values != values():
        say(
            Note(
                f"{FILE} was made for other values of the experts and is not used: "
                "make it again with comigs_mlx.evaluate --calibrate-prior"
            )
        )
        return settings
    leaning = scale * _nearness(kept, base, mixture, text, step) if scale else 0.0
    if not leaning:
        return settings
    say(Note(f"the prompt leans by {leaning:+.2f} (--prior 0 turns it off)"))
    total = min(max((settings.lean or 0.0) + leaning, -MOST_LEAN), MOST_LEAN)
    return dataclasses.replace(settings, lean=total)


def _nearness(
    kept: Kept, base: Base, mixture: Mixture, text: str, step: windows.Step
) -> float:
    try:
        texts = windows.of_text(base, text, "the prompt")
    except ConfigError:  # too short
        return 0.0
    vector = of_windows(mixture, texts, step)
    if vector.shape != kept.centres.mine.shape:
        raise RunError(f"{FILE} is not of this base model: remove it")
    return kept.centres.nearness(vector)
