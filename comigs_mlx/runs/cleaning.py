"""What this program keeps on the device, found and deleted again; needs no MLX.

A file is deleted only if it is an ordinary file whose path has the form that this
program gives it: everything else is left, and told. No link is followed, neither in the
search nor in the deletion, which goes through open folders (`os.fwalk`): a folder that
somebody replaces by a link meanwhile leads nowhere.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from comigs_mlx.errors import ComigsError
from comigs_mlx.files import LEFTOVER, cache_dir, state_dir
from comigs_mlx.runs import description
from comigs_mlx.runs.place import Place, locked

DIGEST = "[0-9a-f]{64}"
EXPERTS = (
    r"generalist(-\d+)?/(adapters\.safetensors|adapter_config\.json)"
    r"|specialist/experts\.safetensors|router/router\.safetensors"
)
SAVES = r"(state|best|before)/([\w-]+/)*[\w.-]+\.(safetensors|jsonl?|yaml|lock)"
TOP = (
    r"config\.yaml|(comigs|federation|lean|prior|progress|changing)\.json"
    r"|\.secrets\.json|(metrics|rounds|held_out)\.jsonl|\.lock|\.train\.[\w.]+"
)
CONVERSATIONS = ".conversations"
"""The app's folder beside the runs."""


@dataclass(frozen=True)
class Kind:
    """One kind of what is kept.

    Attributes:
        name: The word that `--only` takes.
        what: A few words on what it is.
        pattern: A regular expression that matches the whole path of each of its files,
            below the folder that is searched.
    """

    name: str
    what: str
    pattern: str


CACHES = (
    Kind(
        "tokens",
        "your text as numbers, so that it is tokenised once",
        rf"tokens/{DIGEST}/(entry\.json|\w+\.npy)",
    ),
    Kind("uploads", "what the app was given, kept for a day", r"uploads/.+"),
    Kind(
        "demo-model",
        "the demo model (93 MB to fetch again)",
        r"demo-model/[\w.-]+(\.lock|/[\w.-]+\.(json|safetensors|jinja))",
    ),
    Kind(
        "fingerprints",
        "hashes of the base models that were used",
        rf"fingerprints/{DIGEST}\.json",
    ),
    Kind(
        "blas",
        "the fast BLAS for Linux, and its self-test's result",
        r"blas/(openblas-[\w.-]+\.so|tested-[0-9a-f]+\.json)|libgfortran-[\w.-]+/[\w.]+",
    ),
)
"""What is below the user's cache folder, the most private first."""

RUN = Kind("runs", "experts, routers, saves", f"{EXPERTS}|{SAVES}|{TOP}")
TALKS = Kind("conversations", "what was said in the app", r"[0-9a-f]{32}\.json")
TYPED = Kind("typed", "the lines that were typed in `chat`", "chat_history")
KINDS = (*CACHES, TYPED, RUN, TALKS)


@dataclass
class Portion:
    """What there is of one kind in one folder.

    Attributes:
        kind: The kind of its files.
        root: The folder that was searched, which is no link.
        files: The number of its files.
        size: The bytes that they have together.
    """

    kind: Kind
    root: Path
    files: int = 0
    size: int = 0


@dataclass
class Inventory:
    """What can be deleted, and what is left.

    Attributes:
        portions: The portions that can be deleted.
        foreign: Paths that this program did not make, or that are links.
        busy: Runs that a process is using; they are left.
    """

    portions: list[Portion] = field(default_factory=list)
    foreign: list[Path] = field(default_factory=list)
    busy: list[Path] = field(default_factory=list)

    def search(self, root: Path, kinds: Sequence[Kind]) -> None:
        """Add what is in a folder.

        Args:
            root: The folder; nothing is added where there is none.
            kinds: The kinds that are looked for.
        """
        portions = {kind: Portion(kind, root) for kind in kinds}
        for path, folder, name in _entries(root):
            kind = _kind(path, kinds)
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if kind is None or not stat.S_ISREG(status.st_mode):
                self.foreign.append(root / path)
            else:
                portions[kind].files += 1
                portions[kind].size += status.st_size
        self.portions += [portion for portion in portions.values() if portion.files]


def inventory(runs: Path | None = None) -> Inventory:
    """Find what this program keeps.

    Args:
        runs: A folder of runs, to be searched too, with the app's conversations there.
    """
    found = Inventory()
    with contextlib.suppress(OSError):  # no home folder, so no cache
        # The user may have put the folder elsewhere; links in it are another matter.
        found.search(cache_dir().resolve(), CACHES)
    with contextlib.suppress(OSError):
        found.search(state_dir().resolve(), (TYPED,))
    if runs is None:
        return found
    for path in sorted(runs.iterdir()) if runs.is_dir() else []:
        if not is_run(path):
            continue
        if Place(path).is_in_use():
            found.busy.append(path)
        else:
            found.search(path, (RUN,))
    found.search(runs / CONVERSATIONS, (TALKS,))
    return found


def is_run(path: Path) -> bool:
    """Tell whether a folder, and no link to one, holds a run of this program."""
    if path.is_symlink() or not path.is_dir():
        return False
    with contextlib.suppress(ComigsError):
        return bool(description.base_model(description.read(path / "comigs.json")))
    return False


def delete(portion: Portion) -> int:
    """Delete the files of a portion, and the folders that are empty then.

    Returns:
        How many bytes were deleted.

    Raises:
        RunError: If a process has begun to use the run meanwhile.
        OSError: If a file cannot be deleted; those before it are gone.
    """
    if portion.kind is not RUN:
        return _delete(portion)
    with locked(portion.root, "--runs"):
        return _delete(portion)


def _delete(portion: Portion) -> int:
    freed = 0
    emptied: set[Path] = set()
    for path, folder, name in _entries(portion.root):
        if _kind(path, (portion.kind,)) is None:
            continue
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            os.unlink(name, dir_fd=folder)
            freed += status.st_size
            emptied.update((portion.root / path).parents)
    for parent in sorted(emptied, key=lambda path: len(path.parts), reverse=True):
        if parent.is_relative_to(portion.root):
            with contextlib.suppress(OSError):  # somebody else's file is in it
                parent.rmdir()
    return freed


def _entries(root: Path) -> Iterator[tuple[str, int, str]]:
    """Everything in a folder but folders: path below it, open folder, and name.

    Links are among them, those to folders too. Inner folders come first.
    """
    if root.is_symlink() or not root.is_dir():
        return
    for folder, inner, names, number in os.fwalk(root, topdown=False):
        links = [name for name in inner if (Path(folder) / name).is_symlink()]
        for name in [*names, *links]:
            path = (Path(folder) / name).relative_to(root)
            yield path.as_posix(), number, name


def _kind(path: str, kinds: Sequence[Kind]) -> Kind | None:
    """The kind of the file at a path; a leftover of a killed process has the kind of
    what it was to become.
    """
    parts = path.split("/")
    whole = "/".join(_finished(part) for part in parts)
    return next((k for k in kinds if re.fullmatch(k.pattern, whole)), None)


def _finished(name: str) -> str:
    """The name that a temporary one of `files.replacing` was to become."""
    if LEFTOVER.fullmatch(name):
        return re.sub(r"^\.(.+)-[0-9a-f]{16}(?:\.old|\.tmp(\..+)?)?$", r"\1\2", name)
    return name
