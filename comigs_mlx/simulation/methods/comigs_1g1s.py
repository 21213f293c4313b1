"""CoMiGS: one generalist, averaged; one specialist and the router stay.

    router_i  minimises L_i^valid(generalist, specialist_i, router_i)
    experts   minimise  L_i^train;   generalist <- 1/N sum_i generalist_i

Fan et al., "On-Device Collaborative Language Modeling via a Mixture of Generalists and
Specialists", ICML 2025, algorithm 1 with one generalist and one specialist. The
attention LoRA is averaged with the generalist, and 20 rounds of 10 steps, batch 64,
learning rate 2e-3, 10 router steps after every 30 are the values of the code its
authors published (`collab_run.py`, table 1). Differs from that code: no gradient of one
level reaches the other; test text is a third split.

Command:

    python -m comigs_mlx.simulate --users DIR --out OUT --method comigs-1g1s
"""

from __future__ import annotations

from comigs_mlx.simulation.method import Method

METHOD = Method(router="alternating")
