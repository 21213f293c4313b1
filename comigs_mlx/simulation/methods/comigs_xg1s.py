"""CoMiGS with one specialist and as many generalists as a device can hold.

    generalist_j <- mean over the participants that have a generalist j

Fan et al., ICML 2025, the other way to use larger devices. The numbers come from
`--participants FILE.yaml` (`ann: {generalists: 2}`). Differs: a participant's files
name all generalists of the federation, those that it does not have unchanged, and the
aggregator `mean_of_holders` does not count them: averaging over those that have one is
our choice.

Command:

    python -m comigs_mlx.simulate --users DIR --out OUT --method comigs-xg1s
"""

from __future__ import annotations

from comigs_mlx.simulation.method import Method

METHOD = Method(generalists=None, router="alternating", aggregator="mean_of_holders")
