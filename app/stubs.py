"""Gradio without the stub files that it writes each time it is imported.

For every component Gradio parses its own source and a `.pyi` file beside it, makes that
file anew from a template and compares: 81 times, 44 % of its import, for editors alone.
It has no setting for that, so its function is replaced by one that does nothing, as
soon as its module is there. Where a version has no such function, nothing happens.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

MODULE = "gradio.component_meta"
FUNCTION = "create_or_modify_pyi"


class _Loader(Loader):
    """Loads the module as usual, and then replaces its function."""

    def __init__(self, usual: Loader) -> None:
        self._usual = usual

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As usual."""
        return self._usual.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, and replace the function if it is there."""
        self._usual.exec_module(module)
        if hasattr(module, FUNCTION):
            setattr(module, FUNCTION, _nothing)


class _Finder(MetaPathFinder):
    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Find the one module; all others are left to the usual finders."""
        spec = PathFinder.find_spec(name, path) if name == MODULE else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def _nothing(*values: Any) -> None:
    """Write no stub file."""


@contextlib.contextmanager
def unwritten() -> Iterator[None]:
    """Import Gradio inside this block; it changes nothing where that has happened."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
