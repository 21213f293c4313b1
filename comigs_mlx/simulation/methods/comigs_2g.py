"""CoMiGS with two generalists: only the router is private.

    router_i minimises L_i^valid;  experts minimise L_i^train and are both averaged

Fan et al., ICML 2025, the ablation 2G. Differs: as comigs-1g1s.

Command:

    python -m comigs_mlx.simulate --users DIR --out OUT --method comigs-2g
"""

from __future__ import annotations

from comigs_mlx.simulation.method import Method

METHOD = Method(generalists=2, specialists=0, router="alternating")
