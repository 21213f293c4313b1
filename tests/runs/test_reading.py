"""A run's own text is read again as its training read it."""

import json

import pytest

import tests.tiny as tiny
from comigs_mlx import evaluate, train
from tests.data.documents import made

SHORT = {**tiny.TRAINING, "steps": 2, "valid_batches": 1}


def test_a_table_and_documents(tiny_folder, write, tmp_path, cli):
    rows = "".join(f'{i},"kept number {i}, and more"\n' for i in range(40))
    documents = {"a.docx": made.docx(["word " * 20]), "b.pdf": made.pdf([["page"]])}
    data = write({"notes.csv": f"id,body\n{rows}", **documents})
    given = {"model": tiny_folder(), "data": data, "run": tmp_path / "run"}
    code, _, err = cli(train.main, **SHORT, **given)
    assert code == 2  # too little text without the table
    assert f"not read: {data}/notes.csv: found the columns id, body: say what " in err
    code, _, err = cli(train.main, **SHORT, **given, columns="text=body")
    assert code == 0, err
    flags = {"run": given["run"], "split": "all", "experts": "base", "json": True}
    code, out, err = cli(evaluate.main, **flags)
    assert code == 0, err
    assert json.loads(out)["documents"] == 42
    code, out, _ = cli(
        evaluate.main, **flags, data=data / "notes.csv", columns="text=id"
    )
    assert code == 0
    assert json.loads(out)["documents"] == 40


@pytest.mark.parametrize("columns", ["body", "text="])
def test_impossible_columns_stop_a_training_before_it_begins(columns, tmp_path, cli):
    code, _, err = cli(train.main, columns=columns, run=tmp_path / "run")
    assert (code, (tmp_path / "run").exists()) == (2, False)
    assert f"--columns {columns}: write text=COLUMN, or prompt=COLUMN" in err
