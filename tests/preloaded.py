"""What the server of `tests.processes` has imported before it forks a process.

Nothing here may compute: MLX starts threads for that, and a fork does not take them.
"""

import comigs_mlx  # isort: skip

import gc

import mlx_lm.models.llama
import mlx_lm.utils  # noqa: F401
from transformers import AutoTokenizer, PreTrainedTokenizerFast  # noqa: F401

import comigs_mlx.federation.api
import comigs_mlx.federation.participant.training
import comigs_mlx.runs.loggers
import comigs_mlx.runs.session
import comigs_mlx.simulate
import comigs_mlx.simulation.experiment
import comigs_mlx.sync
import comigs_mlx.train  # noqa: F401
from tests import side_by_side

side_by_side.one_core_each()
gc.freeze()
