"""Takes the last change of a run back, byte for byte."""

from __future__ import annotations

import contextlib

from comigs_mlx.errors import RunError
from comigs_mlx.runs import versions
from comigs_mlx.runs.folder import RunFolder
from comigs_mlx.training import checkpoint


def undo(folder: RunFolder, command: str, force: bool = False) -> str:
    """Let a run be what it was before its last change.

    Args:
        folder: The run.
        command: The command that must have made the change.
        force: Whether to do it where the run was trained since, which is lost then.

    Returns:
        A sentence on what was taken back.

    Raises:
        RunError: If there is nothing to take back, or another command made the last
            change, or steps would be lost; nothing is changed then.
    """
    folder.check_exists()
    with folder.in_use():
        if not (found := versions.versions(folder.path)):
            raise RunError(f"{folder.path} was not changed: there is nothing to undo")
        last = found[-1]
        if last.command != command:
            raise RunError(
                f"the last change of {folder.path} is of {last.command}: undo it with "
                f"python -m comigs_mlx.{last.command} --run {folder.path} --undo"
            )
        steps = _step(folder) - last.step
        if steps > 0 and not force:
            raise RunError(
                f"{folder.path} was trained for {steps} steps since: --undo would lose "
                "them; add --force to lose them"
            )
        if _exchanged(folder, last) and not force:
            raise RunError(
                f"{folder.path} and its federation have exchanged generalists since: "
                "--undo would bring back those from before; add --force to do so, and "
                "pull them again"
            )
        versions.undo(folder.path, last)
    return f"undone: {last.what}; the run is as it was at step {last.step}"


def _exchanged(folder: RunFolder, last: versions.Version) -> bool:
    """Tell whether what the run knows of its federation has changed since."""
    before, now = last.folder / versions.WITNESS, folder.path / versions.WITNESS
    contents = [f.read_bytes() if f.is_file() else b"" for f in (before, now)]
    return contents[0] != contents[1]


def _step(folder: RunFolder) -> int:
    """Return the step of the newest save, 0 where none can be read."""
    with contextlib.suppress(RunError):
        position = checkpoint.read_state(checkpoint.latest(folder.states))["position"]
        return int(position["step"])
    return 0
