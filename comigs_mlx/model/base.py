"""Finds base models, loads them through mlx-lm, freezes and identifies them."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn

from comigs_mlx import json_files
from comigs_mlx.errors import ModelError, line
from comigs_mlx.messages import Note, Say, quiet
from comigs_mlx.model import float_base
from comigs_mlx.model.base_folder import (
    ADVICE,
    FILES,
    check_folder,
    foreign_code,
    plain_path,
)
from comigs_mlx.model.demo import demo_folder, demo_model_path, is_complete
from comigs_mlx.model.fingerprint import fingerprint, recall, remember, state
from comigs_mlx.model.licence import CARD, Licence, of_folder
from comigs_mlx.model.licence import FILES as LICENCE_FILES
from comigs_mlx.model.tables import FOREIGN, Tables, tables_of
from comigs_mlx.platform import switch

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper

DEMO = "demo"
"""The id of the embedded demo model; a folder of that name is `./demo`."""

HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
WANTED = [*FILES, CARD, *LICENCE_FILES]
"""The files that are fetched of a Hub model."""

CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
"""The names that families give to the most tokens they can read at once."""


@dataclass(frozen=True, eq=False)
class Base:
    """A frozen base model in evaluation mode, with what belongs to it.

    Attributes:
        id: The id by which it was loaded: "demo", a Hub id or a path.
        model: mlx-lm's model; none of its parameters is trainable.
        tokenizer: The tokenizer, in mlx-lm's wrapper.
        config: The content of its `config.json`, as mlx-lm read it.
        path: The folder it was loaded from.
        files: The state of that folder before it was read; see `model.fingerprint`.
        widened: Its fingerprint and the type of its weights, if these are float32 only
            here and now.
    """

    id: str
    model: nn.Module
    tokenizer: TokenizerWrapper
    config: dict[str, Any]
    path: Path
    files: str | None = None
    widened: tuple[str, mx.Dtype] | None = None

    @functools.cached_property
    def tables(self) -> Tables:
        """The limits of token ids and positions, by the model's own tables."""
        return tables_of(self.model)

    @property
    def revision(self) -> str | None:
        """The commit of a Hub model that was read; None for folders and `demo`."""
        cached = self.path.parent.name == "snapshots"
        return self.path.name if cached and HUB_ID.fullmatch(self.id) else None

    @functools.cached_property
    def licence(self) -> Licence:
        """The licence of the model, as far as its folder says."""
        return of_folder(self.path)

    @property
    def trained_context(self) -> int | None:
        """The length that `config.json` says it was trained for; None without one."""
        text = self.config.get("text_config")
        for config in (self.config, text if isinstance(text, dict) else {}):
            sizes = [config[name] for name in CONTEXT if config.get(name)]
            if sizes and isinstance(sizes[0], int):
                return sizes[0]
        return None

    @property
    def context(self) -> int | None:
        """The most tokens it reads at once, by its tables and its configuration."""
        limits = (self.tables.positions, self.trained_context)
        return min((most for most in limits if most is not None), default=None)

    def check_tokens(
        self, tokens: Any, what: str = "the text", fix: str = FOREIGN
    ) -> None:
        """Raise `ModelError` where token ids are not the base's; see `Tables`."""
        self.tables.check_tokens(tokens, what, fix)

    def check_length(
        self, count: int, what: str = "a sequence", fix: str = "shorten it"
    ) -> list[str]:
        """Compare a length with what the base can read, and was trained for.

        Args:
            count: The tokens read at once, those in a cache included.
            what: The name of what has that many tokens, for the text.
            fix: The advice that the text gives.

        Returns:
            A note for the user where the length can be read but was not trained.

        Raises:
            ConfigError: If there are no positions for so many tokens.
        """
        self.tables.check_length(count, what, fix)
        if (most := self.trained_context) is None or count <= most:
            return []
        return [
            f"{what} of {count:,} tokens is longer than the {most:,} that {self.id} "
            f"was trained for, and it answers worse beyond them: {fix}"
        ]

    def is_still(self, model_id: str) -> bool:
        """Tell whether `load_base(model_id)` would find this very model again."""
        path = os.path.realpath(os.path.expanduser(model_id))
        same_place = model_id == self.id or path == os.path.realpath(self.path)
        now = state(self.path)
        return same_place and (self.files is None or now is None or now == self.files)

    @property
    def dtype(self) -> mx.Dtype:
        """The type of its weights on the disk, or of what they were quantised from."""
        if self.widened is not None:
            return self.widened[1]
        return float_base.stored_dtype(self.model)

    def fingerprint(self) -> str:
        """Return the fingerprint of this base, to which no experts are attached yet.

        It is computed once for every state of the model's files and then remembered.
        """
        if self.widened is not None:
            return self.widened[0]
        if self.files is None or state(self.path) != self.files:
            return fingerprint(self.model, self.config)
        if (remembered := recall(self.path, self.files)) is not None:
            return remembered
        digest = fingerprint(self.model, self.config)
        remember(self.path, self.files, digest)
        return digest


