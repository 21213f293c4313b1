"""Base models: found, loaded through mlx-lm, frozen, and told apart by fingerprint."""

from __future__ import annotations

import errno
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.nn as nn

from comigs_mlx.errors import ModelError
from comigs_mlx.model.demo import Report, demo_model_path, quiet
from comigs_mlx.model.fingerprint import fingerprint, recall, remember, state

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper

DEMO = "demo"
"""The id of the embedded demo model; a folder of that name is `./demo`."""

HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
ADVICE = "pass another folder or Hub id with --model, or `demo`"

FILES = [
    "*.json",
    "*.jinja",
    "*.tiktoken",
    "*.txt",
    "model*.safetensors",
    "tokenizer.model",
]
"""What is fetched of a Hub model: mlx-lm's selection without its code."""


CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
"""What families call the most tokens they can read at once."""


@dataclass(frozen=True, eq=False)
class Base:
    """A frozen base model in evaluation mode, with what belongs to it.

    Attributes:
        id: The id it was asked for by: "demo", a Hub id or a path.
        model: mlx-lm's model; none of its parameters is trainable.
        tokenizer: mlx-lm's tokenizer wrapper.
        config: Its `config.json`, as mlx-lm read it.
        path: The folder it was loaded from.
        files: The state of that folder before it was read; see `model.fingerprint`.
    """

    id: str
    model: nn.Module
    tokenizer: TokenizerWrapper
    config: dict[str, Any]
    path: Path
    files: str | None = None

    @property
    def context(self) -> int | None:
        """The most tokens the model can read at once; None where it does not say."""
        text = self.config.get("text_config")
        for config in (self.config, text if isinstance(text, dict) else {}):
            found = [config[name] for name in CONTEXT if config.get(name)]
            if found and isinstance(found[0], int):
                return found[0]
        return None

    def is_still(self, model_id: str) -> bool:
        """Whether `load_base(model_id)` would find this very model again."""
        path = os.path.realpath(os.path.expanduser(model_id))
        same = model_id == self.id or path == os.path.realpath(self.path)
        now = state(self.path)
        return same and (self.files is None or now is None or now == self.files)

    def fingerprint(self) -> str:
        """`fingerprint` of this base as it was loaded; not once experts are attached.

        Computed once for every state of the model's files and then remembered.
        """
        if self.files is None or state(self.path) != self.files:
            return fingerprint(self.model, self.config)
        if (known := recall(self.path, self.files)) is not None:
            return known
        found = fingerprint(self.model, self.config)
        remember(self.path, self.files, found)
        return found


def load_base(model_id: str, report: Report = quiet) -> Base:
    """Load a base model that mlx-lm supports, plain or quantised.

    Code that comes with a model is never run.

    Args:
        model_id: "demo", the folder of a model, or an id on the Hugging Face Hub.
        report: Told in plain sentences what takes time.

    Raises:
        ModelError: If the model cannot be found, fetched or loaded.
    """
    path = _locate(model_id, report)
    _check(path)
    report(f"loading {model_id}")
    files = state(path)
    model, config = _load_model(path)
    tokenizer = _load_tokenizer(path, config)
    model.eval()
    model.freeze()
    return Base(model_id, model, tokenizer, config, path, files)


def _locate(model_id: str, report: Report) -> Path:
    if model_id == DEMO:
        return demo_model_path(report)
    folder = os.path.expanduser(model_id)
    if os.path.exists(folder):
        return Path(folder)
    if not HUB_ID.fullmatch(model_id):
        raise ModelError(f"no model folder {model_id!r}: {ADVICE}")
    return _fetch(model_id, report)


def is_from_hub(model_id: str) -> bool:
    """Whether an id names a model that was fetched from the Hub onto this device.

    Looks into the Hub's cache only: no network. A folder of that name, here and now,
    goes first when a model is loaded, so it is not from the Hub.
    """
    from huggingface_hub import try_to_load_from_cache

    if model_id == DEMO:
        return True
    if os.path.exists(os.path.expanduser(model_id)) or not HUB_ID.fullmatch(model_id):
        return False
    return isinstance(try_to_load_from_cache(model_id, "config.json"), str)


def _fetch(model_id: str, report: Report) -> Path:
    """The local snapshot of a Hub model, brought up to date."""
    from huggingface_hub import snapshot_download

    report(f"looking for {model_id} on the Hugging Face Hub")
    try:
        return Path(snapshot_download(model_id, allow_patterns=FILES))
    except Exception as error:  # the Hub, its transport and its storage: four trees
        raise ModelError(_hub_problem(model_id, error)) from error


def _hub_problem(model_id: str, error: Exception) -> str:
    """What to do; never with the error's own text, which may hold secrets."""
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
    reason = type(error).__name__ + (f", status {status}" if status else "")
    return (
        f"cannot fetch {model_id} from the Hugging Face Hub ({reason}): check the "
        f"network and try again, or {ADVICE}"
    )


def _check(path: Path) -> None:
    """Refuse what mlx-lm would answer with a riddle, or with running foreign code."""
    file = path / "config.json"
    if not file.is_file():
        raise ModelError(f"{path} is not a model folder (no config.json): {ADVICE}")
    try:
        code = json.loads(file.read_text()).get("model_file")
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{file} is not JSON: fetch the model again") from error
    if code is not None:
        raise _foreign_code(path)
    if not any(path.glob("model*.safetensors")):
        raise ModelError(
            f"{path} has no model*.safetensors: convert the model with "
            f"`mlx_lm.convert --hf-path {path}` and pass the new folder"
        )
    for file in sorted(path.glob("model*.safetensors")):
        _check_safetensors(file)


def _check_safetensors(file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{file} is damaged or incomplete ({_line(error)}): fetch the model again"
        ) from error


def _load_model(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    import mlx_lm
    from mlx_lm.utils import load_model

    try:
        return load_model(path)
    except Exception as error:  # each family fails in its own way
        raise ModelError(
            f"mlx-lm {mlx_lm.__version__} cannot load {path} ({_line(error)}): "
            f"upgrade it with `pip install -U mlx-lm`, or {ADVICE}"
        ) from error


def _load_tokenizer(path: Path, config: dict[str, Any]) -> TokenizerWrapper:
    from mlx_lm.utils import load_tokenizer

    # Without the explicit False, transformers asks on the terminal.
    options = {"trust_remote_code": False}
    try:
        return load_tokenizer(path, options, eos_token_ids=config.get("eos_token_id"))
    except Exception as error:  # each tokenizer class fails in its own way
        if "trust_remote_code" in str(error):
            raise _foreign_code(path) from error
        raise ModelError(
            f"{path} has no tokenizer that can be read ({_line(error)}): fetch the "
            f"model again, or {ADVICE}"
        ) from error


def _foreign_code(path: Path) -> ModelError:
    return ModelError(
        f"{path} needs Python code of its own, which is never run: {ADVICE}"
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
