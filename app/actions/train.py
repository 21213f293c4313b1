"""The Train tab: text in, a training process, and how it goes."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from comigs_mlx.config import from_dict, leaves
from comigs_mlx.data import preview_text
from comigs_mlx.data.preview import preview
from comigs_mlx.errors import ComigsError, ConfigError, DataError, RunError
from comigs_mlx.files import replacing_dir
from comigs_mlx.options import Reading, TrainConfig
from comigs_mlx.runs import estimate, listing, process
from comigs_mlx.runs.place import Place

from .. import render, training, words
from ..model_queue import ModelQueue
from . import runs

NAME = re.compile(r"[^\W_](?:[\w -]{0,62}[\w-])?")
"""Names a new run may have: nothing that leads out of the folder of runs."""

SIMPLE = ("steps", "batch_size", "seq_len", "rank", "specialists")
ADVANCED = (
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

MOST_NAME = 100
"""Bytes of a run's name: file systems take 255, and saves add to it."""

UPLOADS = ".uploads"
"""Where uploaded files are kept, in the folder of runs: a resume reads them again."""


class TrainActions:
    """What the Train tab does.

    Args:
        folder: Holds the runs.
        local: Whether only this machine can reach the page; else no path on it is read.
        model_queue: Its model's tokenizer counts tokens.
    """

    def __init__(self, folder: Path, local: bool, model_queue: ModelQueue):
        self.folder, self.local, self.model_queue = folder, local, model_queue

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

    def preview(
        self, path: Any, files: Sequence[str] | None, me: Any = "", redact: Any = False
    ) -> str:
        """What the text is: HTML.

        Args:
            path: The folder or file that was typed.
            files: The files that were added in its place.
            me: The reader's names in mail and chats, with commas.
            redact: Whether secrets are replaced.
        """
        data = self.data(path, files)
        reading = Reading(me=tuple(names_of(me)), redact=bool(redact))
        counting = self.model_queue.submit(
            "Reading the text",
            lambda engine: preview(data, engine.tokenizer, reading=reading),
        )
        with self._plainly():
            found = counting.result()
        rows = [
            (split, f"{count:,}", self._tokens(found.tokens, split))
            for split, count in found.documents.items()
        ]
        parts = [
            render.note(f"Read as {found.kind}."),
            render.table(("split", "documents", "tokens"), rows, "Splits"),
        ]
        notes = preview_text.notes(found)
        parts += [render.problem(self._plain(words.page(text))) for text in notes]
        held = (self._plain(words.page(text)) for text in preview_text.holds(found))
        parts.append(render.listing(held, "What was read, and what it holds"))
        parts.append(render.listing(found.examples, "Beginnings of some documents"))
        samples = [[(p.text, p.target) for p in parts_] for parts_ in found.samples]
        parts.append(render.masked(samples, "Samples; what is learnt is marked"))
        return "".join(parts)

    @staticmethod
    def _tokens(tokens: dict[str, int] | None, split: str) -> str:
        return "not counted" if tokens is None else f"{tokens.get(split, 0):,}"

    def start(
        self, name: Any, path: Any, files: Sequence[str] | None, options: dict[str, Any]
    ) -> str:
        """Begin a new run; returns its name.

        Raises:
            ComigsError: If the name, the data or an option cannot be.
        """
        run = self._new(name)
        values = {**options, "data": self.data(path, files)}
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

    def standing(self, name: Any) -> tuple[str, str, bool]:
        """How a run stands: HTML of its progress, of its curves, whether it runs."""
        if name not in self.names():
            return render.note("No training yet."), "", False
        run = self.folder / str(name)
        state, metrics = process.state(run), listing.metrics(run)
        shown = self._plain(training.progress(state, metrics))
        return shown, training.drawn(metrics), state.running

    def estimate(self, options: dict[str, Any]) -> str:
        """Time and memory, by what earlier runs of the base measured here: HTML."""
        config = from_dict(TrainConfig, options)
        paths = [entry.path for entry in runs.entries(self.folder)]
        seconds, known = estimate.seconds(config, paths)
        untrained = unrouted(config)
        if seconds is None:
            told = f"Time: {known}. Memory is told as training begins."
            return untrained + render.note(told)
        alike = [e for e in runs.entries(self.folder) if e.base_id == config.model]
        peaks = [r["peak_memory_gb"] for e in alike for r in listing.metrics(e.path)]
        memory = f" They took up to {max(peaks):.2f} GB." if peaks else ""
        about = f"About {render.duration(seconds)}, by {known}.{memory}"
        return untrained + render.note(about)

    def _new(self, name: Any) -> Path:
        name = unicodedata.normalize("NFC", str(name or "")).strip()
        if not NAME.fullmatch(name) or len(name.encode()) > MOST_NAME:
            raise ConfigError(
                "A run's name has letters, digits, blanks, - and _, begins with one of "
                "the first two, and is not long."
            )
        run = self.folder / name
        try:
            Place(run).check_new()
        except RunError:
            raise ConfigError(
                f"There is a run named {run.name}: choose another name."
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
            plain = self._plain(str(error))
            if plain == str(error):
                raise
            raise type(error)(plain) from error

    def _keep(self, files: Sequence[Path]) -> Path:
        """Uploaded files as a folder of their own, the same for the same content."""
        names = [file.name for file in files]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(f"Two files are named {twice[0]}: rename one of them.")
        digest = hashlib.sha256()
        for file in sorted(files, key=lambda f: f.name):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
        target = self.folder / UPLOADS / digest.hexdigest()[:16]
        if not target.is_dir():
            with replacing_dir(target) as temporary:
                for file in files:
                    shutil.copyfile(file, temporary / file.name)
        return target


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
        (name, known[name].default, known[name].metadata["help"])
        for name in (*SIMPLE, *ADVANCED)
    ]
