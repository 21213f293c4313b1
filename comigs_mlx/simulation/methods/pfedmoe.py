"""pFedMoE: a shared expert and a private one, the router learns on training text.

    y = w_G(x) f_G(x) + w_S(x) f_S(x);  experts and router minimise L_i^train together

Yi et al., "pFedMoE: Data-Level Personalization with Mixture of Experts for Model-
Heterogeneous Personalized Federated Learning", 2024, as the code of Fan et al., ICML
2025, adapts it to LoRA experts: one generalist, one specialist, a router in every block
trained jointly with them, and the load-balancing loss. Differs: with two experts and
top-2 that loss is constant, so it is left out; it counts from three experts or
`--top-k 1` on.

Command:

    python -m comigs_mlx.simulate --users DIR --out OUT --method pfedmoe
"""

from __future__ import annotations

from comigs_mlx.simulation.method import Method

METHOD = Method(router="joint")
