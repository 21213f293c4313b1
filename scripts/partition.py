"""Divides one labelled corpus among the participants of a simulation.

See `comigs_mlx.simulation.datasets.dividing`, or `python scripts/partition.py --help`.
"""

from comigs_mlx import command
from comigs_mlx.config import parse
from comigs_mlx.simulation.datasets.dividing import PartitionConfig, partition, table


def main() -> None:
    config = parse(PartitionConfig, "scripts.partition")
    command.show(table(partition(config)))


if __name__ == "__main__":
    command.run(main)
