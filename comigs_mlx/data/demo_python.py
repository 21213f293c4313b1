"""English text that every Python installation carries.

    the topics of the built-in help      what the language reference says
    the standard library's docstrings    a module's docstrings are one document

It is about 2 MB and depends on the version of Python. It holds no code and no licences,
so that participants who write either bring something new. But the docstrings stand in
the library's source too, which may be a participant's text.
"""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from comigs_mlx.data.sources.demo import reference
from comigs_mlx.errors import DataError

OPTIONAL = {
    "dist-packages",
    "idlelib",
    "lib2to3",
    "site-packages",
    "test",
    "tkinter",
    "turtledemo",
}
"""The folders of the library that not every installation or version has."""

SHORTEST = 60
"""The characters of the shortest docstring kept; shorter ones are only labels."""

DEFINITIONS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def documents(library: Path | None = None) -> list[str]:
    """Return all documents, in a fixed order, without duplicates.

    Args:
        library: The folder of the standard library (default: this Python's).

    Raises:
        DataError: If this Python carries no source to read docstrings from.
    """
    root = library or Path(sysconfig.get_paths()["stdlib"])
    texts = [text for file in _modules(root) if (text := docstrings(file.read_bytes()))]
    if not texts:
        raise DataError(
            f"{root} holds no Python source with docstrings: use a Python installed "
            "from python.org, conda, uv or your system's packages"
        )
    return list(dict.fromkeys([*reference(), *texts]))


def docstrings(source: bytes) -> str:
    """Join the longer docstrings of a module in source order, with blank lines between.

    A module that this Python cannot parse gives "".
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library's authors, not of ours
        try:
            nodes = ast.walk(ast.parse(source))
        except (SyntaxError, ValueError):
            return ""
    owners = [node for node in nodes if isinstance(node, DEFINITIONS)]
    owners.sort(key=lambda node: getattr(node, "lineno", 0))
    texts = dict.fromkeys(ast.get_docstring(node) or "" for node in owners)
    return "\n\n".join(text for text in texts if len(text) >= SHORTEST)


def _modules(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*.py")):
        if path.relative_to(root).parts[0] not in OPTIONAL:
            yield path
