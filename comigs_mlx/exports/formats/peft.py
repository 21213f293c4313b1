"""`peft`: a LoRA adapter, which transformers and PEFT load beside the base model.

PEFT (huggingface.co/docs/peft, developer guide "PEFT checkpoint format") computes

    y = W x + (lora_alpha / r) * lora_B lora_A x

with lora_A `[r, in]` and lora_B `[out, r]` of a module named by its path in
transformers after `base_model.model.`. So lora_alpha is our scale times the rank.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx

from comigs_mlx import tensors
from comigs_mlx.exports import merging
from comigs_mlx.exports.job import Job
from comigs_mlx.exports.merging import MergedAdapter
from comigs_mlx.files import write_json
from comigs_mlx.model import hf_paths
from comigs_mlx.model.base import Base
from comigs_mlx.model.mixture import Mixture

SUMMARY = "an adapter for transformers with PEFT, beside the base model"
LIBRARY, RELATION = "peft", "adapter"
DTYPES = ("float32", "float16", "bfloat16")

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"

LOAD = """\
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("{base}")
base = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "{out}")
tokens = tokenizer("Hello", return_tensors="pt")
print(tokenizer.decode(model.generate(**tokens, max_new_tokens=50)[0]))"""


def usual_dtype(base: Base) -> str:
    """Return the type that experts are trained in."""
    del base
    return "float32"


def check(job: Job) -> None:
    """Refuse a family whose modules have paths in transformers that are not known."""
    for path in job.pairs:
        hf_paths.to_hf(job.family, path)


def key(family: str, path: str, factor: str) -> str:
    """Return PEFT's name of a factor, `lora_A` or `lora_B`, of the linear at `path`."""
    return f"base_model.model.{hf_paths.to_hf(family, path)}.{factor}.weight"


def write(job: Job, folder: Path) -> None:
    """Write the adapter, its configuration and the chat template."""
    arrays: tensors.MlxArrays = {}
    for path, (a, b) in job.adapter.astype(getattr(mx, job.dtype)).pairs.items():
        arrays[key(job.family, path, "lora_A")] = mx.contiguous(a.T)
        arrays[key(job.family, path, "lora_B")] = mx.contiguous(b.T)
    tensors.save(folder / WEIGHTS, arrays, {"format": "pt"})
    write_json(folder / CONFIG, config(job))
    job.write_chat_template(folder)


def config(job: Job) -> dict[str, Any]:
    """Return the content of adapter_config.json."""
    count = len(list(job.mixture.model.layers))
    adapted = len(job.mixture.sites)
    blocks = None if adapted == count else list(range(count - adapted, count))
    rank = job.adapter.rank
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": job.base_name,
        "revision": job.base.revision,
        "r": rank,
        "lora_alpha": job.scale * rank,
        "lora_dropout": 0.0,
        "target_modules": targets(job.mixture),
        "layers_to_transform": blocks,
        "bias": "none",
        "fan_in_fan_out": job.family in hf_paths.TRANSPOSED,
        "use_rslora": False,
        "use_dora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "modules_to_save": None,
        "inference_mode": True,
    }


def targets(mixture: Mixture) -> list[str]:
    """Return what PEFT finds the linears of a block by: the ends of their paths.

    A bare name such as `up_proj` is what most readers of such adapters know. It stands
    for every linear that is called so, and where the attention has one of the same name
    that carries no pair, the MLP's name goes before it.
    """
    site, options = mixture.sites[0], mixture.options
    attention = site.attention_linears if options.attention_lora else []
    untouched = set() if attention else set(site.attention_linears)
    mlp = site.mlp_path.rsplit(".", 1)[1]
    names = {f"{mlp}.{n}" if n in untouched else n for n in site.mlp_linears}
    return sorted(names | set(attention))


@contextlib.contextmanager
def read_back(job: Job, folder: Path) -> Iterator[Mixture]:
    """Put the written adapter in place of the experts."""
    arrays, _ = tensors.load(folder / WEIGHTS)
    pairs = {}
    for path in job.pairs:
        a, b = (arrays[key(job.family, path, f)] for f in ("lora_A", "lora_B"))
        pairs[path] = (a.T, b.T)
    with merging.in_place(job.mixture, MergedAdapter(pairs, job.adapter.rank)):
        yield job.mixture


def next_commands(job: Job, out: Path) -> list[str]:
    """Return a program that uses the adapter."""
    notes = []
    if "quantization" in job.base.config:
        notes = [
            "# transformers cannot load MLX's quantised weights: name the model that "
            "they were made of instead"
        ]
    return [*notes, LOAD.format(base=job.base_place, out=out)]
