"""Routers: one file each, named by `--router-type`.

A router file holds `Router(nn.Module)`, built with (dims, experts, key) and called
with (x, k, among); it returns a `comigs_mlx.model.routing.Choice`. The run saves its
parameters under `<mlp path>.router`.
"""
