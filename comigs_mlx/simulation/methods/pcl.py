"""PCL: everybody trusts the others by how well their models do on its validation text.

    theta_i <- sum_j w_ij theta_j,   w_ij = softmax_j(-L_i^valid(theta_j))

Wagner, Fan, Jaggi, "Personalized Collaborative Fine-Tuning for On-Device Large Language
Models", COLM 2024, the strategy by validation performance. Two experts averaged. The
loss is taken on the first `--valid-batches` batches. Every participant downloads
everybody's contribution, which the bytes count. The repository's generalist is the
mean, from which a new participant begins; no other receives it. In a real federation
`--personal by_loss` of `sync pull` and `train` does the same. Differs: the code its
authors published takes the softmax of minus the perplexity, on 12 batches, which is
much nearer to trusting oneself alone; and one expert mixes there.

Command:

    python -m comigs_mlx.simulate --users DIR --out OUT --method pcl
"""

from __future__ import annotations

from comigs_mlx.federation.aggregation.personal import by_loss
from comigs_mlx.simulation.method import EVEN, Method, Stage
from comigs_mlx.training.level import Task

METHOD = Method(
    generalists=2,
    specialists=0,
    stages=(Stage(task=Task(selection=EVEN)),),
    personal=by_loss,
    speaks=(EVEN,),
)
