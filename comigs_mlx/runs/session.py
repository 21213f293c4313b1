"""Opens a session: makes a trainer in its run folder from a configuration."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from comigs_mlx.config import read_yaml, to_dict
from comigs_mlx.data.batches import (
    Batch,
    BatchSource,
    sampled_batches,
    training_batches,
)
from comigs_mlx.data.cache import TokenCache
from comigs_mlx.data.content import Content, naming_split, tokenised, tokens_digest
from comigs_mlx.data.identity import (
    content_digest,
    depends_on_date,
    tokenizer_identity,
)
from comigs_mlx.data.preview import Preview, described
from comigs_mlx.data.reading_progress import in_sentences
from comigs_mlx.data.splits import SPLITS, Sample, Splits, characters, load_splits
from comigs_mlx.errors import ConfigError, RunError
from comigs_mlx.messages import Note, Say, quiet
from comigs_mlx.model import params
from comigs_mlx.model.base import Base, load_base
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import TrainConfig
from comigs_mlx.platform import cpu_streams
from comigs_mlx.runs import (
    description,
    following,
    held_out,
    init_adapter,
    trained_secrets,
)
from comigs_mlx.runs.folder import RunFolder
from comigs_mlx.runs.gain import Gain
from comigs_mlx.runs.pausing import Pausing, of_this_machine
from comigs_mlx.runs.trained_secrets import TrainedSecrets
from comigs_mlx.training import checkpoint, memory_estimate, parallel
from comigs_mlx.training.fitting import check_texts
from comigs_mlx.training.level import ROUTER_ALONE, USUAL, Task
from comigs_mlx.training.records import Boundary, Pause, Report, Step
from comigs_mlx.training.trainer import Trainer

Stop = Callable[[], bool]
"""Tells whether the user wants the training to be saved and to end."""

LONG_TEXT = 20_000_000
"""The characters from which on looking for secrets takes seconds, and is said."""

CHANGES = {
    "data": "the text has changed since the run was saved",
    "lanes": "a batch is computed in another number of parts than the run's were",
}
"""The sentence for each thing that may change between a save and a resume."""


@dataclass
class Session:
    """A trainer at its position, its run folder, and what a save must agree with.

    Attributes:
        trainer: The trainer, ready to run.
        folder: The run folder, locked against other processes.
        identity: The base model, the shape of the experts, the digest of the text, and
            so on.
        documents: Maps each split to its number of documents.
        text: The preview of the text; None where a resumed run has the text it had.
        pausing: It says when to pause; None never pauses.
        held_out: Reads a sample of the test split, which no level sees.
    """

    trainer: Trainer
    folder: RunFolder
    identity: dict[str, Any]
    documents: dict[str, int] = field(default_factory=dict)
    text: Preview | None = None
    pausing: Pausing | None = None
    held_out: Callable[[], list[Batch]] = list

    def run(self, stop: Stop) -> Iterator[Step | Report | Boundary | Pause]:
        """Train, save when due, write metrics, and yield what happens.

        Args:
            stop: Is called at each boundary, and every second of a pause; if it
                returns true, training is saved and ends.
        """
        for event in self.trainer.run():
            if isinstance(event, Report):
                self.folder.add_metrics(event)
            stopping = isinstance(event, Boundary) and stop()
            pausing = isinstance(event, Boundary) and self._must_pause()
            if isinstance(event, Boundary) and (
                stopping or pausing or event.valid_loss is not None
            ):
                self.save(event)
            yield event
            if pausing and not stopping:
                yield from self._pause(stop)
                stopping = stop()
            if stopping:
                return

    def measure(self) -> Gain | None:
        """Note how well base and run predict text that nothing has learnt from.

        Returns:
            What training has gained; None where there is no such text.
        """
        gained = held_out.measure(self.trainer.evaluator, self.held_out())
        if gained is not None:
            self.folder.add_gain(self.trainer.position.step, gained)
        return gained

    def _must_pause(self) -> bool:
        """Tell whether to pause before the next step, if there is one."""
        if self.trainer.ended or self.pausing is None:
            return False
        return self.pausing.reason() is not None

    def _pause(self, stop: Stop) -> Iterator[Pause]:
        """Wait until the machine is fit again; the run has been saved."""
        assert self.pausing is not None
        step, began = self.trainer.position.step, self.pausing.clock()
        paused = False
        for reason in self.pausing.wait(stop):
            pause = Pause(step, reason)
            if not paused:
                self.folder.add_pause(pause)
            paused = True
            yield pause
        if paused and not stop():
            over = Pause(step, None, self.pausing.clock() - began)
            self.folder.add_pause(over)
            yield over

    def save(self, boundary: Boundary) -> None:
        """Save the run as it is at `boundary`."""
        self.folder.save(self.trainer, boundary, self.identity)
        self.trainer.evaluator.ranks.resend()

    def take_generalists(self) -> None:
        """Replace the generalists by those of the newest save, and nothing else."""
        values = checkpoint.load_values(checkpoint.latest(self.folder.states))
        generalists = {
            p: a for p, a in values.items() if params.role_of(p) == "generalist"
        }
        self.trainer.mixture.model.update(params.unflatten(generalists))

    def copy_generalists(self) -> bool:
        """Let fresh specialists begin as copies of the generalists, and save that.

        Specialist j becomes what generalist j modulo G is. The source is MHR-mu, Caccia
        et al., arXiv 2211.03831, which fine-tunes one adapter from the average of all.

        Returns:
            Whether they do. Specialists that have learnt something stay as they are, as
            do those of generalists that have not.
        """
        mixture = self.trainer.mixture
        values = params.flatten(params.select(mixture.model, params.ROLES))
        if has_learnt(values, "specialist") or not has_learnt(values, "generalist"):
            return False
        mixture.model.update(params.unflatten(copies(values)))
        self.save(Boundary(self.trainer.position.step, None))
        return True


def has_learnt(values: Mapping[str, mx.array], role: str) -> bool:
    """Tell whether an expert of a role changes anything: fresh ones have B = 0.

    Args:
        values: Maps a path in the model to its array.
        role: `generalist` or `specialist`; the attention LoRA is not counted.
    """
    return any(
        bool((array != 0).any().item())
        for path, array in values.items()
        if params.role_of(path) == role and array.ndim == 3 and path.endswith("lora_b")
    )


def copies(values: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Return the values of specialists that are copies of the generalists."""
    copied = {}
    for path, array in values.items():
        if params.role_of(path) == "specialist":
            names = ("generalist" if n == "specialist" else n for n in path.split("."))
            source = values[".".join(names)]  # [G, ...]
            copied[path] = source[mx.arange(array.shape[0]) % source.shape[0]]
    return copied


