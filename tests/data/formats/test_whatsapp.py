from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from comigs_mlx.data.formats.whatsapp import matches, read
from comigs_mlx.data.pieces import HEAD, Cut, FileHead, Message, Piece, Skipped
from comigs_mlx.data.reading_options import Reading
from comigs_mlx.errors import DataError

Write = Callable[..., Path]

NNBSP, LRM, RLM = "\u202f", "\u200e", "\u200f"

LOCALES = {
    # iPhone, German
    "de": f"[31.12.24, 23:59:02] Ann: Hallo\n{LRM}[01.01.25, 00:01:00] Ben: Prosit",
    # iPhone, US: no leading zeros, narrow no-break space
    "us": f"[12/31/24, 11:59:02{NNBSP}PM] Ann: Hi\n[1/1/25, 12:01:00{NNBSP}AM] Ben: Yo",
    # Android, UK and India
    "in": "31/12/2024, 11:59 pm - Ann: Hi\n01/01/2025, 12:01 am - Ben: Yo",
    # Android, US
    "us-dash": f"12/31/24, 11:59{NNBSP}PM - Ann: Hi\n1/1/25, 12:01{NNBSP}AM - Ben: Yo",
    # Android, Spanish
    "es": "31/12/24 11:59 p.\u00a0m. - Ann: Hola\n1/1/25 12:01 a.\u00a0m. - Ben: Yo",
    # iPhone, Finnish
    "fi": "[31.12.2024 klo 23.59.02] Ann: Moi\n[1.1.2025 klo 0.01.00] Ben: Moi",
    # iPhone, Swedish
    "sv": f"[2024-12-31 23:59:02] {LRM}Ann: Hej\n[2025-01-01 00:01:00] Ben: Hej",
    # iPhone and Android, Chinese
    "zh": "[2024/12/31 下午11:59:02] Ann: 你好\n[2025/1/1 上午12:01:00] Ben: 你好",
    "zh-dash": "2024年12月31日 下午11:59 - Ann: 你好\n2025年1月1日 上午12:01 - Ben: 你",
    # Android, Korean
    "ko": "2024. 12. 31. 오후 11:59 - Ann: 안녕\n2025. 1. 1. 오전 12:01 - Ben: 안녕",
    # Android, Arabic, with its own digits
    "ar": (
        f"٣١{RLM}/١٢{RLM}/٢٠٢٤، ١١:٥٩ م - Ann: مرحبا\n"
        f"١{RLM}/١{RLM}/٢٠٢٥، ١٢:٠١ ص - Ben: أهلا"
    ),
    # iPhone, Thai: the Buddhist year
    "th": f"[31/12/2567 23:59:02] {LRM}Ann: สวัสดี\n[1/1/2568 00:01:00] Ben: ดี",
    # Android, Dutch
    "nl": "31-12-2024 23:59 - Ann: Hoi\n01-01-2025 00:01 - Ben: Hoi",
}


SAMPLES = {f"{locale}.txt": text for locale, text in LOCALES.items() if locale != "sv"}
SAMPLES["WhatsApp Chat.txt"] = LOCALES["sv"]


def head(path: Path) -> FileHead:
    raw = path.read_bytes()
    return FileHead(str(path), raw[:HEAD], len(raw))


@pytest.fixture
def chat(write: Write) -> Callable[[str], list[Piece]]:
    """Text of a chat -> its pieces."""

    def pieces(text: str) -> list[Piece]:
        path = write({"WhatsApp Chat.txt": text}) / "WhatsApp Chat.txt"
        assert matches(head(path))
        return list(read(path, Reading()))

    return pieces


