"""The Train tab: text in, a training process, and how it goes."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from comigs_mlx.config import from_dict, leaves
from comigs_mlx.data import sufficiency
from comigs_mlx.data.preview import Preview, preview
from comigs_mlx.errors import (
    ComigsError,
    ConfigError,
    DataError,
    RunError,
    TooLittleText,
    UnknownReader,
)
from comigs_mlx.federation.participant import membership
from comigs_mlx.files import replacing_dir
from comigs_mlx.model import catalogue
from comigs_mlx.options import DataOptions, Reading, TrainConfig
from comigs_mlx.runs import estimate, gain, listing, process
from comigs_mlx.runs.place import Place, is_locked

from .. import render, text_report, training, words
from ..model_queue import ModelQueue
from ..remedies import Mendable
from . import runs

NAME = re.compile(r"[^\W_](?:[\w -]{0,62}[\w-])?")
"""Names a new run may have: nothing that leads out of the folder of runs."""

OPTIONS = (
    "steps",
    "batch_size",
    "seq_len",
    "rank",
    "specialists",
    "generalists",
    "top_k",
    "learning_rate",
    "router_every",
    "router_steps",
    "save_every",
    "report_every",
    "seed",
    "mask_prompt",
    "grad_checkpoint",
)
"""Options of train on the page; the others keep their defaults."""

BATCH, LENGTH = DataOptions().batch_size, DataOptions().seq_len
"""Sequences in a batch, and tokens in one of them, where nobody chooses."""

PLANS = {"short": "Short", "normal": "Normal", "long": "Long"}
"""How long to learn, and its name on the page."""

ALONE, SENDING, TAKING = "alone", "sending", "taking"
"""With whom a run learns: nobody, or a federation that it sends to or only takes from.
"""

ROUND = 20
"""Steps between two contributions to a federation."""

SHAPE = ("model", "rank", "generalists")
"""Options that a federation decides for everybody in it."""

MEASURING = 3.0
"""Seconds that the page waits for this machine's speed."""

MOST_SPEAKERS = 12
"""Speakers of a text that can be chosen from."""

MOST_NAME = 100
"""Bytes of a run's name: file systems take 255, and saves add to it."""

UPLOADS = ".uploads"
"""Where uploaded files are kept, in the folder of runs: a resume reads them again."""


@dataclass(frozen=True)
class Checked:
    """What a text is.

    Attributes:
        html: The same for people.
        tokens: How much of it is learnt; 0 where that is not known yet.
        speakers: Those to choose oneself from, where nothing tells who the reader is.
        secrets: Whether passwords, keys or card numbers were found.
    """

    html: str
    tokens: int = 0
    speakers: Sequence[tuple[str, str]] = ()
    secrets: bool = False


@dataclass(frozen=True)
class Plan:
    """How long to learn: a label of two lines, and the steps."""

    label: str
    steps: int


@dataclass(frozen=True)
class TrainingStatus:
    """How a training stands: HTML of each part.

    Attributes:
        card: How far it is, and what it brought.
        curves: The numbers, drawn.
        log: What it printed.
        running: Whether it goes on.
        usable: Whether it can be talked to.
        ended: Whether it came to its end.
    """

    card: str
    curves: str = ""
    log: str = ""
    running: bool = False
    usable: bool = False
    ended: bool = False


