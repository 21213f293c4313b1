"""`python killed.py OWNER NAME COUNT train-flags...`: train, but die at one call.

In place of the COUNTth call of OWNER.NAME the process gets SIGKILL, or another signal
where COUNT begins with its name (`int:`, `term:`, `hup:`), and then goes on with the
call.
"""

import os
import signal
import sys

import comigs_mlx  # noqa: F401  isort: skip


from comigs_mlx import command, tensors, train
from comigs_mlx.training.level import Level

OWNERS = {"os": os, "tensors": tensors, "Level": Level}


def main():
    owner, name, count, *argv = sys.argv[1:]
    *end, count = count.split(":")
    number = getattr(signal, f"SIG{end[0].upper()}") if end else signal.SIGKILL
    left = [int(count)]
    inner = getattr(OWNERS[owner], name)

    def call(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), number)
        return inner(*args, **kwargs)

    setattr(OWNERS[owner], name, call)
    command.run(lambda: train.main(argv))


main()
