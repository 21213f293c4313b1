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
from typing import Any, Self

from comigs_mlx.config import configured, written

ADAPTER = "adapters.safetensors"
"""The tensor file of one generalist, in mlx-lm's adapter format."""

TENSOR = re.compile(r"(generalist-[1-9]\d?/)?[\w.]{1,300}\.lora_[ab]", re.ASCII)
"""What the name of a generalist's tensor must match in full where strangers give it."""

_MORE = re.compile(r"generalist-([1-9]\d*)/", re.ASCII)


NOT_OPTIONS = ("scale", "targets")
"""What a federation shares and no option of the same name says."""


def number(low: float, high: float) -> Any:
    """Declare a shared number, with the limits that a stranger's value must keep."""
    return dataclasses.field(metadata={"range": (low, high)})


def switch(usual: bool) -> Any:
    """Declare a shared switch, and how it is set where no flag is given."""
    return dataclasses.field(metadata={"usual": usual})


def words(pattern: str, what: str, most: int) -> Any:
    """Declare a shared list: what each entry must match, in full and in words."""
    return dataclasses.field(metadata={"each": (pattern, what, most)})


@dataclass(frozen=True)
class SharedShape:
    """The part of a shape that a federation's participants have in common.

    A manifest and a contribution hold just this of it, and a run is compared by it; the
    rest is private. The limits are those that a stranger's file must keep.

    Attributes:
        generalists: The number of experts shared with other participants.
        rank: The rank of every LoRA pair.
        scale: The final multiplier of every low-rank product.
        num_layers: The number of blocks that carry experts, from the last one down.
        attention_lora: Whether attention linears carry one shared LoRA pair.
        targets: The linears with LoRA pairs, relative to a block; sorted.
    """

    generalists: int = number(0, 64)
    rank: int = number(1, 65536)
    scale: float = number(1e-9, 1e9)
    num_layers: int = number(1, 10_000)
    attention_lora: bool = switch(usual=True)
    targets: tuple[str, ...] = words(r"[\w.]{1,100}", "a linear of a block", 100)

    @classmethod
    def from_json(cls, info: Mapping[str, Any]) -> Self:
        """Read the shape in the content of comigs.json.

        Raises:
            KeyError: If a value is missing.
            TypeError: If the targets are no list.
        """
        values = {
            field.name: info[field.name]
            for field in dataclasses.fields(cls)
            if field.name in info or field.default_factory is dataclasses.MISSING
        }
        return cls(**{**values, "targets": tuple(sorted(values["targets"]))})

    def to_json(self) -> dict[str, Any]:
        """Give the entries of comigs.json that describe the shape."""
        return {**dataclasses.asdict(self), "targets": list(self.targets)}


@dataclass(frozen=True, kw_only=True)
class ExpertShape(SharedShape):
    """The shape of a mixture of experts, as comigs.json describes it.

    Attributes:
        specialists: The number of experts that stay on this device.
        top_k: The number of experts that a token uses in each block.
        router: The name of the routing function.
        router_options: Its options, without which its parameters have no shape. A run
            made before routers had any has none.
    """

    specialists: int
    top_k: int
    router: str
    router_options: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of_options(cls, options: Any, num_layers: int, targets: Sequence[str]) -> Self:
        """Describe a mixture that is attached with these options.

        Args:
            options: The `ExpertOptions`.
            num_layers: The number of blocks that carry experts.
            targets: The linears with LoRA pairs, relative to a block.
        """
        own: dict[str, Any] = {"num_layers": num_layers, "targets": tuple(targets)}
        router = configured("router", options.router_type, always=True)
        own["router"], own["router_options"] = router.name, router.every
        names = [field.name for field in dataclasses.fields(cls)]
        values = {n: own[n] if n in own else getattr(options, n) for n in names}
        return cls(**values)

    def options(self) -> dict[str, Any]:
        """Give the `ExpertOptions` that attach such a mixture, by their names."""
        values = self.to_json()
        del values["targets"]
        scale = values.pop("scale")
        router = written(values.pop("router"), values.pop("router_options"))
        alpha = {"alpha": scale * self.rank, "scaling": "lora"}
        return {**values, **alpha, "router_type": router}


def shared_options(shape: SharedShape, options: Any) -> dict[str, Any]:
    """Give the options that make a run's generalists those of a federation.

    Args:
        shape: The part of a shape that a manifest has.
        options: The run's `ExpertOptions`; their way to say the scale is kept where it
            gives the shape's scale.

    Returns:
        The value of each option, by its name.
    """
    names = (field.name for field in dataclasses.fields(shape))
    values = {name: getattr(shape, name) for name in names if name not in NOT_OPTIONS}
    same_rank = dataclasses.replace(options, rank=shape.rank)
    if not math.isclose(same_rank.scale, shape.scale, rel_tol=1e-9):
        values |= {"alpha": shape.scale * shape.rank, "scaling": "lora"}
    return values


def train_flags(shape: SharedShape) -> str:
    """Give the flags of `train` that make generalists of a federation's shape.

    Args:
        shape: The part of a shape that a manifest has.
    """
    flags = (_flag(shape, field) for field in dataclasses.fields(shape))
    return " ".join(flag for flag in flags if flag)


def _flag(shape: SharedShape, field: dataclasses.Field[Any]) -> str:
    """One flag of `train`; nothing where it would say what is usual."""
    name, value = field.name, getattr(shape, field.name)
    if name == "scale":
        return f"--alpha {value * shape.rank**0.5:g}"
    flag = name.replace("_", "-")
    if name in NOT_OPTIONS or value == field.metadata.get("usual"):
        return ""
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag} {value}"


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
