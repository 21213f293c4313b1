"""`gguf`: a whole model in one file, for llama.cpp, LM Studio and Ollama.

The file is written with the package gguf (the extra `export`), tensor by tensor, so
that no second copy of the model is held. Vectors are float32, as llama.cpp wants them;
matrices are of `--dtype`. Beside it lies a Modelfile, because Ollama takes no adapters
any more, and a fused file is the way in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from comigs_mlx.exports import gguf_families, ollama
from comigs_mlx.exports.formats.fused import build, plain_config
from comigs_mlx.exports.gguf_families import ROPE_FACTORS, SUFFIXES, Array
from comigs_mlx.exports.gguf_tokenizer import Vocabulary, vocabulary
from comigs_mlx.exports.job import Job, alone
from comigs_mlx.files import write_text
from comigs_mlx.model.base import Base
from comigs_mlx.model.fusing import plain_weights
from comigs_mlx.model.licence import of_base
from comigs_mlx.model.mixture import Mixture

SUMMARY = "a whole model for llama.cpp, LM Studio and Ollama"
LIBRARY, RELATION = "gguf", "finetune"
DTYPES = ("float32", "float16", "bfloat16", "q8_0")

NO_MERGES = ["\u0120 \u0120"]
"""The merges of a tokenizer without any: llama.cpp reads no file without them, and this
one makes no token, so that it changes nothing.
"""

TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "q8_0": "Q8_0"}
"""The type of the values -> gguf's name of it."""


def usual_dtype(base: Base) -> str:
    """Return the type that every program of this kind reads."""
    del base
    return "float16"


def file_name(job: Job) -> str:
    """Return the name of the model's file."""
    return f"{job.name}-{TYPES[job.dtype].lower()}.gguf"


def check(job: Job) -> None:
    """Refuse a family or tokenizer that llama.cpp lacks, and a missing package."""
    import gguf  # noqa: F401

    gguf_families.family_of(job.base.config)
    vocabulary(job.base, _rows(job))


def _rows(job: Job) -> int:
    """Return the rows of the embedding."""
    rows = job.base.tables.vocabulary
    assert rows is not None
    return rows


def write(job: Job, folder: Path) -> None:
    """Write the file, and a Modelfile for Ollama."""
    import gguf

    config = plain_config(job.base)
    family = gguf_families.family_of(config)
    architecture = gguf.MODEL_ARCH[family.architecture]
    file = folder / file_name(job)
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[architecture])
    try:
        _describe(writer, job, config)
        _describe_tokens(writer, job, vocabulary(job.base, _rows(job)))
        _write_tensors(writer, job, config)
    finally:
        writer.close()
    text = ollama.modelfile(job, file.name)
    write_text(folder / "Modelfile", text)


def _describe(writer: Any, job: Job, config: Mapping[str, Any]) -> None:
    """Write what llama.cpp must know of the model."""
    import gguf

    count, keys, width = gguf_families.heads(config)
    writer.add_name(job.name)
    if (licence := of_base(job.base).name) is not None:
        writer.add_license(licence)
    writer.add_context_length(job.base.trained_context or 2048)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(count)
    writer.add_head_count_kv(keys)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(gguf_families.rope_base(config))
    scaling = gguf_families.rope_scaling(config)
    if scaling is not None and scaling[0] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(scaling[1]["factor"]))
    writer.add_vocab_size(_rows(job))
    share = "ALL" if job.dtype == "float32" else "MOSTLY"
    kind = gguf.LlamaFileType[f"{share}_{TYPES[job.dtype]}"]
    writer.add_file_type(kind)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _describe_tokens(writer: Any, job: Job, tokens: Vocabulary) -> None:
    """Write the tokenizer and the chat template."""
    writer.add_tokenizer_model(tokens.model)
    writer.add_tokenizer_pre(tokens.pre)
    writer.add_token_list(tokens.tokens)
    writer.add_token_types(tokens.types)
    if tokens.scores:
        writer.add_token_scores(tokens.scores)
    if tokens.model == "gpt2":
        writer.add_token_merges(tokens.merges or NO_MERGES)
    for name, i in tokens.ids.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", i)
    for name, value in tokens.flags.items():
        writer.add_bool(f"tokenizer.ggml.{name}", value)
    if job.chat_template is not None:
        writer.add_chat_template(job.chat_template)


def _write_tensors(writer: Any, job: Job, config: dict[str, Any]) -> None:
    """Write all tensors, in two passes: first their shapes, then the values."""
    import gguf

    convert, names = gguf_families.converter(config), _names(config)
    factors = gguf_families.rope_factors(config)
    shapes = {name: array.shape for name, array in _weights(job)}
    kinds = {name: _kind(job.dtype, shape) for name, shape in shapes.items()}
    if factors is not None:
        writer.add_tensor_info(
            ROPE_FACTORS, factors.shape, factors.dtype, factors.nbytes
        )
    for name, shape in shapes.items():
        kind = kinds[name]
        size = int(np.prod(gguf.quant_shape_to_byte_shape(shape, kind)))
        plain = np.dtype(np.float32)  # so that the shape is taken as it is
        writer.add_tensor_info(names[name], shape, plain, size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    for name, array in _weights(job):
        values = convert(name, np.array(array))
        writer.write_tensor_data(gguf.quants.quantize(values, kinds[name]))


def _weights(job: Job) -> Iterator[tuple[str, mx.array]]:
    """Yield the model's tensors in float32, without a head that is the embedding."""
    tied = job.base.config.get("tie_word_embeddings", job.family == "gemma")
    for name, array in plain_weights(job.mixture, job.pairs, mx.float32):
        if not (tied and name.startswith("lm_head.")):
            yield name, array


def _kind(dtype: str, shape: tuple[int, ...]) -> Any:
    """Return gguf's type of a tensor: of vectors, and of rows that no block fits."""
    import gguf

    types = gguf.GGMLQuantizationType
    if len(shape) == 1:
        return types.F32
    kind = types[TYPES[dtype]]
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    return types.F16 if shape[-1] % block else kind


def _names(config: Mapping[str, Any]) -> Any:
    """Return what gives a tensor of mlx-lm its name in GGUF."""
    import gguf

    architecture = gguf.MODEL_ARCH[gguf_families.family_of(config).architecture]
    known = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])

    class Names(dict[str, str]):
        def __missing__(self, name: str) -> str:
            found: str | None = known.get_name(name, try_suffixes=SUFFIXES)
            assert found is not None, name
            self[name] = found
            return found

    return Names()


@contextlib.contextmanager
def read_back(job: Job, folder: Path) -> Iterator[Mixture]:
    """Read the written file with gguf's reader into mlx-lm's model."""
    config = plain_config(job.base)
    yield alone(build(config, _read_tensors(job, folder / file_name(job), config)))


def _read_tensors(
    job: Job, file: Path, config: dict[str, Any]
) -> Iterator[tuple[str, mx.array]]:
    """Yield the file's tensors as mlx-lm names and orders them, in float32."""
    import gguf

    back, names = gguf_families.converter(config, undo=True), _names(config)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    for name, _ in _weights(job):
        tensor = tensors[names[name]]
        values: Array = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        yield name, mx.array(back(name, np.asarray(values, np.float32)))


def next_commands(job: Job, out: Path) -> list[str]:
    """Return the commands that use the file."""
    file = out / file_name(job)
    return [
        f"lms import {file}",
        f"ollama create {job.name} -f {out / 'Modelfile'} && ollama run {job.name}",
        f"llama-cli -m {file}",
    ]