@pytest.mark.parametrize("locale", LOCALES)
def test_reads_every_locale_alike(
    locale: str, chat: Callable[[str], list[Piece]]
) -> None:
    ann, ben = chat(LOCALES[locale])
    assert isinstance(ann, Message)
    assert isinstance(ben, Message)
    assert (ann.speaker, ben.speaker) == ("Ann", "Ben")
    minutes = [
        datetime.fromtimestamp((m.time or 0) // 60 * 60, UTC) for m in (ann, ben)
    ]
    assert minutes == [
        datetime(2024, 12, 31, 23, 59, tzinfo=UTC),
        datetime(2025, 1, 1, 0, 1, tzinfo=UTC),
    ]


@pytest.mark.parametrize(
    ("dates", "months"),
    [
        (["01/02/24", "13/02/24"], [2, 2]),  # there is no month 13
        (["02/01/24", "02/13/24"], [2, 2]),
        (["01/12/23", "02/01/24", "01/02/24"], [12, 1, 2]),  # time runs forwards
        (["12/01/23", "01/02/24", "02/01/24"], [12, 1, 2]),
        (["24/1/3", "24/1/12", "24/2/1"], [1, 1, 2]),
    ],
)
def test_infers_day_and_month_from_the_whole_file(
    dates: list[str], months: list[int], chat: Callable[[str], list[Piece]]
) -> None:
    pieces = chat("\n".join(f"{date}, 10:00 - Ann: hi" for date in dates))
    times = [p.time or 0 for p in pieces if isinstance(p, Message)]
    assert [datetime.fromtimestamp(time, UTC).month for time in times] == months


def test_lines_without_a_date_go_on_with_the_message(
    chat: Callable[[str], list[Piece]],
) -> None:
    (message,) = chat(
        "01/02/24, 10:00 - Ann: one: 1\n\n12/3 is a quarter\n  [x] done - 2 : 3\n"
    )
    assert isinstance(message, Message)
    assert message.text == "one: 1\n\n12/3 is a quarter\n  [x] done - 2 : 3"
    assert message.place.endswith("Chat.txt:1")


def test_leaves_out_media_deletions_and_whatsapps_own_words(
    chat: Callable[[str], list[Piece]],
) -> None:
    """Three of them alone are known by their words, which no form tells."""
    android = [
        "Messages and calls are end-to-end encrypted. Tap to learn more.",
        'Ann changed the subject to "Trip: Rome"',
        "Ann joined using a link: https://chat.example/x",
        "Ann: <Media omitted>",
        "Ann: <Médias omis>",
        "Ann: IMG-20240102-WA0001.jpg (Datei angehängt)",
        "Ann: My report.pdf (file attached)",
        "Ann: This message was deleted",
        "Ann: null",
        "Ann:",
    ]
    kept = ["Ann: a", "Ann: b < c > d", "Ann: see f(x).py (new)", "Ann: https://x.org"]
    rows = [f"01/02/24, 10:00 - {row}" for row in (*android, *kept)]
    pieces = chat("\n".join(rows))
    assert [type(p) for p in pieces] == [Skipped] * 10 + [Message] * 4
    texts = [p.text for p in pieces if isinstance(p, Message)]
    assert texts == [row.removeprefix("Ann: ") for row in kept]
    assert [p.what for p in pieces if isinstance(p, Skipped)] == [
        *["messages of WhatsApp itself"] * 3,
        *["media or deleted messages"] * 7,
    ]


def test_a_mark_of_direction_tells_what_the_iphone_wrote_itself(
    chat: Callable[[str], list[Piece]],
) -> None:
    stamp = "[01.02.24, 10:00:00]"
    pieces = chat(
        f"{stamp} Group: {LRM}Nachrichten sind verschlüsselt.\n"
        f"{LRM}{stamp} Ann: {LRM}Bild weggelassen\n"
        f"{stamp} ~{NNBSP}Ben: {LRM}<Anhang: 0001-PHOTO.jpg>\n"
        f"{stamp} Ann: ein Bild {LRM}<Anhang: 0002-PHOTO.jpg>\n"
        f"{stamp} ~{NNBSP}Ben: ja {LRM}<Diese Nachricht wurde bearbeitet.>"
    )
    assert [type(p) for p in pieces[:3]] == [Skipped] * 3
    messages = [(p.speaker, p.text) for p in pieces if isinstance(p, Message)]
    assert messages == [("Ann", "ein Bild"), ("Ben", "ja")]
    assert sum(isinstance(p, Cut) for p in pieces) == 2


def test_a_caption_stays_and_its_file_goes(chat: Callable[[str], list[Piece]]) -> None:
    cut, message, edited_mark, edited = chat(
        "01/02/24, 10:00 - Ann: IMG-20240102-WA0001.jpg (file attached)\nlook at that\n"
        "01/02/24, 10:01 - Ann: yes <This message was edited>"
    )
    assert isinstance(message, Message)
    assert isinstance(edited, Message)
    assert (message.text, edited.text) == ("look at that", "yes")
    assert isinstance(cut, Cut)
    assert isinstance(edited_mark, Cut)
    assert cut.characters == len("IMG-20240102-WA0001.jpg (file attached)\n")


def test_more_than_one_percent_of_another_form_is_an_error_with_its_line(
    write: Write,
) -> None:
    rows = ["[01.02.24, 10:00:00] Ann: hi"] * 299
    strange = ["01.02.2024, 10:00 - Ben: who?"] * 3
    path = write({"chat.txt": "\n".join([*rows, *strange[:2]])}) / "chat.txt"
    assert len(list(read(path, Reading()))) == 299
    path.write_text("\n".join([*rows[:250], *strange, *rows[250:], "1.2.3 4:05 - x"]))
    with pytest.raises(DataError) as raised:
        list(read(path, Reading()))
    assert str(raised.value).startswith(
        f"{path}:251: expected the form of date that the other messages have, found "
        "'01.02.2024, 10:00 - Ben: who?' (4 such lines): "
    )


def test_dates_that_do_not_exist_are_an_error(write: Write) -> None:
    rows = ["13/13/24, 10:00 - Ann: hi", "01/02/24, 10:00 - Ann: hi"]
    path = write({"chat.txt": "\n".join(rows)}) / "chat.txt"
    with pytest.raises(DataError, match=r"chat\.txt:1: expected the form of date"):
        list(read(path, Reading()))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Dear Ann,\n01/02/24, 10:00 - Ann: hi",
        "2024-01-02 10:00:00 - server: started",
        "[2024-01-02 10:00:00] production.ERROR: no disk",
        "2024-01-02 10:00:00,123 - name - INFO - x: y",
        "[link](x): y",
        "01/02/24 - Meeting: notes",
    ],
)
def test_leaves_other_text_alone(text: str, write: Write) -> None:
    assert not matches(head(write({"log.txt": text}) / "log.txt"))
