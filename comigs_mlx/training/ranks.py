"""Several processes that train one participant together, over `mx.distributed`.

The leader announces every call that all ranks make (`together`) in a message, so only
the leader decides what is done next, and collectives have one order on all ranks:

    message     its length (uint32, 0: the leader is there), then a safetensors file
                with the arrays of the call, whose header holds the rest as JSON
    call        what it communicates itself: sums over the ranks (`reduce`)

Everything is communicated on a stream of its own, as the parts of a batch run on
several (`platform.cpu_streams`), and a message is never a pickle: whoever can connect
to a port of the ring must not be able to run code.

A lost peer raises an error on Linux; on Macs hangs are reported (ml-explore/mlx issues
3862, 3910 and 4475), in which MLX waits for ever. So a thread of each rank ends the
process where a call, or the silence before a message, takes too long.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map

from comigs_mlx import tensors
from comigs_mlx.errors import PeerLost, TrainingError, is_lost_peer
from comigs_mlx.platform import cpu
from comigs_mlx.training.parallel import Call, Group, State

CONNECT_SECONDS = 120
"""The time that all ranks have to start. A ring gives up by itself after 31 s, but not
where it waits for the first connection."""

PING_SECONDS = 5.0
"""The time between two signs of life of the leader, while it works alone."""

LOST = 2
"""The exit code of a process that is ended because of the others, as of any error."""

ADVICE = (
    "all of them end here; a training keeps its last save: launch it again with "
    "--resume, also on another number of machines"
)


@contextlib.contextmanager
def connected(backend: str) -> Iterator[Ranks]:
    """Connect to the other ranks for the time of a block.

    Args:
        backend: The name of the backend that the launcher prepared.

    Raises:
        PeerLost: If the others cannot be reached.
    """
    # MLX looks at it once, before anybody knows whether blocks are recomputed.
    cpu.narrow_graphs()
    if os.environ.get("MLX_RANK") == "0":
        _say(f"waiting for the other machines, {CONNECT_SECONDS} s at most")
    group = joined(backend)
    with group.alive():
        try:
            yield group
        except RuntimeError as error:
            if not is_lost_peer(error):
                raise
            raise PeerLost(
                f"the connection to another machine is lost: {ADVICE}"
            ) from error
        finally:
            group.end()


def joined(backend: str) -> Ranks:
    """Join the group that a launcher has started this process in.

    MLX holds Python's lock while it connects, so no thread of Python could watch the
    time: a timer of C ends a process that waits for ever.

    Raises:
        PeerLost: If the others cannot be reached.
    """
    with open(os.devnull, "w") as nowhere:
        faulthandler.dump_traceback_later(CONNECT_SECONDS, exit=True, file=nowhere)
        try:
            return Ranks(mx.distributed.init(strict=True, backend=backend))
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise PeerLost(
                f"the other machines cannot be reached ({reason}): start all of them "
                "at once with mlx.launch, and look at the addresses in its hostfile"
            ) from error
        finally:
            faulthandler.cancel_dump_traceback_later()


class _Own(threading.local):
    """The communication stream of a thread: MLX's streams belong to one."""

    def __init__(self) -> None:
        self.stream = mx.new_stream(mx.cpu)


