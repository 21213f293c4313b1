"""Argument and attribute docs are whole clauses, not fragments such as "Of it."

`ROOMS` grows: a folder is added once its docstrings are whole. `FRAGMENT` finds what a
reader must complete from the name beside it: one or two words, or a beginning that
hangs on another sentence ("Of the run.", "Where it lies.", "What was given.").
"""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "comigs_mlx"

ROOMS = (
    "benchmark",
    "conversations",
    "data",
    "diagnosis",
    "exports",
    "federation/exchanges",
    "federation/formats",
    "federation/rounds",
    "model",
    "platform",
    "reports",
    "runs",
    "serving",
    "simulation",
    "terminal",
    "tiny_base",
    "training",
)

NOT_YET = {"federation/formats/manifest.py"}

SECTION = re.compile(r"^(?:Args|Attributes):\n((?:    .+\n?)+)", re.MULTILINE)
ENTRY = re.compile(r"^    (\w+(?:, \w+)*): (.+(?:\n {8}.+)*)", re.MULTILINE)
FRAGMENT = re.compile(
    r"(?:\S+\s+)?\S+$"
    r"|(?:Of|For|In|From|As|By|With|To|At|On|Where|What|Which|Whose|Who|How|Told|Made)\b"
)


def fragments(source):
    """Name and text of each entry that is a fragment."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for node in ast.walk(ast.parse(source)):
        docs = ast.get_docstring(node) if isinstance(node, kinds) else None
        for section in SECTION.finditer(docs or ""):
            for name, text in ENTRY.findall(section[1]):
                if FRAGMENT.match(text):
                    yield f"{name}: {text}"


@pytest.mark.parametrize("room", ROOMS)
def test_says_what_each_argument_is(room):
    files = sorted((PACKAGE / room).rglob("*.py"))
    assert files
    found = [
        f"{name}: {entry}"
        for file in files
        if (name := file.relative_to(PACKAGE).as_posix()) not in NOT_YET
        for entry in fragments(file.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


def test_finds_fragments_and_passes_clauses():
    source = '''
def read(exchange, snapshot, seed):
    """Read.

    Args:
        exchange: Where.
        snapshot: Of the state of the repository, as
            it was.
        seed: The seed of all draws.
    """
'''
    assert [entry.split(":")[0] for entry in fragments(source)] == [
        "exchange",
        "snapshot",
    ]
