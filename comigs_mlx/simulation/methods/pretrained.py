"""The base model as it is: the lower bound.

No training; experts and attention LoRA are off. The first row of the tables of Fan et
al., "On-Device Collaborative Language Modeling via a Mixture of Generalists and
Specialists", ICML 2025.

Command:

    python -m comigs_mlx.simulate --users DIR --out OUT --method pretrained
"""

from __future__ import annotations

from comigs_mlx.simulation.method import Method

METHOD = Method(generalists=2, specialists=0, speaks=("base",), trained=False)
