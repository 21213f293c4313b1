"""Gradio imported in less than half of its time.

For every component Gradio parses its own source and a `.pyi` file beside it, makes that
file anew from a template and compares: 81 times, 44 % of its import, for editors alone.
For every event of every component it also renders a docstring from a template: 216
times, 13 % of what is left. It has no setting for either, so the two functions are
replaced by ones that do nothing, as soon as their modules are there. Where a version
has no such function, nothing happens. Collecting garbage among a million objects that
all stay costs 14 %: it waits until they are there, and leaves them alone from then on.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

FOR_EDITORS = {
    "gradio.component_meta": "create_or_modify_pyi",
    "gradio.events": "EventListener.set_doc",
}
"""Module: the function or method in it that is replaced."""


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
        *owners, name = FOR_EDITORS[module.__name__].split(".")
        place: Any = module
        for owner in owners:
            place = getattr(place, owner, None)
        if hasattr(place, name):
            setattr(place, name, _nothing)


class _Finder(MetaPathFinder):
    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Find these modules; all others are left to the usual finders."""
        spec = PathFinder.find_spec(name, path) if name in FOR_EDITORS else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def _nothing(*values: Any, **named: Any) -> None:
    """Write no stub file and no docstring."""


@contextlib.contextmanager
def quickly() -> Iterator[None]:
    """Import Gradio inside this block; it changes nothing where that has happened."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        if collecting:
            gc.freeze()
            gc.enable()
