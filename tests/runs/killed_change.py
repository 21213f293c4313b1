"""`python killed_change.py RUN VERB EVERY`: change copies of a run, and die doing it.

The copy RUN-COUNT is changed by a process that ends at its COUNTth file operation as by
SIGKILL: nothing is cleaned up. COUNT is 1, 1 + EVERY and so on, until a process comes
to its end; the counts are printed as JSON.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import comigs_mlx  # noqa: F401
from comigs_mlx.runs import versions
from comigs_mlx.runs.place import Place

CALLS = ("replace", "rename", "link", "unlink", "mkdir", "rmdir")


def change(run):
    """What growing does: other files, one gone, one new, one file as it was."""
    with versions.changing(run, "grow", 6, "one more") as new:
        (new / "comigs.json").write_text('{"new": true}')
        (new / "config.yaml").write_text("specialists: 2\n")
        for name in ("generalist", "specialist", "router", "state/step-0000006"):
            (new / name).mkdir(parents=True)
            (new / name / "values.safetensors").write_text(f"new {name}")
        versions.copy_unchanged(run, new, "metrics.jsonl")


def dying(name, left):
    """A function of `os` that ends the process when `left` calls have been made."""
    inner = getattr(os, name)

    def call(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            os._exit(137)
        return inner(*args, **kwargs)

    return call


def act(run, verb, count):
    with Place(run).in_use():
        left = [count]
        for name in CALLS:
            setattr(os, name, dying(name, left))
        shutil._use_fd_functions = False  # rmtree through the functions above
        if verb == "change":
            change(run)
        else:
            versions.undo(run, versions.versions(run)[-1])
    os._exit(0)


def main():
    folder, verb, every = sys.argv[1:]
    os.fsync = lambda number: None
    counts, code = [], 137
    while code == 137:
        counts.append(1 + len(counts) * int(every))
        copy = shutil.copytree(folder, f"{folder}-{counts[-1]}")
        if (child := os.fork()) == 0:
            act(Path(copy), verb, counts[-1])
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.stdout.write(json.dumps(counts))
    sys.stdout.flush()
    sys.exit(code)


if __name__ == "__main__":
    main()
