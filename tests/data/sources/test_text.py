from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comigs_mlx.data.reading import blocks
from comigs_mlx.data.sources import files, splits
from comigs_mlx.data.splits import RawSplits, load_splits
from comigs_mlx.errors import DataError

Write = Callable[..., Path]


def read(source: str) -> RawSplits:
    """Read `source` as `load_splits` does."""
    plugin = splits if splits.matches(source) else files
    return plugin.read(source)


def found(source: Path, split: str = "all") -> list[str]:
    return [sample["text"] for sample in read(str(source)).splits[split]]


def test_blocks_are_cut_at_blank_lines_and_keep_leading_spaces() -> None:
    assert blocks("\n  indented\nsecond\n\n\n\nnext \n\n   \n") == [
        "  indented\nsecond",
        "next ",
    ]


def test_split_files_are_read_in_sorted_order(write: Write) -> None:
    folder = write(
        {
            "train.txt": "c\n\nd",
            "train.md": "a\n\nb",
            "valid.md": "e",
            "notes.txt": "not a split",
        }
    )
    assert found(folder, "train") == ["a", "b", "c", "d"]
    assert found(folder, "valid") == ["e"]
    assert set(read(str(folder)).splits) == {"train", "valid"}


def test_a_tree_gives_one_document_a_file_and_skips_what_is_hidden(
    write: Write,
) -> None:
    folder = write(
        {
            "b.txt": "two\n\nblocks\n",
            "a/z.MD": " one",
            ".git/x.txt": "no",
            ".hidden.txt": "no",
            "picture.png": b"\xff",
            "c.md": "\n \n",
        }
    )
    assert found(folder) == [" one", "two\n\nblocks"]
    assert read(str(folder)).notes == [
        "skipped 2 hidden files or folders",
        "skipped 1 empty file",
    ]


def test_what_else_may_hold_text_is_told_by_its_ending(write: Write) -> None:
    names = ["a.doc", "b.DOC", "c/d.rtf", "c/e.yaml", "f.pages", "g.xls", "i.key"]
    names += ["h.odt", "song.mp3", ".DS_Store", "._x.txt", "x.txt"]
    notes = read(str(write(dict.fromkeys(names, "x")))).notes
    (note,) = notes
    assert note.startswith("not read: 2 .doc, 1 ")
    assert note.endswith(", 2 more files (no format knows them)")


def test_archives_are_not_entered(write: Write) -> None:
    folder = write({"a.zip": b"PK\3\4", "b.txt": "b"})
    assert read(str(folder)).notes == ["skipped 1 zip archive (unpack them first)"]
    with pytest.raises(DataError, match=r"a\.zip: a zip archive: unpack it first"):
        read(str(folder / "a.zip"))


