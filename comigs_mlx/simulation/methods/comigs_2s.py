"""CoMiGS with two specialists: nothing is shared, the router learns on validation text.

    router_i minimises L_i^valid;  experts minimise L_i^train, all alone

Fan et al., ICML 2025, the ablation 2S. The attention LoRA is not shared either, which
is our reading, so that it differs from `local` by the router alone.

Command:

    python -m comigs_mlx.simulate --users DIR --out OUT --method comigs-2s
"""

from __future__ import annotations

from comigs_mlx.simulation.method import Method, Stage

METHOD = Method(
    generalists=0,
    specialists=2,
    router="alternating",
    stages=(Stage(shared=False),),
)
