"""The experts' shape and the names of their files and tensors, each said once.

What describes a mixture of experts to another reader is written from here and read into
here: comigs.json, adapter_config.json, and what a federation's manifest and model card
say of it. The same holds for names. A folder of experts, and a federation, has

    generalist/     the first generalist (in a federation: the repository itself)
    generalist-1/   the second one, and so on

and tensors of generalist i > 0 are called `generalist-<i>/<tensor>` where those of all
generalists stand side by side. Nobody else makes or takes apart such a name.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ADAPTER = "adapters.safetensors"
"""The tensor file of one generalist, in mlx-lm's adapter format."""

TENSOR = re.compile(r"(generalist-[1-9]\d?/)?[\w.]{1,300}\.lora_[ab]", re.ASCII)
"""What the name of a generalist's tensor must match in full where strangers give it."""

_MORE = re.compile(r"generalist-([1-9]\d*)/", re.ASCII)


@dataclass(frozen=True)
class ExpertShape:
    """The shape of a mixture of experts, as comigs.json describes it.

    Attributes:
        generalists: The number of experts shared with other participants.
        specialists: The number of experts that stay on this device.
        rank: The rank of every LoRA pair.
        scale: The final multiplier of every low-rank product.
        top_k: The number of experts that a token uses in each block.
        router: The name of the routing function.
        num_layers: The number of blocks that carry experts, from the last one down.
        attention_lora: Whether attention linears carry one shared LoRA pair.
        targets: The linears with LoRA pairs, relative to a block; sorted.
    """

    generalists: int
    specialists: int
    rank: int
    scale: float
    top_k: int
    router: str
    num_layers: int
    attention_lora: bool
    targets: tuple[str, ...]

    @classmethod
    def of_options(
        cls, options: Any, num_layers: int, targets: Sequence[str]
    ) -> ExpertShape:
        """Describe a mixture that is attached with these options.

        Args:
            options: The `ExpertOptions`.
            num_layers: The number of blocks that carry experts.
            targets: The linears with LoRA pairs, relative to a block.
        """
        own: dict[str, Any] = {"num_layers": num_layers, "targets": tuple(targets)}
        own["router"] = options.router_type
        names = [field.name for field in dataclasses.fields(cls)]
        values = {n: own[n] if n in own else getattr(options, n) for n in names}
        return cls(**values)

    @classmethod
    def from_json(cls, info: Mapping[str, Any]) -> ExpertShape:
        """Read the shape in the content of comigs.json.

        Raises:
            KeyError: If a value is missing.
            TypeError: If the targets are no list.
        """
        values = {field.name: info[field.name] for field in dataclasses.fields(cls)}
        return cls(**{**values, "targets": tuple(sorted(values["targets"]))})

    def to_json(self) -> dict[str, Any]:
        """Give the entries of comigs.json that describe the shape."""
        return {**dataclasses.asdict(self), "targets": list(self.targets)}

    def options(self) -> dict[str, Any]:
        """Give the `ExpertOptions` that attach such a mixture, by their names."""
        values = self.to_json()
        del values["targets"]
        scale, router = values.pop("scale"), values.pop("router")
        alpha = {"alpha": scale * self.rank, "scaling": "lora"}
        return {**values, **alpha, "router_type": router}


def shared_options(shape: Any, options: Any) -> dict[str, Any]:
    """Give the options that make a run's generalists those of a federation.

    Args:
        shape: The part of a shape that a manifest has.
        options: The run's `ExpertOptions`; their way to say the scale is kept where it
            gives the shape's scale.

    Returns:
        The value of each option, by its name.
    """
    names = ("generalists", "rank", "num_layers", "attention_lora")
    values: dict[str, Any] = {name: getattr(shape, name) for name in names}
    same_rank = dataclasses.replace(options, rank=shape.rank)
    if not math.isclose(same_rank.scale, shape.scale, rel_tol=1e-9):
        values |= {"alpha": shape.scale * shape.rank, "scaling": "lora"}
    return values


def train_flags(shape: Any) -> str:
    """Give the flags of `train` that make generalists of a federation's shape.

    Args:
        shape: An `ExpertShape`, or the part of it that a manifest has.
    """
    alpha = shape.scale * shape.rank**0.5
    return (
        f"--generalists {shape.generalists} --rank {shape.rank} --alpha {alpha:g} "
        f"--num-layers {shape.num_layers}"
        + ("" if shape.attention_lora else " --no-attention-lora")
    )


def adapter_config(shape: Any, base_id: str, keys: Iterable[str]) -> dict[str, Any]:
    """Give what mlx-lm's adapter loader needs, the content of adapter_config.json.

    Args:
        shape: An `ExpertShape`, `ExpertOptions` with the number of blocks resolved, or
            the part of a shape that a manifest has.
        base_id: The name of the base model.
        keys: The linears with a LoRA pair in this adapter, relative to a block.
    """
    return {
        "fine_tune_type": "lora",
        "model": base_id,
        "num_layers": shape.num_layers,
        "lora_parameters": {
            "rank": shape.rank,
            "scale": shape.scale,
            "dropout": 0.0,
            "keys": list(keys),
        },
    }


def generalist_folders(count: int) -> list[str]:
    """Name the generalists' folders; the first one exists even for a count of 0."""
    return ["generalist", *(f"generalist-{index}" for index in range(1, count))]


def adapter_paths(count: int) -> list[str]:
    """Name the adapter files of a federation with so many generalists."""
    return [f"{prefix(index)}{ADAPTER}" for index in range(max(count, 1))]


def prefix(index: int) -> str:
    """Give what the names of one generalist's tensors begin with."""
    return f"generalist-{index}/" if index else ""


def split(name: str) -> tuple[int, str]:
    """Take a tensor's name apart.

    Returns:
        The index of the generalist, and the tensor's name in its adapter file.
    """
    match = _MORE.match(name)
    return (0, name) if match is None else (int(match[1]), name[match.end() :])


def file_of(tensor: str) -> str:
    """Give the adapter file, relative to its owner's folder, that holds a tensor."""
    return f"{prefix(split(tensor)[0])}{ADAPTER}"


def by_file(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Sort tensors by their files: adapter file -> tensor in it -> its name here."""
    files: dict[str, dict[str, str]] = {}
    for name in names:
        files.setdefault(file_of(name), {})[split(name)[1]] = name
    return files
