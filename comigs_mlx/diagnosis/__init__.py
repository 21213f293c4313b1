"""What is wrong here, and what to do: the room of `python -m comigs_mlx.doctor`."""