class TrainActions:
    """What the Train tab does.

    Args:
        folder: Holds the runs.
        local: Whether only this machine can reach the page; else no path on it is read.
        model_queue: Its model's tokenizer counts tokens.
    """

    def __init__(self, folder: Path, local: bool, model_queue: ModelQueue):
        self.folder, self.local, self.model_queue = folder, local, model_queue
        self._speed: float | None = None

    def data(self, path: Any, files: Sequence[str] | None) -> str:
        """What to learn from, as train's --data.

        Raises:
            ComigsError: If it cannot be.
        """
        text = str(path or "").strip()
        if files and text:
            raise DataError(
                "There are files and a path: remove the files, or clear the path, so "
                "that it is clear what is learned from."
            )
        if files:
            return str(self._keep([Path(file) for file in files]))
        if not text:
            raise DataError("Name a folder or file, or add files.")
        known = text == "demo" or text.startswith("demo:")
        if not self.local and not known:
            raise DataError(
                "This page can be reached from other machines: add files instead of a "
                "path, or use demo."
            )
        return text if known else str(typed(text))

    def waiting(self) -> str:
        """HTML that says how many are served before; empty for none."""
        return render.waiting(self.model_queue.queue)

    def check(
        self,
        path: Any,
        files: Sequence[str] | None,
        me: Sequence[str] = (),
        redact: Any = False,
    ) -> Checked:
        """Say what a text is, and whether it is enough.

        Args:
            path: The folder or file that was typed.
            files: The files that were added in its place.
            me: The reader's names in mail and chats.
            redact: Whether secrets are replaced.

        Raises:
            ComigsError: If it cannot be learnt from.
        """
        data = self.data(path, files)
        reading = Reading(me=tuple(me), redact=bool(redact))
        counting = self.model_queue.submit(
            "Reading the text",
            lambda engine: preview(data, engine.tokenizer, reading=reading),
        )
        try:
            with self._plainly():
                found = counting.result()
        except UnknownReader as error:
            told = text_report.WHO
            return Checked(f'<p class="cm-headline">{told}</p>', speakers=_who(error))
        tokens = learnt(found)
        steps = sufficiency.enough_for(tokens, BATCH, LENGTH)
        shown = text_report.report(found, steps, self._plain)
        return Checked(shown, tokens, secrets=bool(found.secrets or found.redacted))

    def start(
        self, name: Any, path: Any, files: Sequence[str] | None, options: dict[str, Any]
    ) -> str:
        """Begin a new run; returns its name.

        Raises:
            ComigsError: If the name, the data or an option cannot be.
        """
        run = self._new(name)
        values = {**options, "data": self.data(path, files)}
        values = {key: values[key] for key in values if not _ruled(key, values)}
        if not values.get("federation"):  # else its rounds say more, in `process`
            from_dict(TrainConfig, {**values, "run": str(run)})
        process.start(run, values)
        return run.name

    def resume(self, name: Any, steps: Any) -> None:
        """Go on with a run, to `steps` in all where that is given."""
        options: dict[str, Any] = {"resume": True}
        if steps:
            options["steps"] = int(steps)
        process.start(self.run(name), options)

    def stop(self, name: Any) -> None:
        """Have a run saved and ended."""
        process.stop(self.run(name))

    def run(self, name: Any) -> Path:
        """The folder of a run that exists.

        Raises:
            ConfigError: If there is none.
        """
        if name in self.names():
            return self.folder / str(name)
        raise ConfigError("Choose a run first.")

    def names(self) -> list[str]:
        """Every run, also one that has only just begun; the newest first."""
        if not self.folder.is_dir():
            return []
        found = [
            p for p in self.folder.iterdir() if p.is_dir() and NAME.fullmatch(p.name)
        ]
        return [p.name for p in sorted(found, key=lambda p: -p.stat().st_mtime)]

    def current(self) -> str | None:
        """The run to show when the page is loaded: one that trains, else the newest."""
        names = self.names()
        for name in names:
            if process.state(self.folder / name).running:
                return name
        return names[0] if names else None

    def standing(self, name: Any) -> TrainingStatus:
        """How a run stands."""
        if name not in self.names():
            return TrainingStatus(render.note("No training yet."))
        run = self.folder / str(name)
        state, metrics = process.state(run), listing.metrics(run)
        entry = listing.entry(run)
        usable = entry.problem is None and entry.step is not None
        return TrainingStatus(
            self._plain(training.card(str(name), state, metrics, gain.read(run))),
            training.drawn(metrics),
            self._plain(training.log(state)),
            running=state.running,
            usable=usable,
            ended=usable and not state.running and state.problem is None,
        )

    def ended(self, before: Sequence[str]) -> tuple[list[str], list[str]]:
        """Which trainings go on now, and a sentence for each that has ended.

        Args:
            before: Names of those that went on at the last look.
        """
        now = [n for n in self.names() if is_locked(self.folder / n / process.LOCK)]
        over = [name for name in before if name not in now and name in self.names()]
        return now, [self._end(name) for name in over]

    def _end(self, name: str) -> str:
        state = process.state(self.folder / name)
        if state.problem is None:
            return f"{training.title(name, state)}: you can talk to it."
        return f"{training.title(name, state)}: {words.page(state.problem)}"

    def free_name(self) -> str:
        """A name that no run has yet: mine, mine 2, ..."""
        taken = {name.casefold() for name in self.names()}
        names = (f"mine {number}" for number in itertools.count(2))
        return next(n for n in itertools.chain(["mine"], names) if n not in taken)

    def usual_model(self, model: str) -> str:
        """The base that was used last, else `model`: its experts can be compared."""
        for name in self.names():
            if (base := listing.entry(self.folder / name).base_id) is not None:
                return base
        return model

    def federation(self) -> tuple[str, str]:
        """Where a run takes part already, and its name there; empty for nowhere."""
        for name in self.names():
            with contextlib.suppress(ComigsError):
                if (record := membership.read(self.folder / name)) is not None:
                    return record.uri, record.participant or ""
        return "", ""

    def plans(self, tokens: int, options: dict[str, Any]) -> dict[str, Plan]:
        """How long it can learn: by name, with what each takes.

        Args:
            tokens: What is learnt of the text.
            options: Those of the page.
        """
        config = from_dict(TrainConfig, options)
        shape = (config.data.batch_size, config.data.seq_len)
        made = {}
        for plan in sufficiency.plans(tokens, *shape):
            seconds, _ = self._seconds({**options, "steps": plan.steps})
            about = "" if seconds is None else f"about {render.roughly(seconds)} · "
            times = max(round(plan.passes), 1)
            reads = "once" if times == 1 else f"{times:,} times"
            part = "reads a part of your text" if plan.passes < 0.9 else ""
            text = f"{about}{plan.steps:,} steps · {part or f'reads your text {reads}'}"
            label = f"{PLANS[plan.name]}\n{text}"
            made[plan.name] = Plan(label, plan.steps)
        return made

    def estimate(self, options: dict[str, Any], need: str) -> str:
        """Time and memory of a training: HTML.

        Args:
            options: Those of the page.
            need: What is known of its memory already.
        """
        config = from_dict(TrainConfig, options)
        seconds, known = self._seconds(options)
        steps = f"{config.training.steps:,} steps"
        if seconds is None:
            time = f"{steps}. How long they take is told after the first of them"
        else:
            time = f"{steps} take about {render.roughly(seconds)}, by {known}"
        memory = f" Learning {need}." if need else ""
        return unrouted(config) + render.note(f"{time}.{memory}")

    def _seconds(self, options: dict[str, Any]) -> tuple[float | None, str]:
        """How long a training takes, by what was measured here, else by a guess."""
        config = from_dict(TrainConfig, options)
        paths = [entry.path for entry in runs.entries(self.folder)]
        measured, known = estimate.seconds(config, paths)
        if measured is not None:
            return measured, known
        return self._guess(config), "a rough guess: it has learnt nothing here yet"

    def _guess(self, config: TrainConfig) -> float | None:
        """The time of a first training; None where nothing can be said."""
        from comigs_mlx.training import peak_memory, speed_estimate

        model = catalogue.here(config.model)
        found = model and peak_memory.described(model.config, model.size)
        if not found:
            return None
        if self._speed is None:
            measuring = self.model_queue.submit(
                "Measuring this machine", lambda engine: speed_estimate.device_speed()
            )
            try:
                self._speed = measuring.result(timeout=MEASURING)
            except futures.TimeoutError:  # an answer is under way, and goes first
                return None
        tokens = estimate.tokens(config)
        return speed_estimate.seconds(found, config, tokens, self._speed)

    def _new(self, name: Any) -> Path:
        name = unicodedata.normalize("NFC", str(name or "")).strip()
        if not NAME.fullmatch(name) or len(name.encode()) > MOST_NAME:
            raise Mendable(
                "A run's name has letters, digits, blanks, - and _, begins with one of "
                "the first two, and is not long.",
                "name",
            )
        run = self.folder / name
        try:
            Place(run).check_new()
        except RunError:
            raise Mendable(
                f"There is a run named {run.name}: choose another name.", "name"
            ) from None
        return run

    def _plain(self, text: str) -> str:
        """A text that names no hidden folder: uploads are the reader's files."""
        where = re.escape(str(self.folder / UPLOADS))
        return re.sub(rf"{where}/[0-9a-f]{{16}}(?=\W|$)", "your files", text)

    @contextlib.contextmanager
    def _plainly(self) -> Iterator[None]:
        """Errors inside name no hidden folder."""
        try:
            yield
        except ComigsError as error:
            if isinstance(error, TooLittleText):
                raise DataError(text_report.TOO_LITTLE) from error
            plain = self._plain(str(error))
            if plain == str(error):
                raise
            raise type(error)(plain) from error

    def _keep(self, files: Sequence[Path]) -> Path:
        """Uploaded files as a folder of their own, the same for the same content."""
        digest = hashlib.sha256()
        placed = list(_placed(files))
        for place, file in placed:
            digest.update(place.encode() + b"\0" + file.read_bytes())
        target = self.folder / UPLOADS / digest.hexdigest()[:16]
        if not target.is_dir():
            with replacing_dir(target) as temporary:
                for place, file in placed:
                    (temporary / place).parent.mkdir(exist_ok=True)
                    shutil.copyfile(file, temporary / place)
        return target


