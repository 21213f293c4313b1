"""`comigs`, or `python -m comigs_mlx`: every command of the package under one name."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from comigs_mlx import command
from comigs_mlx.environment import VERSION
from comigs_mlx.errors import ConfigError
from comigs_mlx.invocation import prefix

MAIN = re.compile(r"^def main\(", re.MULTILINE)
"""What makes a module of the package a command."""

SUMMARY = re.compile(r'"""(?:`[^`]*`: )?(.+?)\.?(?:"""|\n\n)', re.DOTALL)
"""The first paragraph of a docstring, without how the command is called."""

INTRODUCTION = """\
usage: {prefix} COMMAND [...] | --version

A small language model that writes like you and knows your things, trained on this
device, from text whose files never leave it.

  {prefix} train --data ~/Notes --run runs/notes
  {prefix} generate --run runs/notes --prompt "What did I plan for May?"
  {prefix} app

commands:
{commands}

{prefix} COMMAND --help shows the options of each.\
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that the first argument names, with the other arguments.

    Raises:
        ConfigError: If there is no such command.
    """
    name, *rest = [*(sys.argv[1:] if argv is None else argv)] or [""]
    if name in ("-h", "--help"):
        command.show(usage())
    elif name == "--version":
        command.show(f"comigs-mlx {VERSION}")
    elif name in commands():
        importlib.import_module(f"comigs_mlx.{name}").main(rest)
    else:
        raise ConfigError(_unknown(name))


def commands() -> dict[str, str]:
    """Find the package's commands; none is imported, so that `--help` stays quick.

    A command is a module right in the package that defines `main`. Its docstring begins
    with how it is called, and says in a few words what it does.

    Returns:
        The name of each -> what it does, sorted by name.
    """
    summaries = {}
    for file in sorted(Path(__file__).parent.glob("[!_]*.py")):
        source = file.read_text(encoding="utf-8")
        if MAIN.search(source):
            summary = SUMMARY.match(source)
            summaries[file.stem] = " ".join(summary[1].split()) if summary else ""
    return summaries


def usage() -> str:
    """The text of `--help`: all commands, a line each."""
    known = commands()
    width = max(map(len, known))
    lines = [f"  {name:{width}}  {summary}" for name, summary in known.items()]
    before = prefix() or "python -m comigs_mlx"
    return INTRODUCTION.format(prefix=before, commands="\n".join(lines))


def _unknown(name: str) -> str:
    """What to say of a command that is not there."""
    before = prefix() or "python -m comigs_mlx"
    if not name or name.startswith("-"):
        wrong = f"{name} is no option here" if name else "no command was given"
        return f"{wrong}: {before} --help lists all commands"
    close = difflib.get_close_matches(name, commands(), n=1, cutoff=0.5)
    meant = f"did you mean {close[0]}? " if close else ""
    return f"unknown command {name!r}: {meant}{before} --help lists all commands"


def run() -> None:
    """Run `main` as a process: this is what the console scripts call."""
    command.run(main)


if __name__ == "__main__":
    run()