def test_a_folder_that_cannot_be_listed_is_named(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For root as well, whom no permission stops."""
    folder = write({"open/a.txt": "a", "closed/b.txt": "b", "shut/c.txt": "c"})
    real = os.scandir

    def scandir(path: str) -> object:
        if Path(path).name in ("closed", "shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError) as error:
        read(str(folder))
    assert str(error.value).splitlines() == [
        f"{folder}/{name}: cannot be read: Permission denied"
        for name in ("closed", "shut")
    ]


BLANKS = [
    "",
    " ",
    "\t",
    "\u00a0",
    "\u200b",
    "\ufeff",
    "\u3000 \u2060",
    "\u2028",
    "\x0c",
]


@pytest.mark.parametrize("blank", BLANKS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\r\n"])
def test_a_line_without_ink_parts_documents(blank: str, end: str, write: Write) -> None:
    text = end.join([blank, "  one", "line", blank, blank, "two ", blank])
    folder = write({"train.txt": text.encode(), "valid.txt": "v"}, "splits")
    assert found(folder, "train") == ["  one\nline", "two "]
    file = write({"one.txt": text.encode()}, "file") / "one.txt"
    assert found(file) == ["  one\nline", "two "]


@pytest.mark.parametrize("blank", BLANKS)
def test_a_file_without_ink_is_empty(blank: str, write: Write) -> None:
    folder = write({"a.txt": f"{blank}\n\n{blank}", "b.txt": "b"})
    assert found(folder) == ["b"]
    assert read(str(folder)).notes == ["skipped 1 empty file"]


LINES = st.text(st.sampled_from("ab \t\u00a0\u200bü\x0b"), max_size=4)


@settings(deadline=None)
@given(st.lists(LINES, max_size=12), st.sampled_from(["\n", "\r\n", "\r"]))
def test_no_line_with_ink_is_lost_and_none_changed(lines: list[str], end: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "x.txt")
        file.write_bytes(end.join([*lines, "last"]).encode())
        kept = [line for text in found(file) for line in text.split("\n")]
    ink = [line for line in [*lines, "last"] if set(line) & set("abü")]
    assert kept == [*ink[:-1], "last"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["train.txt", "train.jsonl"])
def test_other_encodings_are_refused_with_file_and_line(
    name: str, encoding: str, write: Write
) -> None:
    text = '{"text": "eins"}\n{"text": "zwei"}\n'
    folder = write({name: text.encode(encoding)})
    with pytest.raises(
        DataError, match=rf"{name}:1: expected UTF-8 text, found .* UTF-8"
    ):
        load_splits(str(folder))


def test_a_zero_byte_is_named_with_its_line(write: Write) -> None:
    folder = write({"a.txt": b"one\r\ntwo\rthree\0"})
    with pytest.raises(DataError, match=r"a\.txt:3: expected UTF-8 text, found a zero"):
        read(str(folder))


def test_marks_of_joined_files_go(write: Write) -> None:
    folder = write({"train.txt": "\ufeff\ufeffone\n\ufefftwo\n\n\ufeffthree"})
    assert found(folder, "train") == ["one\ntwo", "three"]


def test_one_file_is_cut_into_blocks(write: Write) -> None:
    assert found(write({"all.txt": "a\n\nb"}) / "all.txt") == ["a", "b"]


def test_byte_order_mark_and_carriage_returns_go(write: Write) -> None:
    raw = b"\xef\xbb\xbfone\r\nline\r\n\r\ntwo\r\n"
    assert found(write({"train.txt": raw}), "train") == ["one\nline", "two"]


def test_every_file_that_is_not_utf8_is_named_with_its_line(write: Write) -> None:
    files = {"a.txt": b"fine\ncaf\xe9", "b.txt": b"\xff\xfeh\0i\0"}
    folder = write({f"train{n[1:]}": raw for n, raw in files.items()}, "splits")
    with pytest.raises(DataError, match=r"train\.txt:1: expected .* byte 0xff"):
        read(str(folder))
    damaged = {"d.txt": "gr\u00fc\u00dfe\n".encode() + b"\xc3", "e.txt": b"x\n\0"}
    folder = write({**files, **damaged, "c.txt": "c"})
    assert found(folder) == ["fine\ncaf\u00e9", "hi", "c"]
    assert read(str(folder)).notes == [
        f"1 file in Windows-1252 instead of UTF-8, such as {folder}/a.txt",
        f"1 file in UTF-16 instead of UTF-8, such as {folder}/b.txt",
        f"not read: {folder}/d.txt:2: expected UTF-8 text, found byte 0xc3: save the "
        "file as UTF-8",
        f"not read: {folder}/e.txt:2: expected UTF-8 text, found a zero byte, as in "
        "UTF-16 and in files that are no text: save the file as UTF-8",
    ]
    other = "Привет, как дела?".encode("cp1251")
    with pytest.raises(DataError, match=r"f\.txt:1: expected UTF-8 text, found byte"):
        read(str(write({"f.txt": other}, "cyrillic")))


def test_links_out_of_the_folder_are_not_followed(write: Write) -> None:
    secret = write({"secret.txt": "secret"}, "elsewhere")
    folder = write({"a.txt": "a"})
    (folder / "link.txt").symlink_to(secret / "secret.txt")
    (folder / "folder").symlink_to(secret)
    (folder / "loop").symlink_to(folder)
    (folder / "broken.txt").symlink_to(folder / "gone")
    assert found(folder) == ["a"]
    assert read(str(folder)).notes == [
        "skipped 2 linked folders",
        "skipped 1 link or device that is no file",
        f"skipped 1 link leaving {folder}",
    ]
    (folder / "train.txt").symlink_to(secret / "secret.txt")
    assert found(folder, "train") == []


def test_no_text_names_the_endings_looked_for(write: Write) -> None:
    folder = write({"a.pages": "x"})
    with pytest.raises(DataError, match=r"no text found: .* \.txt, \.md, or train"):
        read(str(folder))
    with pytest.raises(DataError, match=r"not read: 1 \.pages file .no format knows"):
        read(str(folder))
    with pytest.raises(
        DataError, match=r"a\.pages: no format knows .* file ending in \.txt, "
    ):
        read(str(folder / "a.pages"))


@pytest.mark.parametrize("name", ["validation.txt", "val.md", "dev.TXT", "Valid.txt"])
def test_validation_text_may_have_its_other_names(name: str, write: Write) -> None:
    folder = write({"Train.txt": "a", name: "b"})
    assert found(folder, "valid") == ["b"]
    assert read(str(folder)).notes == []


def test_what_is_read_together_or_not_at_all_is_told(write: Write) -> None:
    folder = write(
        {"train.txt": "a", "valid.txt": "b", "val.txt": "c", "notes.md": "d"}
    )
    (folder / "more").mkdir()
    assert found(folder, "valid") == ["c", "b"]
    assert read(str(folder)).notes == [
        "valid is read from val.txt, valid.txt together",
        f"not read: more/, notes.md in {folder}, for they are not named train, valid "
        "or test",
    ]


def test_misnamed_splits_are_pointed_out(write: Write) -> None:
    notes = read(str(write({"valid.txt": "a"}, "lonely"))).notes
    assert notes == [
        "valid.txt is read as an ordinary document, for there is no train.txt beside it"
    ]


def test_folders_named_after_splits_are_pointed_out(write: Write) -> None:
    names = ["train/a.txt", "Valid/b.txt", "more/test/c.txt"]
    assert read(str(write(dict.fromkeys(names, "x")))).notes == [
        "the folders Valid, train are read together and divided anew: give train.txt, "
        "valid.txt and test.txt to divide them yourself"
    ]


def test_reading_can_be_watched_and_stopped(write: Write) -> None:
    folder = write({f"{i}.txt": "x" for i in range(5)})
    told: list[tuple[str, int, int | None]] = []

    def advance(*how: Any) -> None:
        told.append(how)
        if how[1] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_splits(str(folder), advance)
    assert told == [("files", done, 5) for done in range(4)]
