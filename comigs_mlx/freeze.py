"""`python -m comigs_mlx.freeze`: experts stop learning, or learn again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from comigs_mlx import command
from comigs_mlx.config import option, parse


@dataclass(frozen=True)
class FreezeConfig:
    """Say which experts of a run do not learn when training goes on, or list them.

    A frozen expert goes on speaking, and its values keep every bit. The attention LoRA
    belongs to the generalist. In a federation a frozen generalist is still replaced by
    what is pulled.

      python -m comigs_mlx.freeze --run runs/notes
      python -m comigs_mlx.freeze --run runs/notes --experts specialist,specialist-1
      python -m comigs_mlx.freeze --run runs/notes --thaw specialist
      python -m comigs_mlx.freeze --run runs/notes --undo
    """

    run: str = option("", "folder of the run", "DIR")
    experts: str = option("", "experts that stop learning", "NAME,...")
    thaw: str = option("", "experts that learn again", "NAME,...")
    force: bool = option(False, "with --undo: also if steps trained since are lost")
    undo: bool = option(False, "take the run's last change by freeze back")
    json: bool = option(False, "print one JSON object instead of lines")

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        if not self.run:
            yield "--run DIR is missing: the folder of a run"
        if self.undo and (self.experts or self.thaw):
            yield "--undo goes without --experts and --thaw"


def main(argv: Sequence[str] | None = None) -> None:
    """Freeze, thaw, list, or take back."""
    config = parse(FreezeConfig, "comigs_mlx.freeze", argv)
    from comigs_mlx.lifecycle.freezing import freeze, states
    from comigs_mlx.lifecycle.undoing import undo
    from comigs_mlx.runs.folder import RunFolder

    folder = RunFolder(config.run)
    folder.check_exists()
    if config.undo:
        command.show(undo(folder, "freeze", config.force))
        return
    names, thaw = _names(config.experts), _names(config.thaw)
    found = freeze(folder, names, thaw) if names or thaw else states(folder)
    if config.json:
        command.show(json.dumps({"frozen": [n for n, is_it in found.items() if is_it]}))
        return
    for name, frozen in found.items():
        command.show(f"{name}: {'frozen' if frozen else 'learns'}")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


if __name__ == "__main__":
    command.run(main)