Check = Callable[[dict[str, Any]], None]
"""Takes what comigs.json will say; raises where the run must not begin."""


@contextlib.contextmanager
def session(
    config: TrainConfig,
    say: Say,
    check: Check = lambda info: None,
    ranks: parallel.Group = parallel.ALONE,
) -> Iterator[Session]:
    """Load and check everything, and only then write to the disk.

    Args:
        config: The configuration; `config.resume` continues a run.
        say: Receives a sentence before each step that takes time, and on what was
            noticed.
        check: Is called with comigs.json before anything is written; raises to prevent
            it.
        ranks: The processes that share each batch, which this one leads.

    Raises:
        ComigsError: If something does not fit; nothing has been written then.
    """
    folder = RunFolder(config.folder)
    if config.resume:
        folder.check_resumable()
    else:
        folder.check_new()
    opening = _opened(config, folder, say, check, ranks)
    with memory_estimate.limits(config.memory_limit), opening as opened:
        yield opened


@contextlib.contextmanager
def _opened(
    config: TrainConfig,
    folder: RunFolder,
    say: Say,
    check: Check,
    ranks: parallel.Group,
) -> Iterator[Session]:
    if (reason := ranks.needs(config.data.batch_size)) is not None:
        raise ConfigError(reason)
    splits = load_splits(config.data.data, in_sentences(say), config.data.reading)
    for note in splits.notes:
        say(Note(note))
    base = load_base(config.model, say, _revision(folder) if config.resume else None)
    if (warning := memory_estimate.too_low(config.memory_limit)) is not None:
        say(Note(warning))
    fingerprint = base.fingerprint()
    mixture = Mixture(base.model, config.experts, config.training.seed)
    info = description.describe(mixture, base.id, fingerprint, base.revision)
    check(info)
    following.lead_training(ranks, config, info)
    if config.init_adapter is not None and not _is_saved(config, folder):
        shared = config.sharing.federation is not None
        init_adapter.begin(
            mixture, base, config.init_adapter, config.init_as, shared, say
        )
    read = {"train": splits.train, "valid": splits.valid}
    texts = contents(config, base, read, splits.kind, say)
    trainer = make_trainer(config, mixture, texts, say, _task(config), ranks)
    for note in memory_estimate.plan(mixture, _work(config, trainer)).notes(
        config.memory_limit
    ):
        say(note)
    digest = _digest(splits)
    identity = {
        "base_model": fingerprint,
        "experts": to_dict(mixture.options),
        "data": digest,
        "tokens": tokens_digest(texts.values()),
        "tokenizer": tokenizer_identity(base.tokenizer, splits.kind != "text"),
        "lanes": _parts(config.data.batch_size, ranks),
    }
    documents = {name: len(getattr(splits, name)) for name in SPLITS}
    text = _described(config, folder, digest, splits, texts, say)
    ranks.agree()
    with folder.in_use():
        if not config.resume:
            folder.check_new()  # another process may have begun and ended meanwhile
        else:
            dated = splits.kind != "text" and depends_on_date(base.tokenizer)
            _restore(trainer, folder, identity, dated, say)
        folder.tidy(config.saving.keep)
        resumable = dataclasses.replace(config, resume=False)
        about = base.id, fingerprint, base.revision, base.licence.name
        folder.create(resumable, mixture, *about)
        if trainer.position.step:  # the process may have been killed before this
            folder.write_experts(mixture, trainer.position.step)
        if text is not None:
            counts = TrainedSecrets(digest, text.trained_secrets, text.redacted)
            trained_secrets.add(folder.path, counts)
        pausing = of_this_machine(config.mac)
        test = functools.partial(_held_out, config, base, splits)
        following.begin(ranks, trainer)
        yield Session(trainer, folder, identity, documents, text, pausing, test)


