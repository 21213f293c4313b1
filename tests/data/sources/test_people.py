"""What people have, in one folder: chats, mail, a model's answers and notes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comigs_mlx import evaluate, train
from comigs_mlx.data.reading_options import Reading
from comigs_mlx.data.sources.files import read
from comigs_mlx.data.splits import load_splits
from comigs_mlx.errors import DataError
from tests.data.formats import test_chatgpt, test_mail, test_signal

Write = Callable[..., Path]
Cli = Callable[..., tuple[Any, str, str]]

CHAT = "".join(
    f"{day:02}.01.24, 10:0{i} - {name}: {name} says {day}\n"
    for day in range(1, 31)
    for i, name in enumerate(["Ben", "Ann Lée", "Cem"])
)


@pytest.fixture
def folder(write: Write) -> Path:
    return write(
        {
            "WhatsApp.txt": CHAT,
            "mail/in.mbox": test_mail.SAMPLES["in.mbox"],
            "mail/cur/1": "From: Ben <ben@example.org>\nDate: 1 Jan 2024\n\nHi\n",
            "gpt/conversations.json": test_chatgpt.SAMPLES["conversations.json"],
            "signal/chat.md": test_signal.MARKDOWN,
            "note.md": "a note",
        }
    )


def test_a_folder_of_everything_is_read_with_its_speakers(folder: Path) -> None:
    raw = read(str(folder), Reading(me=("ann lée",)))
    (samples,) = raw.splits.values()
    texts = [sample["text"] for sample in samples if "text" in sample]
    chats = [sample for sample in samples if "messages" in sample]
    assert texts == ["a note", "Hi Ben", "Bye"]
    # A stretch of talk a day; the last of Cem's words is nobody's context.
    assert len(chats) == 30 + 1 + 1
    assert {sample["mask"] for sample in chats} == {"assistant"}
    assert chats[0]["messages"] == [
        {"role": "user", "content": "Ben: Ben says 1"},
        {"role": "assistant", "content": "Ann Lée says 1"},
    ]
    assert chats[0].place == f"{folder}/WhatsApp.txt:1"
    report = raw.report
    assert report is not None
    assert report.files == {
        "WhatsApp": 1,
        "ChatGPT": 1,
        "mail": 2,
        "markdown": 1,
        "Signal": 1,
    }
    assert report.speakers["Ann Lée"].count == 30
    assert sorted(report.me) == ["Ann Lée", "Ann Lée <ann@example.org>", "Me", "you"]
    assert report.skipped["mails by others"].count == 1
    assert any("answers of another language model" in note for note in raw.notes)
    assert load_splits(str(folder), reading=Reading(me=("ann lée",))).kind == "mixed"


def test_the_hidden_folders_of_a_maildir_are_read(write: Write) -> None:
    mail = test_mail.SAMPLES["letter.eml"]
    files = {".Sent/cur/1": mail, ".Sent/new/2": mail, ".Trash/cur/3": mail}
    folder = write({**files, "cur/4": "From: Ben\nDate: 1 Jan 2024\n\nHi"})
    raw = read(str(folder), Reading(me=("ann@example.org",)))
    places = [Path(sample.place).name for sample in raw.splits["all"]]
    assert places == ["1", "2"]


def test_without_a_name_it_is_an_error_with_the_speakers(folder: Path) -> None:
    with pytest.raises(DataError) as asked:
        read(str(folder))
    assert str(asked.value).startswith("who are you in ")
    assert "such as --me 'Ann Lée': they have messages by Ben (30), " in str(
        asked.value
    )
    assert "Me (" not in str(asked.value)


def test_commands_say_in_a_line_which_flag_is_needed(
    write: Write, cli: Cli, trained: Callable[..., Path], tmp_path: Path
) -> None:
    chat = write({"chat.txt": CHAT}) / "chat.txt"
    expected = (
        f"who are you in {chat}? give --me NAME, such as --me Ben: it has messages by "
        "Ben (30), Ann Lée (30), Cem (30)\n"
    )
    run = trained()
    commands: list[tuple[Any, list[str]]] = [
        (train.main, ["--run", str(tmp_path / "new")]),
        (evaluate.main, ["--run", str(run)]),
    ]
    for main, flags in commands:
        code, _, err = cli(main, *flags, "--data", str(chat))
        assert code == 2
        assert err.endswith(expected)
    code, out, _ = cli(
        evaluate.main,
        *("--run", str(run), "--data", str(chat), "--me", "Zoe", "ann lée", "--json"),
        *("--split", "all"),
    )
    assert code == 0
    # The tokens of "Ann Lée says 1" and so on, and an end for each.
    assert 30 * 10 < json.loads(out)["tokens"] < 30 * 20
