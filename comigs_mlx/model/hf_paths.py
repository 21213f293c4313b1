"""Module paths in transformers, for the families of which they are known.

mlx-lm loads the weights that transformers saves, so most of its families give their
modules the same paths. A few put another word before the blocks.
"""

from __future__ import annotations

from comigs_mlx.errors import UnsupportedModel

SAME = (
    "cohere",
    "gemma",
    "gemma2",
    "gemma3_text",
    "granite",
    "llama",
    "mistral",
    "olmo2",
    "phi",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
    "starcoder2",
)
"""The families whose linears have the same paths in both libraries."""

PREFIXES = {
    "gpt2": ("model.h.", "transformer.h."),
    "gpt_neox": ("model.h.", "gpt_neox.layers."),
    "gptj": ("model.h.", "transformer.h."),
}
"""Family -> how a block's path begins in mlx-lm, and in transformers."""

TRANSPOSED = ("gpt2",)
"""The families whose linears transformers stores as `[in, out]` (its `Conv1D`)."""


def to_hf(family: str, path: str) -> str:
    """Return the path that transformers gives to a linear of a block.

    Args:
        family: The model's type in config.json.
        path: The path of the linear in mlx-lm's model.

    Raises:
        UnsupportedModel: If the paths of this family are not known.
    """
    if family in SAME:
        return path
    if family not in PREFIXES:
        raise UnsupportedModel(
            f"the paths that transformers gives to the modules of the family "
            f"{family!r} are not known here: export with --format mlx or fused"
        )
    ours, theirs = PREFIXES[family]
    return theirs + path.removeprefix(ours)


def from_hf(family: str, path: str) -> str:
    """Return the path in mlx-lm of a module of transformers.

    A family that is not known is taken to have the same paths.
    """
    ours, theirs = PREFIXES.get(family, ("", ""))
    return ours + path.removeprefix(theirs) if path.startswith(theirs) else path
