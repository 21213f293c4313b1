"""Demo text: `demo` or `demo:<persona>`, made at run time, nothing downloaded.

    reference   the language reference that every Python carries (the default)
    code        functions and classes of the standard library
    journal     an invented lighthouse keeper's log, written for this package

They are three writers with three styles, so that a mixture has something to specialise
in. The first two depend on the version of Python, the journal on nothing.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator

from comigs_mlx.data.demo_journal import entries
from comigs_mlx.data.reading_options import DEFAULT, Reading
from comigs_mlx.data.reading_progress import Advance, ignore, with_progress
from comigs_mlx.data.reading_report import of_samples
from comigs_mlx.data.splits import RawSplits
from comigs_mlx.errors import DataError

ORDER = 10
"""This source is tried first: `demo` is the demo even where a folder has that name
(which is ./demo).
"""

MAX_BYTES = 300_000
"""The most UTF-8 bytes of a persona; the documents beyond are left out."""

MAX_DOCUMENT = 20_000
"""The most characters of a document; a longer one would outweigh a whole split."""

MODULES = (
    "argparse ast calendar cmd configparser contextlib copy csv dataclasses difflib "
    "fractions functools heapq inspect json.decoder json.encoder logging mailbox "
    "pathlib random sched shlex statistics string tempfile textwrap threading tokenize"
).split()
"""The modules that the code persona is read from; all are plain Python since 3.10."""


def matches(source: str) -> bool:
    """Tell whether `source` is `demo` or `demo:<persona>`."""
    return source.split(":")[0] == "demo"


def read(
    source: str, reading: Reading = DEFAULT, advance: Advance = ignore
) -> RawSplits:
    """Make the persona's documents.

    Raises:
        DataError: If there is no such persona, or this Python lacks its text.
    """
    del reading  # says nothing about text that is made here
    name = source.partition(":")[2] or "reference"
    if name not in PERSONAS:
        raise DataError(
            f"unknown demo persona {name!r}: choose one of {', '.join(PERSONAS)}"
        )
    texts = with_progress(_capped(PERSONAS[name]()), "documents", advance)
    documents = [{"text": text} for text in texts]
    if not documents:
        raise DataError(f"this Python lacks the text of demo:{name}: use demo:journal")
    return RawSplits({"all": documents}, report=of_samples("demo", documents))


def reference() -> Iterator[str]:
    """Yield the topics of Python's built-in help, in alphabetical order."""
    try:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ImportError:
        return
    yield from (topics[name].strip("\n") for name in sorted(topics))


def code() -> Iterator[str]:
    """Yield the top-level functions and classes of `MODULES`, in order."""
    for module in MODULES:
        source = _source(module)
        lines = source.splitlines()
        for node in ast.parse(source).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                yield "\n".join(lines[first - 1 : node.end_lineno])


PERSONAS: dict[str, Callable[[], Iterable[str]]] = {
    "reference": reference,
    "code": code,
    "journal": entries,
}
"""The function that makes the documents of each persona."""


def _source(module: str) -> str:
    """Return the source of `module` without running it; "" where Python carries
    none.
    """
    spec = importlib.util.find_spec(module)
    get_source = getattr(spec and spec.loader, "get_source", lambda name: None)
    return get_source(module) or ""


def _capped(texts: Iterable[str]) -> Iterator[str]:
    room = MAX_BYTES
    # Several topics of Python's help are one text under two names.
    for text in dict.fromkeys(texts):
        size = len(text.encode())
        if len(text) <= MAX_DOCUMENT and size <= room:
            room -= size
            yield text
