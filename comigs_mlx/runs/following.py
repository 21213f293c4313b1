"""What a machine that does not lead does: the leader's calls, on its share of a batch.

It needs the base model, and neither text nor run folder: the leader sends it the
configuration, then with each call the batches, and the values and optimiser states that
it does not have yet. So whatever the leader does beside, such as resuming, pulling from
a federation, pausing or measuring, needs nothing here.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from comigs_mlx.config import from_dict, to_dict
from comigs_mlx.environment import version
from comigs_mlx.errors import ComigsError, ModelError
from comigs_mlx.messages import quiet
from comigs_mlx.options import TrainConfig
from comigs_mlx.platform.mac.awake import awake
from comigs_mlx.runs import description
from comigs_mlx.training.parallel import Group

if TYPE_CHECKING:
    from comigs_mlx.data.batches import Batch
    from comigs_mlx.model.mixture import Mixture
    from comigs_mlx.training.trainer import Trainer


def lead_training(ranks: Group, config: TrainConfig, info: dict[str, Any]) -> None:
    """Tell the others what to train, so that they load the same base model.

    Args:
        ranks: The processes that share each batch.
        config: The configuration of the training.
        info: The content of the run's comigs.json.
    """
    told = {"task": "train", "config": to_dict(config), "info": info}
    ranks.tell({**told, "versions": _versions()})


def begin(ranks: Group, trainer: Trainer) -> None:
    """Tell the others how the learning rate goes on, which a step does not say."""
    ranks.tell({"schedule": asdict(trainer.schedule)})


def lead_evaluation(ranks: Group, info: dict[str, Any]) -> None:
    """Let the others help to measure a run, once they are ready.

    Args:
        ranks: The processes that share each batch.
        info: The content of the run's comigs.json.

    Raises:
        TrainingError: If one of them is not ready.
    """
    ranks.tell({"task": "evaluate", "info": info, "versions": _versions()})
    ranks.agree()


def _versions() -> str:
    """Return what must be the same on all machines, as they make the same calls."""
    return ", ".join(f"{name} {version(name)}" for name in ("comigs-mlx", "mlx"))


def follow(ranks: Group) -> None:
    """Do a follower's whole work; an end of the leader's is the end here.

    Raises:
        PeerLost: If another machine is lost.
    """
    with _second_signal_ends():
        told = ranks.hear()
        if told is None:
            return
        if (own := _versions()) != told["versions"]:
            ranks.answer(f"it has {own}, the leader {told['versions']}: install these")
        elif told["task"] == "train":
            config = from_dict(TrainConfig, told["config"])
            ranks.limit = config.mac.peer_timeout
            with awake(config.mac.caffeinate, quiet):
                _follow_training(ranks, told, config)
        else:
            _follow_evaluation(ranks, told)


def _follow_training(
    ranks: Group, told: Mapping[str, Any], config: TrainConfig
) -> None:
    from comigs_mlx.training import memory_estimate
    from comigs_mlx.training.optimisers import Schedule

    with memory_estimate.limits(config.memory_limit):
        trainer, problem = _or_problem(lambda: _trainer(ranks, told, config))
        if not ranks.answer(problem) or (begun := ranks.hear()) is None:
            return
        trainer.schedule = Schedule(**begun["schedule"])
        ranks.follow()


def _follow_evaluation(ranks: Group, told: Mapping[str, Any]) -> None:
    from comigs_mlx.training.evaluation import Evaluator

    _evaluator, problem = _or_problem(lambda: Evaluator(_mixture(told["info"]), ranks))
    if ranks.answer(problem):
        ranks.follow()


def _or_problem(make: Callable[[], Any]) -> tuple[Any, str | None]:
    """Return what is made, or why it cannot be."""
    try:
        return make(), None
    except ComigsError as error:
        return None, str(error)


def _trainer(ranks: Group, told: Mapping[str, Any], config: TrainConfig) -> Trainer:
    """Make a trainer whose steps are the leader's; it has no text of its own."""
    from comigs_mlx.training.level import ROUTER_ALONE, USUAL
    from comigs_mlx.training.trainer import Trainer

    mixture = _mixture(told["info"], config.training.seed)
    task = ROUTER_ALONE if config.sharing.join else USUAL
    options = config.training, config.saving, task
    return Trainer(mixture, NoText(), NoText(), [], *options, ranks)


def _mixture(info: dict[str, Any], seed: int = 0) -> Mixture:
    """Attach the experts that comigs.json describes to the leader's base model.

    Raises:
        ModelError: If this machine has another one.
    """
    from comigs_mlx.model.base import load_base
    from comigs_mlx.model.mixture import Mixture

    name, fingerprint = description.base_model(info)
    base = load_base(name, quiet, description.revision(info))
    if base.fingerprint() != fingerprint:
        raise ModelError(
            f"the base model {name} here is not that of the leader: copy it from "
            "there, or remove it here to fetch it again"
        )
    return Mixture(base.model, description.expert_options(info), seed)


class NoText:
    """A source of batches that are all sent by the leader."""

    def batch(self, index: int) -> Batch:
        """Raise an error: only a leader asks for batches."""
        raise AssertionError(f"a follower was asked for batch {index}")


@contextlib.contextmanager
def _second_signal_ends() -> Iterator[None]:
    """Leave it to the leader what a first signal means; a second one ends this process.

    A terminal's Ctrl-C reaches all processes of a machine, and the leader still needs
    the others for its step.
    """
    asked: list[int] = []

    def note(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {s: signal.signal(s, note) for s in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


SIGNALS: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that a training ends by; see `train._interrupts`."""