def _held_out(config: TrainConfig, base: Base, splits: Splits) -> list[Batch]:
    """Return the batches of test text that a finished training is measured on."""
    found = {"test": splits.test} if splits.test else {}
    content = contents(config, base, found, splits.kind, quiet).get("test")
    return held_out.sample(content, config.data.seq_len, config.data.batch_size)


def _described(
    config: TrainConfig,
    folder: RunFolder,
    digest: str,
    splits: Splits,
    texts: Mapping[str, Content],
    say: Say,
) -> Preview | None:
    """Look at what the text holds, unless the run was trained on that very text."""
    known = trained_secrets.read(folder.path)
    if config.resume and known is not None and known.data == digest:
        return None
    size = sum(characters(s) for name in SPLITS for s in getattr(splits, name))
    if size > LONG_TEXT:
        say(f"looking for secrets and duplicates in {size:,} characters")
    return described(splits, texts, thorough=False)


def _is_saved(config: TrainConfig, folder: RunFolder) -> bool:
    """Tell whether the run's own values will take the place of the initial ones."""
    return config.resume and bool(checkpoint.saves(folder.states))


def _revision(folder: RunFolder) -> str | None:
    """Return the commit of the run's base model; a lacking description is made anew."""
    with contextlib.suppress(RunError):
        return description.revision(folder.read_info())
    return None


def _task(config: TrainConfig) -> Task:
    """Return what the lower level of a run trains.

    Raises:
        ConfigError: If the router alone is to learn, and there is nothing to route.
    """
    if not config.sharing.join:
        return USUAL
    if config.experts.experts < 2:
        raise ConfigError(
            "--join trains the router alone, and there is nothing to route with one "
            "expert: raise --specialists"
        )
    return ROUTER_ALONE


def make_trainer(
    config: TrainConfig,
    mixture: Mixture,
    texts: Mapping[str, Content],
    say: Say,
    task: Task = USUAL,
    ranks: parallel.Group = parallel.ALONE,
) -> Trainer:
    """Make the trainer of a mixture: train text for experts, valid text for routers.

    Args:
        config: The configuration of the training.
        mixture: The mixture, attached to the base model that the texts were tokenised
            for.
        texts: The tokens of train and valid.
        say: Receives a sentence on what to expect of the batches.
        task: The task that says what the experts' level trains, and how.
        ranks: The processes that share each batch.

    Raises:
        DataError: If a split is too small, or nothing in it can be learned from.
    """
    data, seed = config.data, config.training.seed

    def source(name: str, seed: int) -> BatchSource:
        with naming_split(name):
            batches, notes = training_batches(
                texts[name],
                seq_len=data.seq_len,
                batch_size=data.batch_size,
                seed=seed,
                packing=data.packing,
            )
        for note in notes:
            say(Note(f"{name}: {note}"))
        return batches

    train, router_train = source("train", 2 * seed), source("valid", 2 * seed + 1)
    count = config.saving.valid_batches
    valid = sampled_batches(texts["valid"], data.seq_len, data.batch_size, count)
    sources = train, router_train, valid
    return Trainer(mixture, *sources, config.training, config.saving, task, ranks)


def _parts(rows: int, ranks: parallel.Group) -> int | list[int]:
    """Return what a batch is divided into: streams here, or rows of each process."""
    if ranks.size == 1:
        return cpu_streams.count(rows)
    shares = (ranks.rows(rows, rank) for rank in range(ranks.size))
    return [share.stop - share.start for share in shares]


