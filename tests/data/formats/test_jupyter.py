from __future__ import annotations

import json
from pathlib import Path

import pytest

from comigs_mlx.data.formats.jupyter import read
from comigs_mlx.data.pieces import Cut, Document
from comigs_mlx.data.reading_options import DEFAULT
from comigs_mlx.errors import DataError

OUTPUTS = [{"output_type": "stream", "text": ["noise\n"]}]
CELLS = [
    {"cell_type": "markdown", "source": ["# Title\n", "words"]},
    {"cell_type": "code", "source": "x = 1\r\nx", "outputs": OUTPUTS},
    {"cell_type": "code", "source": [], "outputs": []},
]
SAMPLES = {
    "a.ipynb": json.dumps({"cells": CELLS, "nbformat": 4}),
    "old.json": json.dumps({"worksheets": [{"cells": CELLS}], "nbformat": 3}),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_sources_without_outputs(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(SAMPLES[name])
    assert list(read(path, DEFAULT)) == [
        Cut("outputs of notebooks", len(json.dumps(OUTPUTS)), str(path)),
        Document("# Title\nwords\n\nx = 1\nx", str(path)),
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"cells": [', "no notebook: "),
        ('{"a": 1}', "no notebook: expected an object with a list of cells"),
        ('{"cells": ' + "[" * 100_000, "no notebook: nested too deeply"),
    ],
)
def test_what_is_no_notebook(content: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    path.write_text(content)
    with pytest.raises(DataError, match=rf"a\.ipynb: {problem}"):
        list(read(path, DEFAULT))
