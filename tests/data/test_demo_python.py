from __future__ import annotations

import ast
from pathlib import Path

import pytest

from comigs_mlx.data import demo_python
from comigs_mlx.data.sources import demo
from comigs_mlx.errors import DataError

LONG = "A sentence that is long enough to be worth the reading of it."
MODULE = f'''"""Module. {LONG}"""

class A:
    def f(self):
        """First method. {LONG}"""

    def g(self):
        """Short."""

def h():
    """Function. {LONG}"""
    return "{LONG}"
'''


def library(root: Path) -> Path:
    files = {
        "b.py": MODULE,
        "a/c.py": f'"""In a package. {LONG}"""',
        "site-packages/d.py": MODULE + "\n# other",
        "broken.py": "def (:",
        "same.py": MODULE,
        "none.py": "x = 1",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_text(text)
    return root


def test_docstrings_come_in_the_order_of_the_source() -> None:
    assert demo_python.docstrings(MODULE.encode()) == "\n\n".join(
        f"{name}. {LONG}" for name in ("Module", "First method", "Function")
    )


@pytest.mark.parametrize("source", [b"def (:", b"x = '\\0'\n\0", b"\xff", b""])
def test_source_that_cannot_be_parsed_has_none(source: bytes) -> None:
    assert demo_python.docstrings(source) == ""


def test_documents_of_a_library_are_sorted_and_unique(tmp_path: Path) -> None:
    found = demo_python.documents(library(tmp_path))
    mine = [text for text in found if LONG in text]
    assert [text.split(".")[0] for text in mine] == ["In a package", "Module"]
    assert found[: -len(mine)] == list(dict.fromkeys(demo.reference()))


def test_no_source_at_all(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="holds no Python source with docstrings: use a"
    ):
        demo_python.documents(tmp_path)


def test_this_python_carries_a_megabyte_and_no_code() -> None:
    found = demo_python.documents()
    assert sum(map(len, found)) > 1_000_000
    assert len(set(found)) == len(found)
    source = ast.parse(Path(demo_python.__file__).read_text())
    assert not any(ast.unparse(source)[:200] in text for text in found)
