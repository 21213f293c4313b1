"""Builds participants like the paper's from public datasets: needs the network, and
`pip install 'comigs-mlx[data]'`.

    python scripts/build_datasets.py --task multilingual --out data/multilingual

What is built, and where it differs from the paper:
`comigs_mlx.simulation.datasets.paper`. The
downloads themselves have not been run where this was written (no network there); what
is done with the rows is tested.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from comigs_mlx import command
from comigs_mlx.config import check_new, option, parse
from comigs_mlx.simulation.datasets import paper
from comigs_mlx.simulation.datasets.dividing import write_participants


@dataclass(frozen=True)
class BuildConfig:
    """Build the participants of one experiment, one folder each."""

    task: Literal["multilingual", "slimpajama", "agnews"] = option(
        "multilingual", "the experiment"
    )
    out: str = option("", "new folder, with one folder a participant", "DIR")
    tokens: int = option(paper.TOKENS, "about so many a participant trains on", "N")

    def problems(self) -> Iterator[str]:
        if not self.out:
            yield "--out DIR is missing: the new folder"
        if self.tokens < 1000:
            yield f"--tokens {self.tokens} must be at least 1000"


def main() -> None:
    config = parse(BuildConfig, "scripts.build_datasets")
    out = Path(config.out).expanduser()
    check_new(out)
    command.say(f"downloading as much as is needed for {config.task}")
    amounts = paper.amounts(config.tokens)
    shares = paper.build(paper.EXPERIMENTS[config.task], paper.load, amounts)
    notes = {"task": config.task, "characters": amounts}
    write_participants(out, shares, {"dataset.json": notes})
    command.show(f"{out}: {', '.join(shares)}")


if __name__ == "__main__":
    command.run(main)
