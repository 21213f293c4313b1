"""How this program was called, so that help and advice name commands as the user does.

The same command is `comigs train` where the package's console script was called,
`python -m comigs_mlx train` of the package, and `python -m comigs_mlx.train` of the
command's own module. Documentation and messages are written in the last form, which
needs no script on the path; `as_called` says them in the user's.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

SCRIPTS = ("comigs", "comigs-mlx")
"""The console scripts of the package (see pyproject.toml); `uvx comigs-mlx` looks for
one with the package's own name.
"""

MODULE = re.compile(r"\bpython -m (?:comigs_mlx\.(\w+)|(app))\b(?!\.\w)")
"""Matches a command's own module, and not one inside a folder of the package."""


def prefix(program: str | None = None) -> str | None:
    """What stands before a command's name.

    Args:
        program: The path that the process was started by; by default the process's.

    Returns:
        Such as "comigs"; None where a command's own module was called.
    """
    path = Path(sys.argv[0] if program is None else program)
    if path.stem in SCRIPTS and path.suffix in ("", ".exe"):
        return path.stem
    package = path.name == "__main__.py" and path.parent.name == "comigs_mlx"
    return "python -m comigs_mlx" if package else None


def called(module: str, program: str | None = None) -> str:
    """How a command is called.

    Args:
        module: The command's module, and maybe an action: "comigs_mlx.sync init".
        program: The path that the process was started by; by default the process's.

    Returns:
        Such as "comigs sync init".
    """
    before = prefix(program)
    if before is None:
        return f"python -m {module}"
    return f"{before} {module.removeprefix('comigs_mlx.')}"


def as_called(text: str, program: str | None = None) -> str:
    """Say each `python -m comigs_mlx.NAME` in a text the way this process was called.

    Args:
        text: The text of a message or of help.
        program: The path that the process was started by; by default the process's.
    """
    before = prefix(program)
    if before is None:
        return text
    return MODULE.sub(lambda match: f"{before} {match[1] or match[2]}", text)
