"""The models that a server offers: each run under five names, and the base.

notes                the run, as its router mixes its experts
notes:generalist     its generalists alone: what everyone has
notes:specialist     its specialists alone: what is mine
notes:0.3,0.7        one weight for each expert
base                 the base model, without any expert
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from comigs_mlx.errors import ConfigError
from comigs_mlx.inference.replies import ModelInfo
from comigs_mlx.model.selection import Selection
from comigs_mlx.options import parse_experts
from comigs_mlx.serving.refusals import Refusal

BASE = "base"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Model:
    """One name that a request may use.

    Attributes:
        id: The name that a request gives.
        run: The name of the run; None for the base alone.
        selection: The experts that speak.
    """

    id: str
    run: str | None
    selection: Selection


def run_names(given: tuple[str, ...]) -> dict[str, str]:
    """Names and folders of `--run DIR` and `--run NAME=DIR`.

    Raises:
        ConfigError: If a name cannot be used, or two runs have the same.
    """
    names: dict[str, str] = {}
    for text in given:
        name, separator, folder = text.partition("=")
        if not separator or "/" in name:
            name, folder = re.split(r"[/\\]", text.rstrip("/\\"))[-1], text
        if not NAME.fullmatch(name) or name == BASE:
            raise ConfigError(
                f"--run {text}: {name!r} cannot be the name of a model; give it one of "
                f"letters, digits, '.', '_' and '-', other than {BASE}: --run NAME=DIR"
            )
        if name in names:
            raise ConfigError(
                f"--run {text}: there is a run {name} already, {names[name]}; give it "
                "another name: --run NAME=DIR"
            )
        names[name] = folder
    return names


class Catalogue:
    """What the runs of a server can do, by the names of its models."""

    def __init__(self, infos: Mapping[str, ModelInfo], created: int):
        """Offer these runs.

        Args:
            infos: The name of each run, and what can speak in it.
            created: The time in seconds since 1970 that is told of each model.
        """
        self._infos, self._created = dict(infos), created

    def names(self) -> list[str]:
        """All names but those with weights, of which there are too many."""
        named = [
            name if selection == "auto" else f"{name}:{selection}"
            for name, info in self._infos.items()
            for selection in info.selections
            if selection != BASE
        ]
        return [*named, BASE]

    def find(self, id: str) -> Model:
        """The model of a name.

        Raises:
            Refusal: If there is none; the text lists the names there are.
        """
        if id == BASE:
            return Model(id, None, BASE)
        name, separator, rest = id.partition(":")
        info = self._infos.get(name)
        selection: Selection | None = "auto"
        if separator:
            selection = None if info is None else _selection(rest, info)
        if info is None or selection is None:
            raise Refusal(
                404,
                f"there is no model {ascii(id[:100])}: choose one of "
                f"{', '.join(self.names())}, or RUN:0.3,0.7 with a weight for each of "
                "its experts",
                "model",
                "model_not_found",
            )
        return Model(id, name, selection)

    def entry(self, model: Model) -> dict[str, Any]:
        """A model as `/v1/models` tells of it."""
        info = None if model.run is None else self._infos[model.run]
        any_info = next(iter(self._infos.values()))
        return {
            "id": model.id,
            "object": "model",
            "created": self._created,
            "owned_by": "comigs",
            "base_model": any_info.base_id,
            "experts": [] if info is None else info.experts,
            "layers": [] if info is None else info.layers,
            "step": 0 if info is None else info.step,
        }

    def entries(self) -> dict[str, Any]:
        """The body of `/v1/models`."""
        found = [self.entry(self.find(name)) for name in self.names()]
        return {"object": "list", "data": found}


def _selection(text: str, info: ModelInfo) -> Selection | None:
    """The selection that a name asks for; None if this run cannot follow it."""
    try:
        selection = parse_experts(text)
    except ConfigError:
        return None
    if isinstance(selection, str):
        return selection if selection in info.selections else None
    fits = len(selection) == len(info.experts) and any(selection)
    return selection if fits and all(0 <= w < float("inf") for w in selection) else None
