"""What participants have learnt: in memory while there is room, else in files.

A participant's state is its values and the states of its optimisers. Those used last
stay in memory, up to a number of bytes; the others lie in a folder, a file each, and
are read when they are needed. With room for all, no file is ever written.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx

from comigs_mlx import tensors
from comigs_mlx.model import params
from comigs_mlx.model.params import Tree
from comigs_mlx.training import trainer_state

VALUES = "values"


@dataclass
class State:
    """The arrays of one participant.

    Attributes:
        values: The values of experts, attention LoRA and routers.
        optimizers: Maps a stage to the states of its optimisers.
        receipts: The number of times that the participant had received generalists when
            `values` got the newest of them; see `Participant.receive`.
    """

    values: Tree
    optimizers: dict[int, list[Tree]] = field(default_factory=dict)
    receipts: int = 0

    def arrays(self) -> dict[str, mx.array]:
        """Name all arrays: `values.<path>` and `<stage>.<optimiser>.<path>`."""
        arrays = {
            f"{VALUES}.{path}": array
            for path, array in params.flatten(self.values).items()
        }
        for stage, optimizers in self.optimizers.items():
            arrays |= trainer_state.packed(optimizers, f"{stage}.")
        return arrays

    @classmethod
    def of(cls, arrays: Mapping[str, mx.array]) -> State:
        """Return the state whose arrays were named by `arrays`."""
        values = params.unflatten(trainer_state.under(f"{VALUES}.", arrays))
        stages = {int(first) for n in arrays if (first := n.split(".")[0]) != VALUES}
        return cls(
            values, {s: trainer_state.unpacked(arrays, f"{s}.") for s in sorted(stages)}
        )

    @property
    def bytes(self) -> int:
        """The bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays().values())


@dataclass
class _Resident:
    """A state in memory, and whether its file lacks something of it."""

    state: State
    bytes: int
    changed: bool


class States:
    """The states of some participants, by name; those used longest ago are on disk."""

    def __init__(self, folder: Path | None = None, limit: float = math.inf):
        """Remember where files may be made; nothing is written yet.

        Args:
            folder: A folder for these files alone, made when it is needed.
            limit: The bytes of states that may stay in memory; the state in use stays
                in any case. Without a folder there is no limit.
        """
        self.folder = folder
        self.limit = math.inf if folder is None else limit
        self._resident: OrderedDict[str, _Resident] = OrderedDict()
        self._bytes = 0

    def get(self, name: str) -> State | None:
        """Return a state, from its file if need be; None where there never was one."""
        if (resident := self._resident.get(name)) is not None:
            self._resident.move_to_end(name)
            return resident.state
        file = self._file(name)
        if file is None or not file.is_file():
            return None
        state = State.of(tensors.load(file)[0])
        self._keep(name, state, changed=False)
        return state

    def hold(self, name: str, state: State) -> None:
        """Keep a state that can be made again, so that it need not be written."""
        self._keep(name, state, changed=False)

    def put(self, name: str, state: State) -> None:
        """Keep a state that is to stay what it is now."""
        mx.eval(state.arrays())  # what it was computed from need not stay in memory
        self._keep(name, state, changed=True)

    def export(self, name: str, file: Path) -> bool:
        """Write a state to a file elsewhere; return False where there never was one.

        The file is another name of the participant's own one, where the file system has
        such links, so that it takes neither time nor room. No file is ever written
        into: a state that changes gets a new one.
        """
        resident = self._resident.get(name)
        own = self._file(name)
        if own is None:
            if resident is not None and resident.changed:
                tensors.save(file, resident.state.arrays())
            return resident is not None and resident.changed
        if resident is not None and resident.changed:
            self._write(name, resident)
        if own.is_file():
            link(own, file)
        return own.is_file()

    def adopt(self, name: str, file: Path) -> None:
        """Take over a state that `export` wrote.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If it is damaged; the text is one line.
        """
        self._forget(name)
        own = self._file(name)
        state = State.of(tensors.load(file)[0])
        if own is None:
            self.put(name, state)
            return
        own.parent.mkdir(parents=True, exist_ok=True)
        own.unlink(missing_ok=True)
        link(file, own)
        self._keep(name, state, changed=False)

    def close(self) -> None:
        """Remove the files."""
        self._resident.clear()
        self._bytes = 0
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _keep(self, name: str, state: State, changed: bool) -> None:
        self._forget(name)
        self._resident[name] = _Resident(state, state.bytes, changed)
        self._bytes += self._resident[name].bytes
        while self._bytes > self.limit and len(self._resident) > 1:
            oldest = next(iter(self._resident))
            if self._resident[oldest].changed:
                self._write(oldest, self._resident[oldest])
            self._forget(oldest)

    def _forget(self, name: str) -> None:
        if (resident := self._resident.pop(name, None)) is not None:
            self._bytes -= resident.bytes

    def _write(self, name: str, resident: _Resident) -> None:
        """Write a new file in place of a participant's own one.

        It is not forced to the disk: after a kill only what a save holds counts, and a
        save forces its files there.
        """
        file = self._file(name)
        assert file is not None
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_suffix(".new")
        tensors.save(new, resident.state.arrays())
        os.replace(new, file)
        resident.changed = False

    def _file(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{name}.safetensors"


def link(file: Path, other: Path) -> None:
    """Give a file a second name, in place of what has it; copy it where the file system
    has no such links.
    """
    other.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        os.link(file, other)
        return
    shutil.copyfile(file, other)
