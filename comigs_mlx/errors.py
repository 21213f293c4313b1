"""Every error a user can cause, as one tree.

    ComigsError                 bad input: one line, exit code 2, no file changed
    ├── ConfigError             an option, a configuration file or their combination
    │   └── TooLong             a text that the model cannot read at once
    ├── DataError               text that cannot be read, split or turned into batches
    │   ├── TooLittleText       a split that training needs has no documents
    │   └── UnknownReader       nothing says which speaker of chats and mail trains
    ├── ModelError              a base model that cannot be found, loaded or adapted
    │   └── UnsupportedModel    its family does not fit the mixture; names the family
    ├── RunError                a run folder that is missing, foreign, damaged or in use
    ├── TrainingError           training that had to stop (NaN or infinite loss)
    ├── PeerLost                the other machines of one training are gone
    └── FederationError         a federation that cannot be read, written or agreed on

A message says what was expected, what was found, where, and how to mend it.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar


class ComigsError(Exception):
    """Base class; its text is shown to the user as it is, without a traceback."""

    kind: ClassVar[str] = ""
    """What it is about, in a word for programs that can act on it; see `kind_of`."""


class ConfigError(ComigsError):
    """An option has a value that cannot work, alone or with the others."""


class TooLong(ConfigError):
    """A text is longer than the model can read."""

    kind = "length"


class DataError(ComigsError):
    """Text could not be read, split or batched."""

    kind = "text"


class TooLittleText(DataError):
    """A text is too small: a split that training needs has no documents."""


class UnknownReader(DataError):
    """Nothing says which of the speakers is the one who trains.

    Attributes:
        speakers: The speakers with their numbers of messages, most messages first.
    """

    def __init__(self, text: str, speakers: Sequence[tuple[str, int]] = ()):
        """Make the error.

        Args:
            text: The sentence for the user.
            speakers: The speakers with their numbers of messages.
        """
        super().__init__(text)
        self.speakers = tuple(speakers)


class ModelError(ComigsError):
    """A base model could not be found, loaded or adapted."""

    kind = "model"


class UnsupportedModel(ModelError):
    """The base model's family does not fit the mixture of LoRA experts."""


class RunError(ComigsError):
    """A run folder is missing, foreign, incomplete or in use."""

    kind = "run"


class TrainingError(ComigsError):
    """Training had to stop; the last good state has been kept."""


class PeerLost(ComigsError):
    """The other machines of one training are gone, or cannot be reached."""


class FederationError(ComigsError):
    """A federation cannot be read, written or agreed on; the text says what to do."""

    kind = "federation"


MEMORY_WORDS = (
    "malloc]",
    "malloc_or_wait]",
    "unable to allocate",
    "out of memory",
    "insufficient memory",
    "callbackerroroutofmemory",
)
"""How MLX, Metal, CUDA and numpy say that memory has run out.

Metal's limit of buffers, `[metal::malloc] Resource limit (499000) exceeded`, is one of
them: what saves memory saves buffers.
"""

GPU_WORDS = (
    "impacting interactivity",
    "callbackerrorimpactinginteractivity",
    "caused gpu timeout error",
    "callbackerrortimeout",
    "caused gpu hang error",
    "callbackerrorhang",
    "victim of gpu error",
    "callbackerrorinnocentvictim",
    "causing prior/excessive gpu errors",
    "callbackerrorsubmissionsignored",
)
"""How Metal says that macOS has ended work on the GPU, not for want of memory.

The work kept the display from being drawn, took too long or hung; or another program's
did, and this one's went with it. Source: the names of MTLCommandBufferError's causes in
IOGPU, as reported in ml-explore/mlx issues 3267 and 3390.
"""


PEER_WORDS = ("[ring]", "[jaccl]", "[mpi]")
"""How each error of MLX's communication begins."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory has run out; MLX raises a plain `RuntimeError` then."""
    text = str(error).lower()
    is_mlx = isinstance(error, RuntimeError) and any(w in text for w in MEMORY_WORDS)
    return is_mlx or isinstance(error, MemoryError)


def is_gpu_watchdog(error: BaseException) -> bool:
    """Whether macOS has ended work on the GPU; MLX raises a `RuntimeError` then."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in GPU_WORDS)


def is_lost_peer(error: BaseException) -> bool:
    """Whether the connection to another process of `mx.distributed` is lost."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in PEER_WORDS)


FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says of a disk without room."""


def kind_of(error: BaseException) -> str:
    """What an error is about, in a word for programs that can act on it.

    Returns:
        `memory`, `disk`, or the `kind` of the error or of one that it was raised from;
        empty for others.
    """
    cause: BaseException | None = error
    while cause is not None:
        if is_out_of_memory(cause):
            return "memory"
        if isinstance(cause, OSError) and cause.errno in FULL:
            return "disk"
        if isinstance(cause, ComigsError) and cause.kind:
            return cause.kind
        cause = cause.__cause__
    return ""


def line(error: BaseException, most: int = 160) -> str:
    """What another program's error says, on one line and without its class's name.

    Args:
        error: Any exception; a decoding or JSON error says where it stopped.
        most: How many characters the line may have.
    """
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename is not None else ""
        text = f"{error.strerror}{where}"
    elif isinstance(error, RecursionError):
        text = "nested too deeply"
    elif isinstance(error, KeyError):
        text = f"{error.args[0]!r} is missing" if error.args else "a key is missing"
    else:
        text = str(error)
    return " ".join(text.split())[:most] or type(error).__name__


@contextlib.contextmanager
def reading(file: Path, kind: type[ComigsError], advice: str) -> Iterator[None]:
    """Say in the one sentence that a file cannot be read, whatever is wrong with it.

    Args:
        file: The file that the block reads.
        kind: The error to raise.
        advice: What the user can do about it, such as "fetch the model again".

    Raises:
        ComigsError: `kind`, where the block raises what a missing, unreadable or
            damaged file causes.
    """
    try:
        yield
    except OSError as error:
        raise kind(f"cannot read {file} ({line(error)}): {advice}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise kind(
            f"cannot read {file}, which is damaged or incomplete ({line(error)}): "
            f"{advice}"
        ) from error


def raise_all(
    kind: type[ComigsError], problems: Sequence[str], shown: int = 10
) -> None:
    """Raise `kind` once for all `problems`; return where there are none.

    Args:
        kind: The class to raise.
        problems: One sentence each; the first `shown` are printed in full.
        shown: How many problems to print before "and N more".

    Raises:
        ComigsError: `kind`, when `problems` is not empty.
    """
    if not problems:
        return
    more = len(problems) - shown
    lines = [*problems[:shown], *([f"... and {more} more"] if more > 0 else [])]
    raise kind("\n".join(lines))
