"""CoMiGS for MLX: a mixture of shared and private LoRA experts in every block.

    from comigs_mlx import RunFolder
    base, mixture = RunFolder("runs/notes").load()
    logits, routing = mixture(tokens)

Importing the package loads the fast BLAS on Linux (before MLX) and nothing heavy; the
public names below are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from comigs_mlx.environment import VERSION
from comigs_mlx.platform import cpu

cpu.prepare()

if TYPE_CHECKING:
    from comigs_mlx.data.splits import load_splits as load_splits
    from comigs_mlx.errors import ComigsError as ComigsError
    from comigs_mlx.inference.chat_engine import ChatEngine as ChatEngine
    from comigs_mlx.inference.generation import Generation as Generation
    from comigs_mlx.inference.settings import Settings as Settings
    from comigs_mlx.inference.trace import Trace as Trace
    from comigs_mlx.model.base import Base as Base
    from comigs_mlx.model.base import fingerprint as fingerprint
    from comigs_mlx.model.base import load_base as load_base
    from comigs_mlx.model.mixture import Mixture as Mixture
    from comigs_mlx.model.routing import Routing as Routing
    from comigs_mlx.options import DataOptions as DataOptions
    from comigs_mlx.options import ExpertOptions as ExpertOptions
    from comigs_mlx.options import SavingOptions as SavingOptions
    from comigs_mlx.options import TrainConfig as TrainConfig
    from comigs_mlx.options import TrainingOptions as TrainingOptions
    from comigs_mlx.runs.folder import RunFolder as RunFolder
    from comigs_mlx.runs.session import session as session
    from comigs_mlx.training.evaluation import Evaluator as Evaluator
    from comigs_mlx.training.trainer import Trainer as Trainer

_HOME = {
    "Base": "model.base",
    "ComigsError": "errors",
    "DataOptions": "options",
    "Evaluator": "training.evaluation",
    "ExpertOptions": "options",
    "Generation": "inference.generation",
    "Mixture": "model.mixture",
    "Routing": "model.routing",
    "RunFolder": "runs.folder",
    "SavingOptions": "options",
    "Settings": "inference.settings",
    "ChatEngine": "inference.chat_engine",
    "Trace": "inference.trace",
    "TrainConfig": "options",
    "Trainer": "training.trainer",
    "TrainingOptions": "options",
    "fingerprint": "model.base",
    "load_base": "model.base",
    "load_splits": "data.splits",
    "session": "runs.session",
}
"""Public name -> the module it lives in. None is called like a command's module, which
would overwrite it when it is imported."""

__all__ = sorted(_HOME)
__version__ = VERSION


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
