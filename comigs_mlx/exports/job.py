"""What every export format is given: the base, the merged adapter, and how to write."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import mlx.nn as nn

from comigs_mlx.exports.merging import MergedAdapter, Pair
from comigs_mlx.federation.formats.model_card import hub_id
from comigs_mlx.files import write_text
from comigs_mlx.model import float_base
from comigs_mlx.model.base import Base
from comigs_mlx.model.mixture import Mixture
from comigs_mlx.options import ExpertOptions
from comigs_mlx.platform import switch

CHAT_TEMPLATE = "chat_template.jinja"


@dataclass(frozen=True, eq=False)
class Job:
    """One export of one run.

    Attributes:
        base: The run's base model with its tokenizer.
        mixture: The run's experts, attached to it.
        adapter: The experts, merged into one pair a linear.
        name: The run's name as a harmless word, for file names and commands.
        dtype: The type of the values that are written, one of the format's `DTYPES`.
        bits: The bits a weight to quantise to; None for none.
    """

    base: Base
    mixture: Mixture
    adapter: MergedAdapter
    name: str
    dtype: str
    bits: int | None = None

    @property
    def family(self) -> str:
        """The base model's type, as its config.json says."""
        return str(self.base.config.get("model_type"))

    @property
    def scale(self) -> float:
        """The final multiplier of the adapter's products."""
        return self.mixture.options.scale

    @property
    def pairs(self) -> dict[str, Pair]:
        """The pair of each linear, by its path in mlx-lm's model."""
        return self.adapter.pairs

    @property
    def base_name(self) -> str:
        """The base's id on the Hub where it has one, else its folder."""
        return hub_id(self.base.id) or str(self.base.path)

    @property
    def base_place(self) -> str:
        """What loads the very base that was trained on: its id, or its folder."""
        known = hub_id(self.base.id) == self.base.id
        return self.base.id if known else str(self.base.path)

    @property
    def chat_template(self) -> str | None:
        """The Jinja template by which the base's tokenizer writes a conversation."""
        template = getattr(self.base.tokenizer, "chat_template", None)
        return template if isinstance(template, str) else None

    def write_chat_template(self, folder: Path) -> None:
        """Write the chat template into a folder, if there is one."""
        if self.chat_template is not None:
            write_text(folder / CHAT_TEMPLATE, self.chat_template)


def word(text: str) -> str:
    """Return a name as a word for file names and command lines."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.").lower() or "comigs"


def copy_files(source: Path, folder: Path, patterns: tuple[str, ...]) -> None:
    """Copy files of the base as they are.

    Args:
        source: The folder of the base model.
        folder: The folder that gets the copies.
        patterns: The patterns of the names; one without a file is passed over.
    """
    for pattern in patterns:
        for file in sorted(source.glob(pattern)):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)


def alone(model: nn.Module) -> Mixture:
    """Wrap a model so that it can be measured: `base` computes what it does alone.

    On a CPU it is measured in float32, where products of fewer bits are slow; the
    values stay those of the file.
    """
    if switch.on_cpu():
        float_base.keep(model)
    model.eval()
    options = ExpertOptions(specialists=0, rank=1, attention_lora=False, num_layers=1)
    return Mixture(model, options)