def _work(config: TrainConfig, trainer: Trainer) -> memory_estimate.Work:
    """Describe the longest batches: conversations may all be shorter than allowed.

    Routers learn from validation text, which may be longer than the training text.
    """
    training, seq_len = config.training, config.data.seq_len
    sources = [trainer.train, *([trainer.router_train] if trainer.routers else [])]
    lengths = (max(getattr(s, "lengths", {}), default=seq_len) for s in sources)
    return memory_estimate.Work(
        batch_size=-(-config.data.batch_size // trainer.evaluator.ranks.size),
        seq_len=max(lengths),
        checkpoint=training.grad_checkpoint,
        accumulation=training.grad_accumulation,
        optimizer=training.optimizer,
        measured=max((batch.mask.shape[1] for batch in trainer.valid), default=0),
    )


def contents(
    config: TrainConfig,
    base: Base,
    splits: Mapping[str, Sequence[Sample]],
    kind: str,
    say: Say,
) -> dict[str, Content]:
    """Tokenise splits as training reads them, each once.

    Args:
        config: The configuration of the training.
        base: The base model with its tokenizer.
        splits: Maps a split to its samples.
        kind: The kind of the samples.
        say: Receives a sentence on each thing that was noticed.
    """
    data = config.data
    cache = TokenCache.of_user(say) if data.token_cache else None
    found = {}
    for name, samples in splits.items():
        found[name], notes = tokenised(
            samples,
            kind,
            base.tokenizer,
            seq_len=data.seq_len,
            mask_prompt=data.mask_prompt,
            cache=cache,
            say=say,
            split=name,
        )
        for note in notes:
            say(Note(f"{name}: {note}"))
    for note in check_texts(base, found, data.seq_len):
        say(Note(note))
    return found


def _restore(
    trainer: Trainer,
    folder: RunFolder,
    identity: dict[str, Any],
    dated: bool,
    say: Say,
) -> None:
    """Go to the newest save, or stay at the beginning where there is none yet.

    Args:
        trainer: The trainer, which has made no step yet.
        folder: The folder of the run, which is locked.
        identity: The values that the run must have in common with its save. Saves of
            version 0.1 hold none for tokens and streams.
        dated: Whether the tokens change from day to day by themselves.
        say: Receives a sentence on where training goes on, and on what keeps it from
            being exact.

    Raises:
        RunError: If the save is damaged or does not belong to this base and text.
    """
    if not checkpoint.saves(folder.states):
        folder.cut_metrics(0)
        say("nothing was saved yet: starting from the beginning")
        return
    newest = checkpoint.latest(folder.states)
    options = read_yaml(folder.config)
    fixed = {key: identity[key] for key in ("base_model", "experts")}
    stored = {**identity, **checkpoint.restore(trainer, newest, fixed, options)}
    changed = {key for key in identity if stored[key] != identity[key]}
    by_itself = dated and "tokenizer" not in changed
    if "tokens" in changed and "data" not in changed and not by_itself:
        raise RunError(
            f"{folder.path} was saved with other tokens for the same text: the base "
            "model's tokenizer or chat template has changed; put the old one back, or "
            "start a new run with another --run"
        )
    for key in sorted(changed & CHANGES.keys()):
        say(Note(f"{CHANGES[key]}: training goes on, not bit for bit as it would have"))
    if options.get("grad_checkpoint", False) != trainer.options.grad_checkpoint:
        say(Note("--grad-checkpoint has changed: training goes on, but for rounding"))
    if (note := _rate_note(trainer)) is not None:
        say(Note(note))
    if trainer.position.best is None and (best := folder.best()) is not None:
        trainer.position.best = best[1]  # of a save that does not know it
    folder.cut_metrics(trainer.position.step)
    say(f"resuming at step {trainer.position.step}, from {newest}")


def _rate_note(trainer: Trainer) -> str | None:
    """Tell how the learning rate goes on, where the number of steps has changed."""
    schedule, step = trainer.schedule, trainer.position.step
    over = step >= trainer.options.steps
    if not step or schedule.first != step or over or schedule.kind == "constant":
        return None
    rate = trainer.options.learning_rate
    return (
        f"the number of steps has changed: the learning rate goes on from "
        f"{rate * schedule.share:.3g} and ends at {rate / 10:.3g} in step "
        f"{schedule.last}; --learning-rate sets another"
    )


def _digest(splits: Splits) -> str:
    """Return the SHA-256 of the samples of all splits."""
    parts = [splits.kind, *(content_digest(getattr(splits, name)) for name in SPLITS)]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()
