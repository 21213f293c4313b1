"""Source code: a file is one document.

Skipped and counted are lock files, keys and passwords, what a program made (minified or
marked as generated), and files above 1 MB.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from comigs_mlx.data.formats.text import in_encoding
from comigs_mlx.data.pieces import Document, FileHead, Piece, Skipped
from comigs_mlx.data.reading import is_blank, read_text
from comigs_mlx.data.reading_options import Reading
from comigs_mlx.errors import DataError

ORDER = 84
KIND = "code"

ENDINGS = frozenset(
    f".{ending}"
    for ending in (
        "asm bash c cc cjs clj cljs cmake cpp cs css cu cxx dart el erl ex exs f f90 "
        "fish fs fsx gd glsl go gradle graphql groovy h hh hlsl hpp hs hxx ino java jl "
        "js jsx kt kts less lisp lua m metal mjs ml mli mm nim nix pas php pl pm proto "
        "ps1 py pyi pyx r rb rs s sass scala scm scss sh sol sql sv svelte swift tcl "
        "tf ts tsx v vb vhd vim vue wgsl zig zsh"
    ).split()
)
"""The endings of source code, in small letters."""

NAMES = frozenset(
    ("makefile", "gnumakefile", "dockerfile", "rakefile", "gemfile", "jenkinsfile")
)
"""The names of source code without an ending, in small letters."""

LOCKS = frozenset(
    "package-lock.json npm-shrinkwrap.json yarn.lock pnpm-lock.yaml bun.lockb "
    "poetry.lock pdm.lock uv.lock pipfile.lock cargo.lock gemfile.lock composer.lock "
    "go.sum flake.lock podfile.lock package.resolved mix.lock pubspec.lock "
    "packages.lock.json gradle.lockfile".split()
)
"""The names of files that a package manager writes, in small letters."""

KEYS = re.compile(r"id_(rsa|dsa|ecdsa|ed25519)|.*\.(pem|p12|pfx|ppk|jks|keystore)")
KEY = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY|PuTTY-User-Key-File")

GENERATED = re.compile(
    r"@generated|do not (edit|modify)|auto-?generated|generated (by|from|code)",
    re.IGNORECASE,
)
HEADER = 5
"""The number of lines at the top in which a file says that a program made it."""

LARGEST = 1_000_000
"""The most bytes of a source file."""

LONGEST_LINE = 5000
"""The most characters of a line that somebody wrote."""


def matches(file: FileHead) -> bool:
    """Tell whether the file is source code, a lock file, or a private key."""
    if _left_out(os.path.basename(file.path), file.head):
        return True
    name = os.path.basename(file.path).lower()
    known = file.suffix in ENDINGS or name in NAMES
    script = not file.suffix and file.head.startswith(b"#!")
    return (known or script) and b"\0" not in file.head[:1024]


def read(path: Path, reading: Reading) -> Iterator[Piece]:
    """Yield the file, or why it is left out.

    Raises:
        DataError: If the file cannot be read, or its encoding is not known.
    """
    del reading
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    what = _left_out(path.name, head)
    if what is None and size > LARGEST:
        what = "source files above 1 MB"
    if what is not None:
        yield Skipped(what, str(path))
        return
    text, encoding = read_text(path)
    if _is_made(text):
        yield Skipped("source files that a program made", str(path))
        return
    if encoding:
        yield in_encoding(encoding, path)
    if not is_blank(text):
        yield Document(text.strip("\n"), str(path))


def _left_out(name: str, head: bytes) -> str | None:
    """Return why a file is never learnt from, told by its name and beginning."""
    if name.lower() in LOCKS:
        return "lock files"
    if KEYS.fullmatch(name.lower()) or KEY.match(head):
        return "files with keys or passwords"
    return None


def _is_made(text: str) -> bool:
    """Tell whether a program wrote the file, judging by its header and its lines."""
    lines = text.split("\n")
    if any(GENERATED.search(text[:500]) for text in lines[:HEADER]):
        return True
    return max(map(len, lines)) > LONGEST_LINE
