"""Measures what CoMiGS costs, against mlx-lm's LoRA and a naive mixture; one file a
case.
"""