def _placed(files: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """Uploads with their places; a folder's files may have a name twice.

    A browser tells the names of files and no folders: the second file of a name goes
    into a folder 2, the third into 3.
    """
    seen: Counter[str] = Counter()
    by_content = [(file.name, file.read_bytes(), file) for file in files]
    for name, _, file in sorted(by_content, key=lambda one: one[:2]):
        key = name.casefold()
        seen[key] += 1
        yield (name if seen[key] == 1 else f"{seen[key]}/{name}"), file


def _ruled(key: str, values: Mapping[str, Any]) -> bool:
    """Whether an option is the federation's, and not the run's own.

    A base model in a folder here is one that the federation has no address of: then it
    is the run's, and joining checks whether it is the right one.
    """
    if key == "model" and Path(str(values[key])).expanduser().is_dir():
        return False
    return bool(values.get("federation")) and key in (*SHAPE, "steps")


def _who(error: UnknownReader) -> list[tuple[str, str]]:
    """The speakers to choose from: what is shown, and the name."""
    return [
        (f"{name} ({count:,} message{'s' * (count != 1)})", name)
        for name, count in error.speakers[:MOST_SPEAKERS]
    ]


def learnt(found: Preview) -> int:
    """The tokens that are learnt of a text; a rule of thumb without a tokenizer."""
    if found.targets is not None:
        return found.targets["train"]
    every = sum(found.documents.values())
    share = found.documents["train"] / max(every, 1)
    return round(share * found.characters / sufficiency.CHARACTERS_PER_TOKEN)


def shared(how: Any, uri: Any, who: Any, steps: int) -> dict[str, Any]:
    """Options of a training with a federation; none where it is alone.

    Args:
        how: `ALONE`, `SENDING` or `TAKING`.
        uri: The federation.
        who: The reader's name in it.
        steps: The steps in all.

    Raises:
        ConfigError: If something is missing.
    """
    if how not in (SENDING, TAKING):
        return {}
    where, name = str(uri or "").strip(), str(who or "").strip()
    if not where:
        raise ConfigError("Say where the federation is: hf://owner/name, or a folder.")
    each = min(steps, ROUND)
    rounds = {"federation": where, "local_steps": each, "rounds": -(-steps // each)}
    if how == TAKING:
        return {**rounds, "join": True}
    if not name:
        raise ConfigError("Say who you are: your name in the federation.")
    return {**rounds, "participant": name}


def names_of(text: Any) -> list[str]:
    """The names in a text with commas: `Ann Weber, ann@example.org`."""
    return [name.strip() for name in str(text or "").split(",") if name.strip()]


def unrouted(config: TrainConfig) -> str:
    """HTML that warns of a router which would learn nothing; empty where it learns."""
    steps, each = config.training.steps, config.training.router_every
    if steps >= each or config.experts.generalists + config.experts.specialists < 2:
        return ""
    return render.problem(
        f"The router will not be trained: it learns after every {each} steps, and "
        f"{steps} are planned. Choose more steps, or a smaller Router every."
    )


def typed(text: str) -> Path:
    """The path that somebody typed, dropped or pasted.

    Terminals quote names with blanks or escape these, and file managers copy file://
    addresses; a name that exists just as it is typed is taken as it is.
    """
    exact = Path(text).expanduser()
    if exact.exists():
        return exact
    if text[:1] in "'\"" and text[:1] == text[-1:] and len(text) > 2:
        text = text[1:-1]
    if text.lower().startswith("file://"):
        text = unquote(urlsplit(text).path)
    plain = Path(text).expanduser()
    if not plain.exists() and "\\" in text:
        return Path(re.sub(r"\\(.)", r"\1", text)).expanduser()
    return plain


def defaults() -> list[tuple[str, Any, str]]:
    """Name, default and help of each option of train on the page."""
    known = {field.name: field for field in leaves(TrainConfig)}
    return [
        (name, known[name].default, known[name].metadata["help"]) for name in OPTIONS
    ]
