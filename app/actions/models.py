"""The base models to choose from, and those on their way to this device."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

from comigs_mlx.config import from_dict
from comigs_mlx.errors import ConfigError, ModelError
from comigs_mlx.model import catalogue
from comigs_mlx.model.catalogue import KnownModel
from comigs_mlx.model.fetching import Fetching
from comigs_mlx.options import TrainConfig

from .. import render, words
from ..remedies import Mendable

UNFIT = "too large for this machine"


class ModelActions:
    """What the page does with base models.

    Args:
        model: The base model that the app was started with.
        local: Whether only this machine can reach the page; else no folder is looked
            at.
        fetch: Begins to fetch a model, given its id and its bytes.
    """

    def __init__(
        self,
        model: str,
        local: bool,
        fetch: Callable[[str, int], Fetching] = Fetching,
    ):
        self.model, self.local, self._fetch = model, local, fetch
        self._named: dict[str, KnownModel] = {}
        self._fetching: Fetching | None = None
        self._lock = threading.Lock()

    def known(self) -> list[KnownModel]:
        """Every model to choose from: of the catalogue, then those that were named."""
        listed = {one.id: one for one in catalogue.catalogue()}
        for name in (self.model, *self._named):
            if name not in listed and (one := catalogue.here(name)) is not None:
                listed[name] = one
        return list({**self._named, **listed}.values())

    def find(self, model_id: Any) -> KnownModel:
        """One of them.

        Raises:
            ConfigError: If none is chosen.
        """
        for one in self.known():
            if one.id == model_id:
                return one
        raise Mendable("Choose a model first.", "model")

    def choices(self, options: Mapping[str, Any]) -> list[tuple[str, str]]:
        """A card for each model, and its id; those that are here come first."""
        found = sorted(self.known(), key=lambda one: not one.here)
        return [(card(one, options), one.id) for one in found]

    def smaller(self, model_id: Any, options: Mapping[str, Any]) -> str:
        """The id of the largest model that needs less memory than another one.

        Raises:
            ConfigError: If there is none.
        """
        config = from_dict(TrainConfig, dict(options))
        peaks = {one.id: _peak(one, config) for one in self.known()}
        most = peaks.get(str(model_id)) or float("inf")
        less = {name: peak for name, peak in peaks.items() if peak and peak < most}
        if not less:
            raise ConfigError(
                "This is the smallest model that there is here. Close other programs, "
                "or choose a smaller Batch size or Seq len among the options."
            )
        return max(less, key=lambda name: less[name])

    def look_up(self, text: Any) -> str:
        """Find a model that somebody named; returns its id.

        Raises:
            ComigsError: If there is none of that name.
        """
        name = str(text or "").strip()
        if not name:
            raise ConfigError("Type the name of a model, or the folder it is in.")
        folder = os.path.exists(os.path.expanduser(name)) or name[:1] in "/.~"
        if folder and not self.local and name != catalogue.DEMO:
            raise ModelError(
                "This page can be reached from other machines: name a model of the "
                "Hugging Face Hub instead of a folder."
            )
        self._named[name] = catalogue.described(name)
        return name

    def fetch(self, model_id: Any) -> None:
        """Begin to fetch a model.

        Raises:
            ConfigError: If one is being fetched.
        """
        one = self.find(model_id)
        with self._lock:
            if self._fetching is not None and self._fetching.state.running:
                raise ConfigError("A model is being downloaded: wait for it.")
            self._fetching = None if one.here else self._fetch(one.id, one.download)

    def cancel(self) -> None:
        """End the download under way; what is here is kept for the next try."""
        if self._fetching is not None:
            self._fetching.cancel()

    def progress(self) -> tuple[str, bool]:
        """How the download stands, as HTML, and whether it goes on."""
        if self._fetching is None:
            return "", False
        state = self._fetching.state
        name = self.find(state.model).title
        if state.problem is not None:
            return render.problem(words.page(state.problem), "again"), False
        if state.cancelled:
            told = f"{name} is not downloaded. What is here already is kept."
            return render.note(told), False
        if not state.running:
            return render.note(f"{name} is here."), False
        done, total = render.size(state.done), render.size(state.total)
        text = f"{done} of {total} of {name}"
        return render.bar(state.done, state.total, text, "Download"), True


def _peak(model: KnownModel, config: TrainConfig) -> float | None:
    """Bytes that learning on a model takes at most; None where that is not known."""
    from comigs_mlx.training import memory_estimate

    return memory_estimate.before_loading(model.config, model.size, config).peak


def card(model: KnownModel, options: Mapping[str, Any]) -> str:
    """A model in two lines: its name, and what is to be known of it."""
    size = f"{render.size(model.download)} to download"
    facts = [f"On this machine, {render.size(model.size)}" if model.here else size]
    facts += [need(model, options), f"licence {model.licence.title}"]
    about = model.about[:1].upper() + model.about[1:]
    return f"{model.title}\n{' · '.join(filter(None, (about, *facts)))}"


def need(model: KnownModel, options: Mapping[str, Any]) -> str:
    """The memory that learning on a model takes, beside this machine's."""
    from comigs_mlx.training import memory_estimate

    config = from_dict(TrainConfig, {**options, "model": model.id})
    memory = memory_estimate.before_loading(model.config, model.size, config)
    total = f"{memory.total / 1e9:.0f} GB"
    if memory.peak is None:
        return UNFIT if model.size > memory.total else ""
    about = f"{memory.peak / 1e9:.1f} of {total} memory"
    return f"needs about {about}" if memory.fits else f"{UNFIT}: {about}"