class Ranks(Group):
    """The ranks of a group of at least two; see `Group`."""

    def __init__(self, world: mx.distributed.Group):
        """Take part as one rank of `world`."""
        self._world = world
        self.rank, self.size = world.rank(), world.size()
        self._own = _Own()
        self._calls: list[tuple[Callable[..., Any], State]] = []
        self._held: dict[str, mx.array] = {}
        self._inside = self._ended = False
        self._talking = threading.Lock()
        self._deadline = float("inf")
        self._over = threading.Event()

    # What a call does.

    def share_of(self, array: mx.array, axis: int = 0) -> mx.array:
        """Return this rank's rows of an array of the whole batch."""
        rows = self.rows(array.shape[axis])
        return array[(slice(None),) * (axis % array.ndim) + (rows,)]

    def whole(self, arrays: Sequence[mx.array], rows: int) -> list[mx.array]:
        """Return arrays of the whole batch from what each rank has of them."""
        own = self.rows(rows)
        around = (own.start, rows - own.stop)
        padded = [mx.pad(a, [around, *[(0, 0)] * (a.ndim - 1)]) for a in arrays]
        return cast("list[mx.array]", self.reduce(padded))

    def reduce(self, tree: Any) -> Any:
        """Sum each array of a tree over the ranks, all of them in one message.

        One message has one place in the order of what is communicated; and on Wi-Fi a
        message costs more than its bytes.
        """
        arrays: list[mx.array] = []
        tree_map(arrays.append, tree)
        flat = mx.concatenate([a.reshape(-1).astype(mx.float32) for a in arrays])
        ends = np.cumsum([a.size for a in arrays])[:-1].tolist()
        sums = iter(mx.split(self._sum(flat), ends))
        return tree_map(lambda a: next(sums).reshape(a.shape).astype(a.dtype), tree)

    def _sum(self, array: mx.array) -> mx.array:
        return mx.distributed.all_sum(array, group=self._world, stream=self._own.stream)

    # What the leader does.

    def together(self, call: Call, state: State) -> Call:
        """Return what makes a call on every rank at once, when the leader makes it."""
        index = len(self._calls)
        self._calls.append((call, state))

        def on_all(*arguments: Any) -> Any:
            if self._inside:  # one such call makes another
                return call(*arguments)
            with self._talking, self._watched():
                now = state.read()
                changed = {n: a for n, a in now.items() if self._held.get(n) is not a}
                self._send({"call": index, "arguments": arguments}, changed)
                result = self._made(call, arguments)
                self._held |= state.read()
                return result

        return cast("Call", on_all)

    def resend(self) -> None:
        """Let the next call send all that it reads, as the first one after a resume."""
        self._held.clear()

    def tell(self, content: Mapping[str, Any]) -> None:
        """Send plain values from the leader to all others, which `hear` them."""
        with self._talking, self._watched():
            self._send(content)

    def agree(self) -> None:
        """Wait until all others have done what they were told."""
        with self._talking, self._watched():
            self._send({"ready": True})
            problems = self._answers("")
        if problems:
            raise TrainingError("\n".join(problems))

    def end(self) -> None:
        """Let the leader tell the others that there is nothing left to do.

        After an error within a call they are not listening, but lose the connection.
        """
        with self._talking, self._watched():
            if self.leader and not self._inside:
                with contextlib.suppress(RuntimeError):
                    self._send({"end": True})
            self._ended = True

    # What the others do.

    def hear(self) -> dict[str, Any] | None:
        """Return what the leader tells next; None at the end."""
        with self._watched():
            message, _ = self._receive()
        return None if "end" in message else message

    def answer(self, problem: str | None) -> bool:
        """Tell the leader, which asks by `agree`, whether this rank is ready."""
        if self.hear() is None:
            return False
        with self._watched():
            ready = not self._answers(problem or "")
        if not ready:
            self.hear()  # the end
        return ready

    def follow(self) -> None:
        """Make all calls that the leader makes, until it ends."""
        while True:
            with self._watched():
                message, changed = self._receive()
                if "end" in message:
                    return
                call, state = self._calls[message["call"]]
                state.write(changed)
                self._made(call, message["arguments"])

    def _made(self, call: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        # Not put back after an error: the other ranks are still within the call.
        self._inside = True
        result = call(*arguments)
        self._inside = False
        return result

    # Messages.

    def _send(
        self, content: Mapping[str, Any], state: Mapping[str, mx.array] | None = None
    ) -> None:
        self._broadcast(packed(content, state or {}), 0)

    def _receive(self) -> tuple[dict[str, Any], dict[str, mx.array]]:
        """Wait for the leader's next message; signs of life lengthen the time."""
        while not (text := self._broadcast(b"", 0)):
            self._deadline = time.monotonic() + self.limit
        return unpacked(text)

    def _answers(self, problem: str) -> list[str]:
        """Return what each rank but the leader has to say, where it has."""
        texts = (
            self._broadcast(problem.encode() if rank == self.rank else b"", rank)
            for rank in range(1, self.size)
        )
        problems = [text.decode() for text in texts]
        named = enumerate(problems, 1)
        return [f"rank {rank}: {problem}" for rank, problem in named if problem]

    def _broadcast(self, content: bytes, source: int) -> bytes:
        """Return what one rank sends; the others' contents do not count."""
        sends = self.rank == source
        length = mx.array([len(content) if sends else 0], mx.uint32)
        count = int(self._now(self._sum(length)).item())  # type: ignore[arg-type]
        if not count:
            return b""
        text = np.frombuffer(content, np.uint8) if sends else np.zeros(count, np.uint8)
        return np.array(self._now(self._sum(mx.array(text)))).tobytes()

    def _now(self, array: mx.array) -> mx.array:
        mx.eval(array)
        return array

    # Signs of life.

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """Let threads watch the time, and tell the others that the leader is there."""
        threads = [threading.Thread(target=self._watch, daemon=True)]
        if self.leader:
            threads.append(threading.Thread(target=self._ping, daemon=True))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Let a block end within the limit, or this process."""
        self._deadline = time.monotonic() + self.limit
        try:
            yield
        finally:
            self._deadline = float("inf")

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            if time.monotonic() > self._deadline:
                _give_up(
                    f"nothing has come from the other machines in {self.limit:.0f} s"
                )

    def _ping(self) -> None:
        while not self._over.wait(PING_SECONDS):
            with self._talking:
                if self._ended or self._inside:
                    return
                try:
                    with self._watched():
                        self._broadcast(b"", 0)
                except RuntimeError:
                    _give_up("the connection to another machine is lost")


def _give_up(reason: str) -> None:
    """End this process at once, which may be waiting in MLX for ever."""
    _say(f"error: {reason}: {ADVICE}")
    os._exit(LOST)


def _say(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")
    sys.stderr.flush()


def packed(content: Mapping[str, Any], state: Mapping[str, mx.array]) -> bytes:
    """Make a message: a safetensors file whose header holds `content`.

    Args:
        content: Plain values, NumPy and MLX arrays, lists, tuples and dictionaries.
        state: Further arrays by name.
    """
    arrays = {f"state.{name}": array for name, array in state.items()}

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray | mx.array):
            name = f"argument.{len(arrays)}"
            arrays[name] = mx.array(value)
            return {"array": name}
        if isinstance(value, tuple):
            return {"tuple": [plain(each) for each in value]}
        if isinstance(value, list):
            return [plain(each) for each in value]
        return value

    message = {name: plain(value) for name, value in content.items()}
    file = io.BytesIO()
    tensors.write(file, arrays, {"message": json.dumps(message)})
    return file.getvalue()


def unpacked(text: bytes) -> tuple[dict[str, Any], dict[str, mx.array]]:
    """Return what `packed` was given: all arrays as NumPy's, those of `state` MLX's."""
    arrays, metadata = tensors.read(io.BytesIO(text))

    def restored(value: Any) -> Any:
        if isinstance(value, list):
            return [restored(each) for each in value]
        if isinstance(value, dict) and value.keys() == {"array"}:
            return np.array(arrays[value["array"]])
        if isinstance(value, dict) and value.keys() == {"tuple"}:
            return tuple(restored(each) for each in value["tuple"])
        return value

    message = json.loads(metadata["message"])
    content = {name: restored(value) for name, value in message.items()}
    state = {
        name.removeprefix("state."): array
        for name, array in arrays.items()
        if name.startswith("state.")
    }
    return content, state
