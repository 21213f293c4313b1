"""`mlx`: a LoRA adapter, which mlx-lm loads beside the base model.

The files are those of `mlx_lm.lora`: adapters.safetensors and adapter_config.json.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx

from comigs_mlx import tensors
from comigs_mlx.expert_shape import ADAPTER
from comigs_mlx.exports import merging
from comigs_mlx.exports.job import Job
from comigs_mlx.exports.merging import MergedAdapter
from comigs_mlx.model.base import Base
from comigs_mlx.model.mixture import Mixture

SUMMARY = "an adapter for mlx-lm, beside the base model"
LIBRARY, RELATION = "mlx", "adapter"
DTYPES = ("float32", "float16", "bfloat16")


def usual_dtype(base: Base) -> str:
    """Return the type that experts are trained in."""
    del base
    return "float32"


def check(job: Job) -> None:
    """Accept every job: mlx-lm's loader needs nothing that a base may lack."""
    del job


def write(job: Job, folder: Path) -> None:
    """Write the adapter, its configuration and the chat template."""
    adapter = job.adapter.astype(getattr(mx, job.dtype))
    merging.write_files(folder, job.mixture, job.base_name, adapter)
    job.write_chat_template(folder)


@contextlib.contextmanager
def read_back(job: Job, folder: Path) -> Iterator[Mixture]:
    """Put the written adapter in place of the experts."""
    arrays, _ = tensors.load(folder / ADAPTER)
    pairs = {
        path: (arrays[f"{path}.lora_a"], arrays[f"{path}.lora_b"]) for path in job.pairs
    }
    with merging.in_place(job.mixture, MergedAdapter(pairs, job.adapter.rank)):
        yield job.mixture


def next_commands(job: Job, out: Path) -> list[str]:
    """Return the commands that use the adapter."""
    where = f"--model {job.base_place} --adapter-path {out}"
    return [f'mlx_lm.generate {where} --prompt "Hello"', f"mlx_lm.chat {where}"]
