"""Makes a base as quick as its float32 form on a Linux CPU.

There MLX hands only float32 products to the BLAS. Those of half precision and of
quantised weights run in plain loops: 512 rows took 6 to 25 times as long. So a base
computes in float32 there. Its weights stay what they are; what is computed from them
is rounded less. There are two ways:

    kept      all weights become float32 once, where that fits into memory
    unpacked  else a weight becomes float32 each time a product needs it, and its
              float32 form is gone after it
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn

from comigs_mlx.model import params
from comigs_mlx.model.attach import LINEARS, mix_in_class
from comigs_mlx.model.tables import EMBEDDINGS

KEPT_SHARE = 0.5
"""The share of MLX's memory limit that weights kept in float32 may take."""

HALF = (mx.float16, mx.bfloat16)
QUANTISED = (nn.QuantizedLinear, nn.QuantizedEmbedding)


def stored_dtype(model: nn.Module) -> mx.Dtype:
    """Return the type of a model's weights, or of what they were quantised from."""
    arrays = (array for _, array in params.flatten(model.parameters()).items())
    floating = (a.dtype for a in arrays if mx.issubdtype(a.dtype, mx.floating))
    return next(floating, mx.float32)


def is_slow(model: nn.Module) -> bool:
    """Tell whether the BLAS computes no products of some of a model's weights."""
    quantised = any(isinstance(module, QUANTISED) for module in model.modules())
    return quantised or stored_dtype(model) in HALF


def float32_bytes(model: nn.Module) -> int:
    """Count the bytes of a model's weights in float32; no array is computed."""
    return mx.float32.size * sum(_weights(model))


def described_bytes(config: Mapping[str, Any], base_bytes: int) -> int:
    """Count the same from a base's config.json, before it is loaded.

    Args:
        config: The content of config.json.
        base_bytes: The bytes of the weights as they are stored.
    """
    how = config.get("quantization")
    if isinstance(how, Mapping):
        # Each group has a scale and a bias of 16 bits.
        bits = how.get("bits", 4) + 32 / how.get("group_size", 64)
        return int(base_bytes * 32 / bits)
    stored = config.get("torch_dtype", config.get("dtype"))
    return base_bytes if stored in (None, "float32") else 2 * base_bytes


def is_kept(size: int) -> bool:
    """Tell whether weights of so many bytes in float32 would be kept so."""
    return size <= KEPT_SHARE * mx.get_memory_limit()


def _weights(model: nn.Module) -> Iterator[int]:
    """Yield the number of weights in each array of a model."""
    quantised = {n: m for n, m in model.named_modules() if isinstance(m, QUANTISED)}
    for name, array in params.flatten(model.parameters()).items():
        owner, _, leaf = name.rpartition(".")
        if owner not in quantised:
            yield array.size
        elif leaf == "weight":  # packed in 32 bits; its scales become part of it
            yield array.size * 32 // quantised[owner].bits


def widen(model: nn.Module) -> bool:
    """Let a model compute in float32, in whichever way its size allows.

    Returns:
        Whether its weights are kept in float32.
    """
    fits = is_kept(float32_bytes(model))
    if fits:
        keep(model)
    else:
        unpack_on_use(model)
    return fits


def keep(model: nn.Module) -> None:
    """Make all weights of a frozen base float32; what is quantised is dequantised."""
    from mlx_lm.utils import dequantize_model

    # Scales go first, as what they give in half precision would be rounded.
    model.apply(_widened)
    dequantize_model(model).apply(_widened)
    model.freeze().eval()  # the dequantised modules are new ones
    mx.eval(model.parameters())


def unpack_on_use(model: nn.Module) -> None:
    """Let products make a float32 weight each time; all else becomes float32."""
    for module in model.modules():
        if isinstance(module, LINEARS):
            mix_in_class(module, UnpackedLinear)
        elif isinstance(module, EMBEDDINGS):
            mix_in_class(module, UnpackedEmbedding)
    model.apply(_widened, _stays_small)
    mx.eval(model.parameters())


class UnpackedLinear:
    """The class that is mixed in before a linear's own (`attach.mix_in_class`)."""

    def __call__(self, x: mx.array) -> mx.array:
        """Return W x + b in float32."""
        module = cast("nn.Module", self)
        y = _product(x, module)
        return y + module.bias if "bias" in module else y


class UnpackedEmbedding:
    """The class that is mixed in before an embedding's own."""

    def __call__(self, ids: mx.array) -> mx.array:
        """Return rows of the table in float32."""
        rows: mx.array = super().__call__(ids)  # type: ignore[misc]
        return rows.astype(mx.float32)

    def as_linear(self, x: mx.array) -> mx.array:
        """Return the product with the table, where it is the output layer too."""
        return _product(x, cast("nn.Module", self))


def _product(x: mx.array, module: nn.Module) -> mx.array:
    """Return `x W^T`; the gradient unpacks W again instead of keeping it.

    Args:
        x: The input `[..., in]` float32.
        module: Has the weight W `[out, in]`.
    """

    @mx.custom_function
    def product(x: mx.array) -> mx.array:
        return x @ _float32(module, module.weight).T

    @product.vjp
    def backward(x: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
        del x, output
        # The compiler would take two equal products of one array for one, and keep it.
        later = mx.depends(module.weight, cotangent)
        return cotangent @ _float32(module, later)

    return cast("mx.array", product(x))


def _float32(module: nn.Module, weight: mx.array) -> mx.array:
    """Return a module's weight, packed or not, as `[out, in]` float32."""
    if isinstance(module, QUANTISED):
        weight = dequantised(module, weight)
    return weight.astype(mx.float32)


def dequantised(module: nn.Module, weight: mx.array) -> mx.array:
    """Return the packed weight of a quantised module as `[out, in]`, as its scales."""
    scales, biases = module.scales, module.get("biases")
    how = {"group_size": module.group_size, "bits": module.bits, "mode": module.mode}
    return mx.dequantize(weight, scales, biases, **how)


def _stays_small(module: Any, name: str, value: Any) -> bool:
    """Select the parameters that are no linear's or embedding's weight."""
    matrix = name == "weight" and isinstance(module, (*LINEARS, *EMBEDDINGS))
    return nn.Module.valid_parameter_filter(module, name, value) and not matrix


def _widened(array: mx.array) -> mx.array:
    return array.astype(mx.float32) if array.dtype in HALF else array
