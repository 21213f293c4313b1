"""`fused`: a whole model for mlx-lm, with the experts in its weights.

It is written in floating point, also of a quantised base: the steps of 4 bits are
larger than what an expert adds, so rounding to them again loses it (mlx-lm issues 654
and 1172). `--bits` does so on request, and the measured gap says what it costs.
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from comigs_mlx import tensors
from comigs_mlx.errors import ConfigError
from comigs_mlx.exports.job import Job, alone, copy_files
from comigs_mlx.files import write_json
from comigs_mlx.model import params
from comigs_mlx.model.base import Base
from comigs_mlx.model.fusing import plain_weights
from comigs_mlx.model.mixture import Mixture

SUMMARY = "a whole model for mlx-lm and LM Studio"
LIBRARY, RELATION = "mlx", "finetune"
DTYPES = ("float32", "float16", "bfloat16")

BITS = (2, 3, 4, 5, 6, 8)
TOKENIZER = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.tiktoken",
    "chat_template*",
    "generation_config.json",
)
"""The files of the base that are copied as they are."""


def usual_dtype(base: Base) -> str:
    """Return the type of the base's own weights, or what they were quantised from."""
    name = str(base.dtype).rpartition(".")[2]
    return name if name in DTYPES else "float32"


def check(job: Job) -> None:
    """Refuse bits that MLX cannot quantise to."""
    if job.bits is not None and job.bits not in BITS:
        raise ConfigError(
            f"--bits {job.bits}: MLX quantises to {', '.join(map(str, BITS))}"
        )


def plain_config(base: Base) -> dict[str, Any]:
    """Return the base's configuration without its quantisation."""
    config = copy.deepcopy(base.config)
    for name in ("quantization", "quantization_config"):
        config.pop(name, None)
    return config


def build(config: dict[str, Any], weights: Iterator[tuple[str, mx.array]]) -> nn.Module:
    """Make mlx-lm's model of a configuration, with these values."""
    from mlx_lm.utils import _get_classes

    kind, arguments = _get_classes(config)
    model: nn.Module = kind(arguments.from_dict(config))
    model.load_weights(list(weights), strict=True)
    return model


def write(job: Job, folder: Path) -> None:
    """Write weights, configuration, tokenizer and chat template."""
    weights = plain_weights(job.mixture, job.pairs, getattr(mx, job.dtype))
    config = plain_config(job.base)
    for name in {"torch_dtype", "dtype"} & config.keys():
        config[name] = job.dtype
    if job.bits is not None:
        model, config = _quantised(build(config, weights), config, job.bits)
        weights = iter(params.flatten(model.parameters()).items())
    _write_shards(folder, dict(weights))
    write_json(folder / "config.json", config)
    copy_files(job.base.path, folder, TOKENIZER)


def _quantised(
    model: nn.Module, config: dict[str, Any], bits: int
) -> tuple[nn.Module, dict[str, Any]]:
    """Quantise a model as `mlx_lm.convert` does; groups of 32 where 64 do not fit."""
    from mlx_lm.utils import quantize_model

    widths = {
        module.weight.shape[-1]
        for _, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    group = 64 if all(width % 64 == 0 for width in widths) else 32
    with contextlib.redirect_stdout(io.StringIO()):  # it prints on stdout
        quantised: tuple[nn.Module, dict[str, Any]] = quantize_model(
            model, config, group, bits
        )
    return quantised


def _write_shards(folder: Path, weights: tensors.MlxArrays) -> None:
    """Write the weights in files of at most mlx-lm's size, and their index."""
    from mlx_lm.utils import make_shards

    shards = make_shards(weights)
    count = len(shards)
    place: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        of = f"-{number:05d}-of-{count:05d}" if count > 1 else ""
        name = f"model{of}.safetensors"
        tensors.save(folder / name, shard, {"format": "mlx"})
        place |= dict.fromkeys(sorted(shard), name)
    if count > 1:
        size = {"total_size": sum(array.nbytes for array in weights.values())}
        index = {"metadata": size, "weight_map": place}
        write_json(folder / "model.safetensors.index.json", index)


@contextlib.contextmanager
def read_back(job: Job, folder: Path) -> Iterator[Mixture]:
    """Load the written model as mlx-lm does."""
    del job
    from mlx_lm.utils import load_model

    from comigs_mlx.model.base_folder import plain_path

    with plain_path(folder) as path:
        model, _ = load_model(path)
    yield alone(model)


def next_commands(job: Job, out: Path) -> list[str]:
    """Return the commands that use the model."""
    return [
        f'mlx_lm.generate --model {out} --prompt "Hello"',
        f"mlx_lm.chat --model {out}",
        "# LM Studio lists the models of its folder:",
        f"mkdir -p ~/.lmstudio/models/comigs && cp -R {out} "
        f"~/.lmstudio/models/comigs/{job.name}",
    ]
