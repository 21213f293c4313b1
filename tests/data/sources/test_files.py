from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from comigs_mlx.data.formats import markdown
from comigs_mlx.data.pieces import Message, Piece
from comigs_mlx.data.reading_options import Reading
from comigs_mlx.data.reading_report import ReadingReport, counted
from comigs_mlx.data.sources import files
from comigs_mlx.errors import DataError

Write = Callable[..., Path]


def test_links_in_a_circle_are_passed_over(write: Write) -> None:
    folder = write({"a.txt": "a", "b/c.txt": "c"})
    (folder / "self.txt").symlink_to(folder / "self.txt")
    (folder / "b" / ".hidden").symlink_to(folder / "b" / ".hidden")
    (folder / "b" / "up").symlink_to(folder)
    found = files.read(str(folder))
    assert [s["text"] for s in found.splits["all"]] == ["a", "c"]
    assert found.notes == [
        "skipped 1 link or device that is no file",
        "skipped 1 linked folder",
    ]


def test_what_a_mac_leaves_in_a_folder(write: Write) -> None:
    names = [".b.txt.icloud", ".DS_Store", "._a.txt", "Icon\r", "empty.pages"]
    folder = write({"a.txt": "a", **dict.fromkeys(names, "")})
    assert files.read(str(folder)).notes == [
        "skipped 1 file that is in iCloud alone (open them in the Finder once)",
        "skipped 2 empty files",
    ]


def test_whatever_a_format_raises_is_one_line(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path, reading: Reading) -> Iterator[Piece]:
        yield Message("Ann", "lost", str(path))
        raise RuntimeError("of a library\nin two lines")

    monkeypatch.setattr(markdown, "read", read)
    folder = write({"a.md": "a", "b.txt": "b"})
    found = files.read(str(folder))
    assert [s["text"] for s in found.splits["all"]] == ["b"]
    assert found.report is not None
    assert found.report.messages == {}
    line = f"{folder}/a.md: RuntimeError: of a library in two lines"
    assert found.report.problems == [line]
    (folder / "b.txt").unlink()
    with pytest.raises(DataError) as error:
        files.read(str(folder))
    first, second = str(error.value).splitlines()
    assert first.startswith(f"{folder}: no text found: ")
    assert second == f"not read: {line}"


def test_the_report_is_plain_data(write: Write) -> None:
    folder = write({"a.md": "---\nk: v\n---\nText.", "b.md": "", "c.py": "x = 1"})
    report = files.read(str(folder)).report
    assert report is not None
    empty = dict.fromkeys(("messages", "speakers", "remarks"), {})
    assert report.to_json() == {
        **empty,
        "files": {"markdown": 2, "code": 1},
        "documents": {
            "markdown": {"count": 1, "characters": 5, "places": []},
            "code": {"count": 1, "characters": 5, "places": []},
        },
        "cut": {
            "front matter": {"count": 1, "characters": 13, "places": [f"{folder}/a.md"]}
        },
        "skipped": {
            "empty files": {"count": 1, "characters": 0, "places": [f"{folder}/b.md"]}
        },
        "problems": [],
        "read": [f"{folder}/{name}" for name in ("a.md", "b.md", "c.py")],
        "me": [],
    }


@pytest.mark.parametrize(
    ("what", "one"),
    [
        ("files or folders without text", "1 file or folder without text"),
        ("links or devices that are no file", "1 link or device that is no file"),
        ("PDF files (install it)", "1 PDF file (install it)"),
        ("media without text", "1 media without text"),
    ],
)
def test_one_of_several(what: str, one: str) -> None:
    assert counted(1, what) == one
    assert counted(1200, what) == f"1,200 {what}"


def test_only_the_first_problems_are_notes() -> None:
    report = ReadingReport(problems=[f"{n}" for n in range(8)])
    assert report.notes()[-2:] == ["not read: 4", "not read: 3 more files"]
