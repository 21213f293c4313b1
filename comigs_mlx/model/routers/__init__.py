"""Routers: one file each, named by `--router-type`.

A router file holds `Router(nn.Module)`, built with (dims, experts, key) and called
with (x, k, among); see `comigs_mlx.model.routing.Choice` for what it returns. Its
parameters are what the run saves under `<mlp path>.router`.
"""
