from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from comigs_mlx.data.formats.text import read
from comigs_mlx.data.pieces import Document, Remark
from comigs_mlx.data.reading_options import DEFAULT

SAMPLES = {
    "note.txt": "One.\n\nTwo, ünd so weiter.\n",
    "README": "Read me.\n",
    "utf16.txt": "Grüße, café".encode("utf-16"),
}


@pytest.mark.parametrize(
    ("raw", "encoding"),
    [
        ("naïve café – “quoted”".encode("cp1252"), "Windows-1252"),
        ("Grüße\r\nzwei".encode("utf-16-le"), ""),
        ("Ünïcode".encode(), ""),
        (b"\xef\xbb\xbfmark", ""),
    ],
)
def test_encodings(raw: bytes, encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    if encoding == "" and b"\0" in raw:
        raw, encoding = b"\xff\xfe" + raw, "UTF-16"
    path.write_bytes(raw)
    *remarks, document = read(path, DEFAULT)
    names = {"Windows-1252": "cp1252", "UTF-16": "utf-16", "": "utf-8-sig"}
    text = raw.decode(names[encoding]).replace("\r\n", "\n")
    assert document == Document(text, str(path))
    what = f"files in {encoding} instead of UTF-8"
    assert remarks == ([Remark(what, str(path))] if encoding else [])


def test_a_blank_file_yields_nothing(write: Callable[..., Path]) -> None:
    assert list(read(write({"a.txt": "\n \u200b\n"}) / "a.txt", DEFAULT)) == []
