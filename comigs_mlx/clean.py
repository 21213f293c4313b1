"""`python -m comigs_mlx.clean`: delete what this program keeps on the device."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from comigs_mlx import command
from comigs_mlx.config import option, parse
from comigs_mlx.errors import ComigsError, ConfigError

if TYPE_CHECKING:
    from comigs_mlx.runs.cleaning import Inventory, Portion

SHOWN = 5
"""Foreign paths that are named."""


@dataclass(frozen=True)
class CleanConfig:
    """List what this program keeps on this device, with sizes, and delete it.

    Without --runs these are caches alone: your text's tokens, files given to the app,
    the demo model, and for Linux a BLAS; whatever is needed again is made again. With
    --runs also what was learnt: the runs in that folder and the app's conversations
    there. Files that this program did not make, links, and runs in use are left.

      python -m comigs_mlx.clean --dry-run
      python -m comigs_mlx.clean --only tokens uploads
      python -m comigs_mlx.clean --runs runs --yes
    """

    runs: str | None = option(
        None, "also delete the runs in this folder, and the app's conversations", "DIR"
    )
    only: tuple[str, ...] = option(
        (),
        "only these: tokens, uploads, demo-model, fingerprints, blas, runs, "
        "conversations",
        "KIND",
    )
    dry_run: bool = option(False, "only list what would be deleted")
    yes: bool = option(False, "delete without asking")

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        from comigs_mlx.runs.cleaning import KINDS

        known = [kind.name for kind in KINDS]
        for name in self.only:
            if name not in known:
                yield f"--only {name}: choose of {', '.join(known)}"
            elif name in known[-2:] and self.runs is None:
                yield f"--only {name} needs --runs DIR: the folder of the runs"
        if self.runs is not None and not Path(self.runs).expanduser().is_dir():
            yield f"--runs {self.runs}: there is no such folder"


def main(argv: Sequence[str] | None = None) -> None:
    """List, ask, and delete."""
    config = parse(CleanConfig, "comigs_mlx.clean", argv)
    from comigs_mlx.runs import cleaning

    runs = None if config.runs is None else Path(config.runs).expanduser()
    kept = cleaning.inventory(runs)
    wanted = [p for p in kept.portions if p.kind.name in config.only or not config.only]
    _tell(kept)
    if not wanted:
        command.show("there is nothing to delete")
        return
    command.show(table(wanted))
    if config.dry_run:
        return
    if not (config.yes or _agreed()):
        command.say("nothing was deleted")
        return
    command.show(f"deleted {size(_deleted(wanted))}")


def _deleted(wanted: Sequence[Portion]) -> int:
    """Delete the portions; how many bytes they had. One that cannot be is told."""
    from comigs_mlx.runs import cleaning

    freed = 0
    for portion in wanted:
        try:
            freed += cleaning.delete(portion)
        except (ComigsError, OSError) as error:
            command.say(f"left: {command.explain(error)}")
    return freed


def _tell(kept: Inventory) -> None:
    """Say what is left, and what this command has no hand in."""
    from comigs_mlx.federation.formats.signatures import key_file

    for run in kept.busy:
        command.say(f"left: {run}, which a process is using")
    for path in kept.foreign[:SHOWN]:
        command.say(f"left: {path}, which is a link or no file of this program")
    if (more := len(kept.foreign) - SHOWN) > 0:
        command.say(f"left: {more:,} more of that kind")
    if key_file().exists():
        command.say(f"left: {key_file()}, your key for signatures in federations")
    command.say(
        "not listed: models fetched from the Hugging Face Hub, which other programs "
        "share (hf cache ls), and what you pushed"
    )


def _agreed() -> bool:
    """Whether the user says yes.

    Raises:
        ConfigError: If nobody can be asked.
    """
    if not sys.stdin.isatty():
        raise ConfigError("nobody can be asked here: add --yes, or --dry-run to look")
    command.show("delete all of this? [y/N] ", end="")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def table(portions: Sequence[Portion]) -> str:
    """What would be deleted, a line for each kind and folder."""
    rows = [
        (
            size(portion.size),
            f"{portion.files:,} file{'s' * (portion.files != 1)}",
            portion.kind.name,
            f"{portion.root} ({portion.kind.what})",
        )
        for portion in portions
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [
        f"{bytes_:>{widths[0]}}  {files:>{widths[1]}}  {name:{widths[2]}}  {where}"
        for bytes_, files, name, where in rows
    ]
    return "\n".join([*lines, f"{size(sum(p.size for p in portions))} in all"])


def size(count: int) -> str:
    """`1234567` -> `1.2 MB`."""
    for unit, least in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= least:
            return f"{count / least:.1f} {unit}"
    return f"{count} bytes"


if __name__ == "__main__":
    command.run(main)
