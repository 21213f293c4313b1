"""The queue of the model, with its errors in the words of the page."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Any

from comigs_mlx import command
from comigs_mlx.errors import ComigsError, is_gpu_watchdog, is_out_of_memory
from comigs_mlx.inference import queue

from . import words

OUT_OF_MEMORY = (
    "There is not enough memory for this. Close other programs, shorten the "
    "conversation, or choose a smaller base model."
)

GPU_WATCHDOG = (
    "macOS ended this work on the GPU, as it kept the display from being drawn or took "
    "too long. Try again, with a shorter conversation if it happens again."
)


class ModelQueue(queue.ModelQueue):
    """The same for the page.

    Args:
        make: Makes a `ChatEngine`, given what it tells its progress to.
    """

    def __init__(self, make: Callable[[Callable[[str], None]], Any]):
        super().__init__(make, explain)


def explain(error: BaseException) -> str:
    """An error in a sentence of the page's words; the unexpected also on stderr."""
    if isinstance(error, ComigsError):
        return words.page(str(error))
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    if is_gpu_watchdog(error):
        return GPU_WATCHDOG
    if isinstance(error, OSError) and (told := command.explain(error)):
        return words.page(told)
    traceback.print_exception(error, file=sys.stderr)
    return "Something went wrong here: the terminal that runs the app tells more."