def load_base(
    model_id: str,
    report: Say = quiet,
    revision: str | None = None,
    lazy: bool = False,
) -> Base:
    """Load a base model that mlx-lm supports, plain or quantised.

    Code that comes with a model is never run.

    Args:
        model_id: "demo", the folder of a model, or an id on the Hugging Face Hub.
        report: Receives a sentence before each step that takes time.
        revision: The commit of a Hub model to load, whatever has been uploaded since;
            None for the newest.
        lazy: Whether to leave the weights on the disk until they are used.

    Raises:
        ModelError: If the model cannot be found, fetched or loaded.
    """
    path = _locate(model_id, report, revision)
    check_folder(path)
    report(f"loading {model_id}")
    files = state(path)
    model, config = _load_model(path, lazy)
    tokenizer = _load_tokenizer(path, config)
    model.eval()
    model.freeze()
    base = Base(model_id, model, tokenizer, config, path, files)
    if (note := _surplus(base)) is not None:
        report(Note(note))
    if switch.float32_is_faster() and float_base.is_slow(model) and not lazy:
        return _widened(base, report)
    return base


def _widened(base: Base, report: Say) -> Base:
    """Let a base of fewer bits compute in float32; it stays the same base."""
    widened = base.fingerprint(), base.dtype
    gigabytes = float_base.float32_bytes(base.model) / 10**9
    if not float_base.widen(base.model):
        report(
            Note(
                f"{base.id} would need {gigabytes:.1f} GB in float32, in which alone a "
                "CPU is quick: its weights are unpacked each time they are used, and "
                "answers take longer"
            )
        )
    return dataclasses.replace(base, widened=widened)


def _surplus(base: Base) -> str | None:
    """Write a note if text could become tokens that the model has no row for."""
    ids = base.tokenizer.get_vocab().values()
    most, rows = max(ids, default=-1), base.tables.vocabulary
    if rows is None or most < rows:
        return None
    return (
        f"the tokenizer of {base.id} has ids up to {most}, its weights know those "
        f"below {rows}: text that needs the others is refused"
    )


def _locate(model_id: str, report: Say, revision: str | None) -> Path:
    if model_id == DEMO:
        return demo_model_path(report)
    folder = os.path.expanduser(model_id)
    if os.path.exists(folder):
        return Path(folder)
    if not HUB_ID.fullmatch(model_id):
        raise ModelError(f"no model folder {model_id!r}: {ADVICE}")
    return _fetch(model_id, report, revision)


def fetch(model_id: str, report: Say = quiet) -> Path:
    """Have a model on this device, and return its folder; no weights are loaded.

    Args:
        model_id: "demo", the folder of a model, or an id on the Hugging Face Hub.
        report: Receives a sentence before each step that takes time.

    Raises:
        ModelError: If the model cannot be found or fetched, or is damaged.
    """
    folder = _locate(model_id, report, None)
    check_folder(folder)
    return folder


def is_from_hub(model_id: str) -> bool:
    """Tell whether an id names a model that was fetched from the Hub onto this device.

    It looks into the Hub's cache only, and uses no network. A folder of that name goes
    first when a model is loaded, so such a model is not from the Hub.
    """
    from huggingface_hub import try_to_load_from_cache

    if model_id == DEMO:
        return True
    if os.path.exists(os.path.expanduser(model_id)) or not HUB_ID.fullmatch(model_id):
        return False
    return isinstance(try_to_load_from_cache(model_id, "config.json"), str)


