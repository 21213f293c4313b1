"""Lists the linears of a model that carry LoRA pairs, by their paths within a block."""

from __future__ import annotations

from comigs_mlx.model.mixture import Mixture


def targets(mixture: Mixture, mlp: bool = True, attention: bool = True) -> list[str]:
    """List the linears of a block that carry LoRA pairs.

    Args:
        mixture: The attached mixture.
        mlp: Whether to list the experts' linears.
        attention: Whether to list the attention's linears, if they carry a pair.

    Returns:
        The paths relative to a block, such as `mlp.up_proj`, sorted.
    """
    keys = set()
    for site in mixture.sites:
        if mlp:
            name = site.mlp_path.rsplit(".", 1)[1]
            keys |= {f"{name}.{linear}" for linear in site.mlp_linears}
        if attention and mixture.options.attention_lora:
            name = site.attention_path.rsplit(".", 1)[1]
            keys |= {f"{name}.{linear}" for linear in site.attention_linears}
    return sorted(keys)
