"""Actors of a Ray cluster hold the participants; this process keeps the federation.

Each of the `--jobs` actors holds one base and a fixed part of the participants, who
live there from the first round to the last: only contributions and records come back,
and for a save the states that have changed. Their text is sent to them once, so nodes
need this package and the base model, but none of the folders.

If an actor is gone, all are started again and the task goes on from its last save;
after `RETRIES` deaths it ends with a line. Needs the extra `cluster`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comigs_mlx.config import option
from comigs_mlx.errors import ComigsError, ConfigError, RunError, line
from comigs_mlx.federation.formats.tensor_source import Array, Source
from comigs_mlx.federation.participant.mixing import in_memory
from comigs_mlx.messages import Note, quiet
from comigs_mlx.platform import cpu_streams
from comigs_mlx.simulation.experiment import Experiment
from comigs_mlx.simulation.host import Beginning, LocalHost, Trained
from comigs_mlx.simulation.layouts import Layouts
from comigs_mlx.simulation.measuring import Final, Measured
from comigs_mlx.simulation.options import SimulateConfig
from comigs_mlx.simulation.participants import ParticipantData, Say
from comigs_mlx.simulation.records import Outcome, SimulationEvent, Stepped
from comigs_mlx.simulation.room import resident
from comigs_mlx.simulation.states import States, link
from comigs_mlx.simulation.workers import shared
from comigs_mlx.simulation.workers.shared import Tasks

SUMMARY = "the --jobs are actors of a Ray cluster, each with some of the participants"

NEEDS = ("ray",)

RETRIES = 3
"""The deaths of actors in one task after which it ends."""

START_SECONDS = 600
"""The seconds that actors may take to start and to load their base."""

AHEAD = 2
"""The participants of each actor that are trained before their turn has come."""

ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
"""What actors must find before they import MLX; see `cpu_streams.fixed`."""


@dataclass(frozen=True)
class Options:
    """Where the cluster is."""

    address: str | None = option(
        None,
        "HOST:PORT of the cluster's head, or auto on one of its machines (default: a "
        "cluster of this machine alone, for the time of the command)",
    )


class ActorDied(Exception):
    """The error of a task whose participants are gone with an actor."""


def run(
    experiment: Experiment, tasks: Tasks, say: Say, options: Options
) -> Iterator[SimulationEvent]:
    """Compute one task after the other, the participants of a round side by side.

    Raises:
        ComigsError: If a participant raised it.
        RunError: If actors died too often.
    """
    deaths = 0
    with _connected(options, experiment.config.jobs):
        while tasks.left:
            try:
                with _Actors(experiment) as actors:
                    say(f"{experiment.config.jobs} actors hold the participants")
                    turns = shared.take_turns(experiment, tasks, say, actors.host)
                    for event in turns:
                        deaths *= not isinstance(event, Outcome)
                        yield event
            except ActorDied as death:
                deaths += 1
                if deaths > RETRIES:
                    raise RunError(
                        f"{death}, {deaths} times: go on with --resume and fewer "
                        "--jobs, or look at the cluster's logs"
                    ) from None
                say(Note(f"{death}: its participants go on from the last save"))


@contextlib.contextmanager
def _connected(options: Options, actors: int) -> Iterator[None]:
    """Connect to a cluster, or make one of this machine, for the time of a block."""
    os.environ.update(ENVIRONMENT)  # before Ray is imported
    ray = importlib.import_module("ray")
    quietly: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning"}
    own: dict[str, Any] = {}
    address = options.address
    if address is None and "RAY_ADDRESS" not in os.environ:
        own = {"num_cpus": actors, "include_dashboard": False}
        own |= {"_node_ip_address": "127.0.0.1"}  # nobody else's business
        address = "local"
    try:
        ray.init(address=address, **quietly, **own)
    except ConnectionError as error:
        raise RunError(
            f"no Ray cluster at {address} ({line(error)}): start one with ray start, "
            "or leave out the address"
        ) from error
    try:
        cores = int(ray.cluster_resources().get("CPU", 0))
        if cores < actors:
            raise ConfigError(
                f"--jobs {actors}: the cluster has {cores} cores, and an actor takes "
                "one: choose fewer, or add nodes"
            )
        yield
    finally:
        ray.shutdown()


def _get(ref: Any) -> Any:
    """Wait for what an actor returns, and raise what it raised.

    Raises:
        ActorDied: If the actor is gone.
        ComigsError: If the actor raised it.
    """
    ray = importlib.import_module("ray")
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ComigsError):
            raise error.cause from None
        raise
    except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
        raise ActorDied(f"an actor is gone ({line(error)})") from None


class _Actor:
    """What runs in the cluster: some participants of one method and seed at a time."""

    def __init__(
        self,
        config: SimulateConfig,
        own: Sequence[ParticipantData],
        fingerprint: str,
    ):
        from comigs_mlx.model.base import load_base

        self.config, self.own = config, own
        self._streams = cpu_streams.fixed(config.cpu_streams)
        self._streams.__enter__()  # for as long as this process lives
        self.layouts = Layouts(load_base(config.model, quiet))
        if self.layouts.fingerprint != fingerprint:
            raise RunError(
                f"--model {config.model} is another one on {os.uname().nodename}: copy "
                "the base model there"
            )
        self.folder = tempfile.TemporaryDirectory(prefix="comigs-actor-")
        self.host: LocalHost | None = None
        self.changed: set[str] = set()

    def begin(self, beginning: Beginning) -> None:
        """Make the participants of a method and seed, in place of those before."""
        root = Path(self.folder.name)
        if self.host is not None:
            self.host.states.close()
        states = States(root / "states", resident(self.config))
        parts = (self.own, self.own, self.layouts, self.config, states)
        self.host = LocalHost(beginning, *parts)
        self.changed = set()

    def train(
        self, round: int, stage: int, name: str, is_shared: bool
    ) -> tuple[list[Stepped], Trained]:
        """Let one participant train for a round."""
        *steps, trained = self._host.train(round, stage, [name], is_shared)
        self.changed.add(name)
        return steps, trained  # type: ignore[return-value]

    def receive(self, tensors: Mapping[str, Array]) -> None:
        """Let every participant here receive generalists."""
        self._host.receive(tensors)

    def mix(self, sources: Sequence[Source], current: Mapping[str, Array]) -> None:
        """Let every participant here receive its own combination."""
        self._host.mix(sources, current)
        self.changed |= {data.name for data in self.own}

    def measure(self) -> Measured:
        """Measure every participant here."""
        return self._host.measure()

    def final(self, similar: int) -> Final:
        """Measure everything that an outcome tells of the participants here."""
        return self._host.final(similar)

    def save(self) -> tuple[dict[str, dict[str, Any]], list[str]]:
        """Write the states here; return what a save knows, and who has changed."""
        stored = self._host.save(self._saved)
        changed = sorted(name for name in self.changed if stored[name]["file"])
        self.changed = set()
        return stored, changed

    def file(self, name: str) -> bytes:
        """Return the state that `save` wrote."""
        return self._file(name).read_bytes()

    def put_file(self, name: str, content: bytes) -> None:
        """Take a state for `restore`."""
        self._saved.mkdir(exist_ok=True)
        self._file(name).write_bytes(content)

    def restore(
        self,
        stored: Mapping[str, Mapping[str, Any]],
        generalists: Mapping[str, Array] | None,
    ) -> None:
        """Put every participant here where it was saved."""
        self._host.restore(self._saved, stored, generalists)

    def close(self) -> None:
        """Remove the files."""
        self.folder.cleanup()

    @property
    def _host(self) -> LocalHost:
        assert self.host is not None  # `begin` comes first
        return self.host

    @property
    def _saved(self) -> Path:
        return Path(self.folder.name) / "saved"

    def _file(self, name: str) -> Path:
        return self._saved / f"{name}.safetensors"


class _Actors:
    """The actors of a comparison, each with its part of the participants."""

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        self._handles: list[Any] = []

    def __enter__(self) -> _Actors:
        """Start all actors, and wait until they have their base.

        Raises:
            RunError: If they do not start.
        """
        ray = importlib.import_module("ray")
        config, members = self._experiment.config, self._experiment.members
        remote = ray.remote(
            num_cpus=1, max_restarts=0, runtime_env={"env_vars": ENVIRONMENT}
        )(_Actor)
        fingerprint = self._experiment.layouts.fingerprint
        self._handles = [
            remote.remote(config, members[i :: config.jobs], fingerprint)
            for i in range(min(config.jobs, len(members)))
        ]
        try:
            ready = [actor.__ray_ready__.remote() for actor in self._handles]
            _, late = ray.wait(ready, num_returns=len(ready), timeout=START_SECONDS)
            if late:
                raise RunError(
                    f"{len(late)} actors have not started within {START_SECONDS} "
                    "seconds: choose fewer --jobs, or look at the cluster's logs"
                )
            _get(ready)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        ray = importlib.import_module("ray")
        for actor in self._handles:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(actor.close.remote(), timeout=10)
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(actor)

    def host(self, beginning: Beginning, scratch: Path | None) -> RayHost:
        """Return the host of a method's participants, with one seed."""
        assert scratch is not None
        names = [data.name for data in self._experiment.members]
        owners = {
            name: self._handles[i % len(self._handles)] for i, name in enumerate(names)
        }
        return RayHost(beginning, self._handles, owners, scratch / "saved")


