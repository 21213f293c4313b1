"""English text that every Python installation carries.

    the topics of the built-in help      what the language reference says
    the standard library's docstrings    a module's docstrings are one document

About 2 MB. It depends on the version of Python. No code and no licences, so that
participants who write either bring something new; but the docstrings do stand in the
library's source, should a participant's text be that.
"""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from comigs_mlx.data.formats.demo import reference
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
"""Folders of the library that not every installation or version has."""

SHORTEST = 60
"""Characters of the shortest docstring kept; shorter ones are rather labels."""

DEFINITIONS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def documents(library: Path | None = None) -> list[str]:
    """All documents, in a fixed order, without duplicates.

    Args:
        library: The standard library's folder (default: this Python's).

    Raises:
        DataError: If this Python carries no source to read docstrings from.
    """
    root = library or Path(sysconfig.get_paths()["stdlib"])
    found = [text for file in _modules(root) if (text := docstrings(file.read_bytes()))]
    if not found:
        raise DataError(
            f"{root} holds no Python source with docstrings: use a Python installed "
            "from python.org, conda, uv or your system's packages"
        )
    return list(dict.fromkeys([*reference(), *found]))


def docstrings(source: bytes) -> str:
    """The longer docstrings of a module in the order of its source, blank line apart.

    Source that this Python cannot parse has none.
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
