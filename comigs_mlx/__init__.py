"""CoMiGS for MLX: a mixture of shared and private LoRA experts in every block."""

from __future__ import annotations

from comigs_mlx import cpu

cpu.prepare()
