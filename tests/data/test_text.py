from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from comigs_mlx.data.formats.text import blocks, read
from comigs_mlx.errors import DataError

Write = Callable[..., Path]


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
    assert read(str(folder)).notes == ["skipped 1 empty file"]


def test_one_file_is_cut_into_blocks(write: Write) -> None:
    assert found(write({"all.txt": "a\n\nb"}) / "all.txt") == ["a", "b"]


def test_byte_order_mark_and_carriage_returns_go(write: Write) -> None:
    raw = b"\xef\xbb\xbfone\r\nline\r\n\r\ntwo\r\n"
    assert found(write({"train.txt": raw}), "train") == ["one\nline", "two"]


def test_every_file_that_is_not_utf8_is_named_with_its_line(write: Write) -> None:
    folder = write(
        {"a.txt": b"fine\ncaf\xe9", "b.txt": b"\xff\xfeh\0i\0", "c.txt": "c"}
    )
    with pytest.raises(DataError) as error:
        read(str(folder))
    assert str(error.value).splitlines() == [
        f"{folder}/a.txt:2: expected UTF-8 text, found byte 0xe9: save the file as "
        "UTF-8",
        f"{folder}/b.txt:1: expected UTF-8 text, found byte 0xff: save the file as "
        "UTF-8",
    ]


def test_links_out_of_the_folder_are_not_followed(write: Write) -> None:
    secret = write({"secret.txt": "secret"}, "elsewhere")
    folder = write({"a.txt": "a"})
    (folder / "link.txt").symlink_to(secret / "secret.txt")
    (folder / "folder").symlink_to(secret)
    (folder / "loop").symlink_to(folder)
    (folder / "broken.txt").symlink_to(folder / "gone")
    assert found(folder) == ["a"]
    assert read(str(folder)).notes == [f"skipped 1 link leaving {folder}"]
    (folder / "train.txt").symlink_to(secret / "secret.txt")
    assert found(folder, "train") == []


def test_no_text_names_the_endings_looked_for(write: Write) -> None:
    folder = write({"a.pdf": "x"})
    with pytest.raises(DataError, match=r"no text found: .* \.txt, \.md, or train"):
        read(str(folder))
    with pytest.raises(DataError, match=r"a\.pdf: expected a file ending in \.txt, "):
        read(str(folder / "a.pdf"))


def test_misnamed_splits_are_pointed_out(write: Write) -> None:
    folder = write({"train.txt": "a", "validation.txt": "b"})
    with pytest.raises(DataError, match=r"expected the name valid\.txt: rename it"):
        read(str(folder))
    notes = read(str(write({"valid.txt": "a"}, "lonely"))).notes
    assert notes == [
        "valid.txt is read as an ordinary document, for there is no train.txt beside it"
    ]