def local_folder(model_id: str) -> Path | None:
    """Return the folder of a model that is on this device; None where it is not.

    It uses no network, and makes nothing.

    Args:
        model_id: The id or folder, as `load_base` takes it.
    """
    from huggingface_hub import try_to_load_from_cache

    if model_id == DEMO:
        return demo_folder() if is_complete(demo_folder()) else None
    folder = Path(os.path.expanduser(model_id))
    if folder.exists() or not HUB_ID.fullmatch(model_id):
        return folder if folder.exists() else None
    file = try_to_load_from_cache(model_id, "config.json")
    return Path(file).parent if isinstance(file, str) else None


def tokenizer_of(folder: Path) -> TokenizerWrapper:
    """Load the tokenizer of a model alone.

    Args:
        folder: The folder of the model.

    Raises:
        ModelError: If the folder is no model's, or its tokenizer cannot be read.
    """
    check_folder(folder)
    config = json_files.read(folder / "config.json", ModelError, "fetch it again")
    return _load_tokenizer(folder, config)


def _fetch(model_id: str, report: Say, revision: str | None) -> Path:
    """Return the local snapshot of a Hub model: of a revision, or the newest."""
    from huggingface_hub import snapshot_download

    which: dict[str, Any] = {} if revision is None else {"revision": revision}
    if revision is not None:
        with contextlib.suppress(Exception):  # it is not in the cache: fetch it below
            return Path(
                snapshot_download(
                    model_id, allow_patterns=WANTED, local_files_only=True, **which
                )
            )
    report(f"looking for {model_id} on the Hugging Face Hub")
    try:
        return Path(snapshot_download(model_id, allow_patterns=WANTED, **which))
    except Exception as error:  # the Hub, its transport and its storage: four trees
        raise ModelError(hub_problem(model_id, error)) from error


def hub_problem(model_id: str, error: Exception) -> str:
    """Tell what to do after the Hub refused something.

    The error's own text is never told, because it may hold secrets.
    """
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, GatedRepoError):
        return (
            f"{model_id} is gated: accept its terms at https://huggingface.co/"
            f"{model_id} and log in with `hf auth login`"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"no folder {model_id!r} here, and no such model on the Hugging Face Hub "
            "that you may read: check the name or log in with `hf auth login`"
        )
    if status == 401:
        return (
            f"the Hugging Face Hub refused your token while fetching {model_id}: log "
            "in again with `hf auth login`"
        )
    if getattr(error, "errno", None) == errno.ENOSPC:
        return (
            f"no room on the disk for {model_id}: make some, or set HF_HOME to a "
            "folder that has it"
        )
    kind = type(error).__name__ + (f", status {status}" if status else "")
    return (
        f"cannot fetch {model_id} from the Hugging Face Hub ({kind}): check the "
        f"network and try again, or {ADVICE}"
    )


def _load_model(path: Path, lazy: bool) -> tuple[nn.Module, dict[str, Any]]:
    import mlx_lm
    from mlx_lm.utils import load_model

    try:
        with plain_path(path) as plain:
            return load_model(plain, lazy=lazy)
    except Exception as error:  # each family fails in its own way
        raise ModelError(
            f"mlx-lm {mlx_lm.__version__} cannot load {path} ({line(error)}): "
            f"{_cause(str(error))}, or {ADVICE}"
        ) from error


def _cause(text: str) -> str:
    """Tell what to do about an error of mlx-lm's `load_model`."""
    if "not supported" in text:
        return "upgrade it with `pip install -U mlx-lm`"
    if "parameters" in text or "shape" in text:
        return "config.json and weights do not belong together; fetch the model again"
    return "fetch the model again, upgrade mlx-lm with `pip install -U mlx-lm`"


def _load_tokenizer(path: Path, config: dict[str, Any]) -> TokenizerWrapper:
    from mlx_lm.utils import load_tokenizer

    # Without the explicit False, transformers asks on the terminal.
    options = {"trust_remote_code": False}
    try:
        return load_tokenizer(path, options, eos_token_ids=config.get("eos_token_id"))
    except Exception as error:  # each tokenizer class fails in its own way
        if "trust_remote_code" in str(error):
            raise foreign_code(path) from error
        raise ModelError(
            f"{path} has no tokenizer that can be read ({line(error)}): fetch the "
            f"model again, or {ADVICE}"
        ) from error
