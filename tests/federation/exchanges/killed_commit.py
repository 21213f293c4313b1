"""`python killed_commit.py FOLDER COUNT`: commit, but get SIGKILL at the COUNTth step.

A step is a call of the system that changes the folder.
"""

import os
import pathlib
import signal
import sys

from comigs_mlx.federation.exchanges.folder import FolderExchange

CHANGES = {
    "README.md": b"round 2",
    "adapters.safetensors": b"new" * 1000,
    "adapter_config.json": b"{2}",
    "round.json": b"2",
    "contributions/1/ann/adapters.safetensors": None,
    "contributions/2/ann/adapters.safetensors": b"mine",
}
STEPS = [
    (os, "replace"), (os, "fsync"), (os, "mkdir"), (os, "rmdir"), (os, "unlink"),
    (pathlib.Path, "write_bytes"),
]  # fmt: skip


def main(folder, count):
    done = [0]

    def counting(inner):
        def call(*args, **kwargs):
            done[0] += 1
            if done[0] == count:
                os.kill(os.getpid(), signal.SIGKILL)
            return inner(*args, **kwargs)

        return call

    for owner, name in STEPS:
        setattr(owner, name, counting(getattr(owner, name)))
    exchange = FolderExchange(folder)
    exchange.commit(CHANGES, "close round 2", parent=exchange.snapshot().revision)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
