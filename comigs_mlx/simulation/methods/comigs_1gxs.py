"""CoMiGS with one generalist and as many specialists as a device can hold.

    as comigs-1g1s; participant i has 1 + S_i experts and uses the top 2 of them

Fan et al., ICML 2025, section on heterogeneous devices. `--specialists 1,2,4,8` gives
the numbers in the order of the participants' names. The load-balancing loss counts
where a participant has more experts than `--top-k`. Differs: not compared with the
paper's own experiment line by line.

Command:

    python -m comigs_mlx.simulate --users DIR --out OUT --method comigs-1gxs
"""

from __future__ import annotations

from comigs_mlx.simulation.method import Method

METHOD = Method(specialists=None, router="alternating")
