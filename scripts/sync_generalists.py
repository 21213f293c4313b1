"""The same as `python -m comigs_mlx.sync`."""

from comigs_mlx import command
from comigs_mlx.sync import main

if __name__ == "__main__":
    command.run(main)