class RayHost:
    """Participants that live in actors; see `simulation.host.Host`."""

    def __init__(
        self,
        beginning: Beginning,
        actors: Sequence[Any],
        owners: Mapping[str, Any],
        folder: Path,
    ):
        """Let the actors make the participants.

        Args:
            beginning: The beginning of all participants.
            actors: The actors that hold them.
            owners: Maps a participant to the actor that holds it, in their order.
            folder: A folder for states that are saved, for these files alone.
        """
        self._actors, self._owners, self._folder = actors, owners, folder
        self._all("begin", beginning)

    def train(
        self, round: int, stage: int, names: Sequence[str], shared: bool
    ) -> Iterator[Stepped | Trained]:
        """Train participants side by side; tell of them in their order."""
        waiting, left = deque[Any](), deque(names)
        while waiting or left:
            while left and len(waiting) < AHEAD * len(self._actors):
                name = left.popleft()
                train = self._owners[name].train
                waiting.append(train.remote(round, stage, name, shared))
            steps, trained = _get(waiting.popleft())
            yield from steps
            yield trained

    def receive(self, tensors: Mapping[str, Array]) -> None:
        """Let every participant receive these generalists."""
        self._all("receive", dict(tensors))

    def mix(self, sources: Sequence[Source], current: Mapping[str, Array]) -> None:
        """Let every participant receive its own combination of contributions."""
        self._all("mix", in_memory(sources), dict(current))

    def measure(self) -> Measured:
        """Measure every participant on its test text."""
        return self._joined(Measured, self._all("measure"))

    def final(self, similar: int) -> Final:
        """Measure everything that an outcome tells."""
        return self._joined(Final, self._all("final", similar))

    def save(self, folder: Path) -> dict[str, dict[str, Any]]:
        """Fetch the states that have changed, and write all of them into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        stored: dict[str, dict[str, Any]] = {}
        for of_actor, changed in self._all("save"):
            stored |= of_actor
            for name in changed:  # one at a time: they are large
                new = self._file(self._folder, name).with_suffix(".new")
                new.write_bytes(_get(self._owners[name].file.remote(name)))
                os.replace(new, self._file(self._folder, name))
        for name in self._owners:
            if stored[name]["file"]:
                link(self._file(self._folder, name), self._file(folder, name))
        return {name: stored[name] for name in self._owners}

    def restore(
        self,
        folder: Path,
        stored: Mapping[str, Mapping[str, Any]],
        generalists: Mapping[str, Array] | None,
    ) -> None:
        """Send every participant's state to its actor."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for name, owner in self._owners.items():
            if stored[name].get("file", True):
                link(self._file(folder, name), self._file(self._folder, name))
                content = self._file(folder, name).read_bytes()
                _get(owner.put_file.remote(name, content))
        self._all("restore", stored, generalists and dict(generalists))

    def _all(self, method: str, *given: Any) -> list[Any]:
        """Call a method of all actors with the same values, and wait for all."""
        ray = importlib.import_module("ray")
        refs = [ray.put(value) for value in given]
        calls = [getattr(actor, method).remote(*refs) for actor in self._actors]
        return [_get(call) for call in calls]

    def _joined(self, kind: type[Any], parts: Sequence[Any]) -> Any:
        """Join what the actors tell, field by field, in the participants' order."""
        joined = {}
        for field in dataclasses.fields(kind):
            by_name: dict[str, Any] = {}
            for part in parts:
                by_name |= getattr(part, field.name)
            joined[field.name] = {n: by_name[n] for n in self._owners if n in by_name}
        return kind(**joined)

    def _file(self, folder: Path, name: str) -> Path:
        return folder / f"{name}.safetensors"
