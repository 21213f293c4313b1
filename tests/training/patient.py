"""`python patient.py FILE`: a leader that works alone for longer than silence may last.

It goes on once FILE is there, which the other rank makes when it has waited for twice
the limit.
"""

import sys
import time
from pathlib import Path

import comigs_mlx  # noqa: F401  isort: skip

from comigs_mlx.training import parallel, ranks

ranks.PING_SECONDS = 0.2
LIMIT = 2.0


def main():
    file = Path(sys.argv[1])
    with parallel.opened() as group:
        group.limit = LIMIT
        if group.leader:
            end = time.monotonic() + 60
            while not file.exists():
                assert time.monotonic() < end
                time.sleep(0.05)
            group.tell({"done": True})
            return
        began, receive = time.monotonic(), group._broadcast

        def broadcast(content, source):
            if time.monotonic() - began > 2 * LIMIT:
                file.touch()
            return receive(content, source)

        group._broadcast = broadcast
        assert group.hear() == {"done": True}


if __name__ == "__main__":
    main()
