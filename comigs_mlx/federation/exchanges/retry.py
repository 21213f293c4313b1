"""Tries again what other commits may overtake, with a growing pause of chance."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

TRIES = 20
"""The times that a commit may be overtaken, or a state may change, before giving up."""

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 3.0
"""The seconds; 20 tries take half a minute, more than the Hub's answers lag behind."""


def tries(count: int = TRIES) -> Iterator[int]:
    """Count from 0, and wait before every number but the first."""
    pause = FIRST_PAUSE
    for number in range(count):
        if number:
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE)
        yield number
