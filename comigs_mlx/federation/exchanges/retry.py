"""Tries of what others may overtake, with a growing pause of chance in between."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

TRIES = 20
"""Times that a commit may be overtaken, or a state may change, before giving up."""

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 3.0
"""Seconds; 20 tries take half a minute, more than the Hub's answers lag behind."""


def tries(count: int = TRIES) -> Iterator[int]:
    """Count from 0, and wait before every number but the first."""
    pause = FIRST_PAUSE
    for number in range(count):
        if number:
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE)
        yield number
