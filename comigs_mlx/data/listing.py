"""Lists the files of a folder that may be read, and counts what is passed over.

Hidden files and folders (but for those of a Maildir), linked folders, links that leave
the folder, devices, and what a .gitignore excludes are passed over.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from comigs_mlx.data.mac_access import reason
from comigs_mlx.data.reading import TEXT_ENDINGS, stays_inside
from comigs_mlx.errors import DataError, raise_all

IGNORED = "files or folders that .gitignore excludes"

SECRETS = re.compile(r"\.env(\..*)?|\.netrc|\.npmrc|\.pgpass|\.htpasswd|\.pypirc")
"""The names of hidden files that hold passwords."""

INSTALLED = frozenset(("node_modules", "bower_components", "site-packages"))
"""The names of folders in which package managers put other people's code."""

Excludes = Callable[[str], bool]
"""Tells whether rules exclude a path; folders end in a slash."""


@dataclass
class Listing:
    """The files of a folder.

    Attributes:
        files: The files that may be read, sorted by their path's parts.
        skipped: Maps what was passed over to its number.
    """

    files: list[Path] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def listed(folder: Path) -> Listing:
    """List the files of `folder` and of its subfolders.

    Raises:
        DataError: If a folder cannot be listed; the text names every such folder.
    """
    listing, problems = Listing(), list[str]()
    found = sorted(_files(str(folder), (), listing, problems))
    raise_all(DataError, sorted(problems))
    for _, path, is_link in found:
        if is_link and not stays_inside(path, folder):
            listing.skipped[f"links leaving {folder}"] += 1
        else:
            listing.files.append(path)
    return listing


def _files(
    directory: str,
    rules: tuple[Excludes, ...],
    listing: Listing,
    problems: list[str],
) -> Iterator[tuple[list[str], Path, bool]]:
    """Yield the parts, the path and whether it is a link of each file."""
    waiting = [(directory, rules)]
    while waiting:
        directory, rules = waiting.pop()
        try:
            with os.scandir(directory) as entries:
                inside = list(entries)
        except OSError as error:
            problems.append(f"{error.filename}: cannot be read: {reason(error)}")
            continue
        if any(entry.name == ".gitignore" for entry in inside):
            rules = (*rules, _gitignore(directory))
        for entry in inside:
            if _is_hidden(entry, listing) or _is_excluded(entry, rules, listing):
                continue
            if entry.is_dir():
                if entry.name in INSTALLED:
                    listing.skipped["folders of installed packages"] += 1
                elif entry.is_symlink():
                    listing.skipped["linked folders"] += 1
                else:
                    waiting.append((entry.path, rules))
            elif entry.is_file():
                yield entry.path.split(os.sep), Path(entry.path), entry.is_symlink()
            else:
                listing.skipped["links or devices that are no file"] += 1


def _is_hidden(entry: os.DirEntry[str], listing: Listing) -> bool:
    """Tell whether an entry is hidden, and count it if it was hidden by hand.

    macOS writes ._NAME beside each file, and .DS_Store into each folder.
    """
    name = entry.name
    if not name.startswith(".") or _is_mail_folder(entry):
        return False
    if SECRETS.fullmatch(name):
        listing.skipped["files with keys or passwords"] += 1
        return True
    is_text = not name.startswith("._") and name.lower().endswith(TEXT_ENDINGS)
    if is_text or entry.is_dir():
        listing.skipped["hidden files or folders"] += 1
    return True


def _is_mail_folder(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a folder of mail, such as the .Sent of a Maildir."""
    parts = (os.path.join(entry.path, name) for name in ("cur", "new"))
    return all(map(os.path.isdir, parts))


def _is_excluded(
    entry: os.DirEntry[str], rules: tuple[Excludes, ...], listing: Listing
) -> bool:
    if not rules:
        return False
    path = entry.path + "/" * entry.is_dir(follow_symlinks=False)
    if any(excludes(path) for excludes in rules):
        listing.skipped[IGNORED] += 1
        return True
    return False


def _gitignore(directory: str) -> Excludes:
    """Read the .gitignore of `directory`; one that cannot be read excludes nothing."""
    from pathspec import GitIgnoreSpec

    try:
        raw = Path(directory, ".gitignore").read_bytes()
        spec = GitIgnoreSpec.from_lines(raw.decode("utf-8", "replace").splitlines())
    except (OSError, ValueError):
        return lambda path: False
    return lambda path: spec.match_file(path.removeprefix(f"{directory}{os.sep}"))
