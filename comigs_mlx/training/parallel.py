"""One participant's training on several machines: what all of it needs to know.

    leader  (rank 0)  runs the program as it is: reads text, decides, saves, speaks
    others            hold the same model and optimisers, and make the calls it makes

Every step works on one batch: each rank computes some of its rows, and gradients and
statistics are summed over all ranks, so that each makes the same update. As all of
these are sums over tokens, the result is that of one process with the whole batch, but
for the order in which numbers are added.

This module needs no MLX: `Group` is a process alone, and changes nothing at all.
`training.ranks` is what several of them are, over `mx.distributed`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    import mlx.core as mx

Call = TypeVar("Call", bound=Callable[..., Any])

BACKENDS = {"MLX_HOSTFILE": "ring", "MLX_IBV_DEVICES": "jaccl"}
"""Maps a variable in which `mlx.launch` names a file to the backend that reads it."""


class State(NamedTuple):
    """The arrays that a call reads and replaces, beside its arguments.

    Attributes:
        read: Returns all of them by name, as they are now.
        write: Replaces those that it is given.
    """

    read: Callable[[], dict[str, mx.array]]
    write: Callable[[Mapping[str, mx.array]], None]


class Group:
    """The ranks that train one participant together; this one is alone.

    Attributes:
        rank: The number of this process; 0 leads.
        size: The number of processes.
        limit: The longest time in seconds of one call, and of silence before it.
    """

    rank = 0
    size = 1
    limit = 600.0

    @property
    def leader(self) -> bool:
        """Whether this process reads, decides, writes and speaks."""
        return self.rank == 0

    def rows(self, count: int, rank: int | None = None) -> slice:
        """Return the rows of a batch of `count` rows that a rank computes.

        Args:
            count: The rows of the whole batch.
            rank: The number of the rank; None means this one.
        """
        rank = self.rank if rank is None else rank
        return slice(rank * count // self.size, (rank + 1) * count // self.size)

    def share_of(self, array: mx.array, axis: int = 0) -> mx.array:
        """Return this rank's rows of an array of the whole batch.

        Args:
            array: The array, which has the batch's rows along `axis`.
            axis: The axis of the rows.
        """
        del axis
        return array

    def whole(self, arrays: Sequence[mx.array], rows: int) -> list[mx.array]:
        """Return arrays of the whole batch from what each rank has of them.

        Args:
            arrays: The arrays of this rank's rows, `[rows of this rank, ...]` float32.
            rows: The rows of the whole batch.
        """
        del rows
        return list(arrays)

    def reduce(self, tree: Any) -> Any:
        """Sum each array of a tree over the ranks; it may be part of a compiled graph.

        Args:
            tree: Lists and dictionaries of arrays, of the same shapes on every rank.
        """
        return tree

    def together(self, call: Call, state: State) -> Call:
        """Return what makes a call on every rank at once, when the leader makes it.

        All ranks must do so with the same functions in the same order.

        Args:
            call: The function. Its arguments are plain values, NumPy arrays, and lists
                and tuples of them; it must compute the same on every rank.
            state: The arrays that the function reads and replaces. Those that the
                leader has replaced since the last call are sent with this one.
        """
        del state
        return call

    def resend(self) -> None:
        """Let the next call send all that it reads, as the first one after a resume.

        Ranks make the same updates, but processors of several kinds may round them
        differently. Called at each save, this keeps them from drifting apart, and lets
        a resumed run go on as one that was not interrupted.
        """

    def tell(self, content: Mapping[str, Any]) -> None:
        """Send plain values from the leader to all others, which `hear` them."""

    def agree(self) -> None:
        """Wait until all others have done what they were told.

        Raises:
            TrainingError: If one of them cannot, with what it says.
        """

    def hear(self) -> dict[str, Any] | None:
        """Return what the leader tells next; None at the end."""
        return None

    def answer(self, problem: str | None) -> bool:
        """Tell the leader, which asks by `agree`, whether this rank is ready.

        Args:
            problem: The reason why it is not.

        Returns:
            Whether all ranks are.
        """
        return problem is None

    def follow(self) -> None:
        """Make all calls that the leader makes, until it ends."""

    def needs(self, rows: int) -> str | None:
        """Tell in a sentence why a batch cannot be shared; None if it can.

        Args:
            rows: The rows of a batch.
        """
        if rows >= self.size:
            return None
        return (
            f"a batch of {rows} cannot be shared by {self.size} machines: raise "
            f"--batch-size to at least {self.size}, or launch fewer"
        )


ALONE = Group()


def backend(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the backend of the launcher that started this process; None without one.

    `mlx.launch -n 1` names a file of no hosts, and `mpirun -n 1` a size of 1.
    """
    if environment.get("OMPI_COMM_WORLD_SIZE", "1") != "1":
        return "mpi"
    for variable, name in BACKENDS.items():
        file = environment.get(variable)
        if file is not None:
            with contextlib.suppress(FileNotFoundError):  # which MLX will complain of
                if not Path(file).read_text().strip():
                    return None
            return name
    return None


@contextlib.contextmanager
def opened() -> Iterator[Group]:
    """Open the group that this process was launched in; alone without a launcher.

    At the end of the block the leader tells the others to end, too.

    Raises:
        PeerLost: If the others cannot be reached.
    """
    if (name := backend()) is None:
        yield Group()
        return
    from comigs_mlx.training import ranks

    with ranks.connected(name) as group:
        yield group
