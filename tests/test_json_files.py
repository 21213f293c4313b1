"""JSON of our own, read back: one sentence for whatever is wrong with it."""

import ast
from pathlib import Path

import pytest

import comigs_mlx
from comigs_mlx import json_files
from comigs_mlx.errors import RunError

PACKAGE = Path(comigs_mlx.__file__).parent


def refused(file, version=None):
    with pytest.raises(RunError) as error:
        json_files.read(file, RunError, "write it again", version)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_object_comes_back(tmp_path):
    file = tmp_path / "a.json"
    file.write_text('{"format_version": 1, "name": "Ärger"}')
    found = {"format_version": 1, "name": "Ärger"}
    assert json_files.read(file, RunError, "") == found
    assert json_files.read(file, RunError, "", version=1) == found


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff", b"[" * 100_000])
def test_what_is_none_is_told_with_what_to_do(tmp_path, content):
    file = tmp_path / "a.json"
    file.write_bytes(content)
    text = refused(file)
    assert text.startswith(f"cannot read {file}, which is damaged or incomplete (")
    assert text.endswith("): write it again")


def test_a_missing_file_and_another_version(tmp_path):
    file = tmp_path / "a.json"
    assert "No such file" in refused(file)
    file.write_text('{"format_version": 3}')
    assert refused(file, 1) == f"{file} has format 3, this version reads 1: update"
    file.write_text("{}")
    assert "('format_version' is missing)" in refused(file, 1)


def test_no_other_module_says_in_its_own_words_that_a_file_is_damaged():
    found = {
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        if file.parent.name not in ("documents", "formats")  # the user's own files
        or "federation" in file.parts
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.JoinedStr)
        and any(word in ast.unparse(node) for word in ("damaged", "incomplete"))
    }
    assert found == {
        "errors.py",
        "federation/exchanges/base.py",  # what the line did to it
        "federation/formats/adapter.py",  # a file of a repository, not of this device
        "runs/folder.py",  # a save that lacks files
    }


DAMAGED = [b"", b"[]", b"3", b"null", b"\xff", b"[" * 100_000, b'{"a": ' + b"9" * 5000]


@pytest.mark.parametrize("content", [None, *DAMAGED])
def test_what_can_be_done_without_is_left_out_whatever_is_wrong(tmp_path, content):
    file = tmp_path / "a.json"
    if content is not None:
        file.write_bytes(content)
    assert json_files.known(file) == {}
    file.write_text('{"name": "Ärger"}', encoding="utf-8")
    assert json_files.known(file) == {"name": "Ärger"}
