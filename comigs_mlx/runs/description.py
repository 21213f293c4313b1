"""comigs.json: the base model, and the shape of the mixture on it (a public format)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from comigs_mlx import json_files
from comigs_mlx.config import from_dict
from comigs_mlx.errors import ComigsError, RunError
from comigs_mlx.expert_shape import ExpertShape
from comigs_mlx.options import ExpertOptions

if TYPE_CHECKING:
    from comigs_mlx.model.mixture import Mixture

FORMAT_VERSION = 1

WRITE_AGAIN = "train the run with --resume to write it again"
"""What to do about a file of a run that every save or start writes anew."""


def read(file: Path) -> dict[str, Any]:
    """Read the file, which must be of this format version.

    Raises:
        RunError: If it is damaged or of another format version.
    """
    return json_files.read(file, RunError, WRITE_AGAIN, FORMAT_VERSION)


def describe(
    mixture: Mixture,
    base_id: str,
    base: str,
    revision: str | None = None,
    licence: str | None = None,
) -> dict[str, Any]:
    """Return the content of comigs.json; `scale` is the final multiplier.

    Args:
        mixture: The mixture, attached to its model.
        base_id: The name under which the base model was loaded.
        base: The fingerprint of the base model.
        revision: The commit of the base model, if it is of the Hub.
        licence: The name of the base model's licence, where it is known.
    """
    from comigs_mlx.model.targets import targets

    shape = ExpertShape.of_options(
        mixture.options, len(mixture.sites), targets(mixture)
    )
    about = {"revision": revision, "license": licence}
    known = {name: value for name, value in about.items() if value is not None}
    return {
        "format_version": FORMAT_VERSION,
        "base_model": {"id": base_id, "fingerprint": base, **known},
        **shape.to_json(),
    }


def base_model(info: dict[str, Any]) -> tuple[str, str]:
    """Return id and fingerprint of the base model in comigs.json.

    Raises:
        RunError: If they are missing.
    """
    match info.get("base_model"):
        case {"id": str(base_id), "fingerprint": str(digest)}:
            return base_id, digest
    raise RunError("comigs.json does not describe a base model")


def revision(info: dict[str, Any]) -> str | None:
    """Return the Hub's commit that the base model was read from; None if it is not
    known.
    """
    match info.get("base_model"):
        case {"revision": str(commit)}:
            return commit
    return None


def licence(info: dict[str, Any]) -> str | None:
    """Return the name of the base model's licence; None where it is not known."""
    match info.get("base_model"):
        case {"license": str(name)}:
            return name
    return None


def expert_options(info: dict[str, Any]) -> ExpertOptions:
    """Return the options that attach the mixture that comigs.json describes.

    Raises:
        RunError: If a value is missing or cannot work.
    """
    try:
        return from_dict(ExpertOptions, ExpertShape.from_json(info).options())
    except (KeyError, TypeError, ComigsError) as error:
        raise RunError(f"comigs.json does not describe a mixture: {error}") from error
