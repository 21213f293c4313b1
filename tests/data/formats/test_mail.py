from __future__ import annotations

import email.message
import time
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

import pytest

from comigs_mlx.data.formats.mail import matches, read
from comigs_mlx.data.mail_text import html_text, own_words
from comigs_mlx.data.pieces import HEAD, Cut, FileHead, Message, Piece, Skipped
from comigs_mlx.data.reading_options import Reading
from comigs_mlx.errors import DataError

Write = Callable[..., Path]

FROM_LINE = "From ann@example.org Mon Jan  1 10:00:00 2024\n"

HEADER = (
    "From: =?utf-8?q?Ann_L=C3=A9e?= <ann@example.org>\n"
    "Date: Mon, 1 Jan 2024 10:00:00 +0100\n"
    "Message-ID: <1@example.org>\n"
    "Subject: Trip\n"
)

SAMPLES = {
    "in.mbox": f"{FROM_LINE}{HEADER}\nHi Ben\n\n{FROM_LINE}{HEADER}\nBye\n",
    "letter.eml": f"Received: by x\n{HEADER}\nHi".replace("\n", "\r\n"),
    "cur/1704099600.M1.host:2,S": f"Return-Path: <a@x.org>\n{HEADER}\nHi",
    "1.emlx": f"{len(HEADER) + 4}      \n{HEADER}\nHi\n<plist></plist>",
}


def pieces(path: Path) -> list[Piece]:
    raw = path.read_bytes()
    assert matches(FileHead(str(path), raw[:HEAD], len(raw)))
    return list(read(path, Reading()))


def mails(path: Path) -> list[Message]:
    return [piece for piece in pieces(path) if isinstance(piece, Message)]


@pytest.fixture
def mail(write: Write) -> Callable[..., list[Message]]:
    """The content of a mail after its header, or a mail -> its messages."""

    def read_it(content: str | bytes | EmailMessage) -> list[Message]:
        if isinstance(content, EmailMessage):
            content["From"], content["Date"] = "ann@example.org", "1 Jan 2024 10:00:00"
            content = content.as_bytes()
        elif isinstance(content, str):
            content = f"{HEADER}\n{content}".encode()
        return mails(write({"a.eml": content}) / "a.eml")

    return read_it


def test_a_mail_says_who_wrote_it_when_and_where(
    mail: Callable[..., list[Message]],
) -> None:
    (message,) = mail("Hi Ben\n")
    assert message.speaker == "Ann Lée <ann@example.org>"
    assert (message.text, message.alone) == ("Hi Ben", True)
    assert message.time == 1_704_099_600
    assert message.by_me is None
    assert message.place.endswith("a.eml")


def test_a_mailbox_is_cut_at_its_lines_and_unescaped(write: Write) -> None:
    body = "one\n\nFrom here at 10:30 in 2024 on\n\n>From now on\n>>From then\n\n"
    text = (
        f"{FROM_LINE}{HEADER}\n{body}" * 2
        + f"From - Tue Jan 02 10:00:00 2024\n{HEADER}\nx"
    )
    found = mails(write({"in.mbox": text.replace("\n", "\r\n")}) / "in.mbox")
    # The line with two marks is a quote of the mail itself, once it is unescaped.
    assert [m.text for m in found] == [
        "one\n\nFrom here at 10:30 in 2024 on\n\nFrom now on",
    ] * 2 + ["x"]
    assert [m.place.rpartition(":")[2] for m in found] == ["1", "2", "3"]


def test_apple_mails_files_end_where_their_first_line_says(write: Write) -> None:
    content = f"{HEADER}\nHi Ben ☺\n"
    size = len(content.encode())
    plist = '<?xml version="1.0"?><plist><dict><key>flags</key></dict></plist>'
    folder = write({"1.emlx": f"{size}\n{content}{plist}", "2.emlx": f"999\n{content}"})
    assert [m.text for m in mails(folder / "1.emlx")] == ["Hi Ben ☺"]
    with pytest.raises(
        DataError, match=rf"2\.emlx:1: expected 999 .* found {size}: .*cut"
    ):
        pieces(folder / "2.emlx")


def test_plain_text_is_preferred_and_attachments_are_not_read(
    mail: Callable[..., list[Message]],
) -> None:
    made = EmailMessage()
    made.set_content("the plain text")
    made.add_alternative("<p>the page</p>", subtype="html")
    made.add_attachment("the attachment", filename="a.txt")
    assert [m.text for m in mail(made)] == ["the plain text"]


def test_a_page_alone_is_read_without_what_it_quotes(write: Write) -> None:
    made = email.message.Message()
    made["From"], made["Date"] = "ann@example.org", "1 Jan 2024 10:00:00"
    made["Content-Type"] = 'text/html; charset="utf-8"'
    made.set_payload(
        "<html><head><title>no</title><style>p {}</style><body><div>Hi&nbsp;Ben,</div>"
        "<div><br></div><div>yes\n please &amp; soon.<ul><li>one</li><li>two</li></ul>"
        '</div><div class="gmail_quote">On 1 May, Ben wrote:<blockquote><div>old</div>'
        "</blockquote></div><script>no()</script></body></html>"
    )
    cut, message = pieces(write({"a.eml": made.as_bytes()}) / "a.eml")
    assert isinstance(message, Message)
    assert message.text == "Hi Ben,\n\nyes please & soon.\n\n- one\n- two"
    assert cut == Cut("quotes", len("On 1 May, Ben wrote:old"), message.place)


def assert_linear(read: Callable[[int], object]) -> None:
    """Eight times the size may not take 64 times as long, on any machine."""

    def seconds(size: int) -> float:
        start = time.process_time()
        read(size)
        return time.process_time() - start

    short, long = seconds(12_500), seconds(100_000)
    assert long < 24 * short + 0.1


@pytest.mark.parametrize(
    "part",
    ["<div>", "<!", "<?", "<", "</", "<a", "<a x='", "&", "<script>", "&nbsp;<i> </i>"]
    + ["<a ", "<script></", "<!--", "</b "],
)
def test_hostile_pages_take_linear_time(part: str) -> None:
    assert_linear(lambda size: html_text(part * (size // len(part))))


@pytest.mark.parametrize(
    "part", ["-", "--\n", "On 1 wrote:\n> a\n", "On 1 \n", ">", "From: x\n", " ", "_"]
)
def test_hostile_texts_take_linear_time(part: str) -> None:
    assert_linear(lambda size: own_words(part * (size // len(part)) + "x", "", "m"))


@pytest.mark.parametrize(
    ("named", "used", "text"),
    [
        ("iso-8859-1", "latin-1", "Grüße"),
        ("us-ascii", "utf-8", "Grüße"),
        ("no-such-charset", "cp1252", "Grüße – 5 €"),
        ("utf-8", "latin-1", "Grüße"),
        ("iso-2022-jp", "iso-2022-jp", "こんにちは"),
    ],
)
def test_a_charset_that_is_wrong_is_guessed(
    named: str, used: str, text: str, mail: Callable[..., list[Message]]
) -> None:
    content_type = f"Content-Type: text/plain; charset={named}\n\n"
    raw = (HEADER + content_type).encode() + text.encode(used)
    assert [m.text for m in mail(raw)] == [text]


def test_flowed_text_is_unwrapped(mail: Callable[..., list[Message]]) -> None:
    flowed = (
        "Content-Type: text/plain; format=flowed\n\none \ntwo\n three\n> old \nnew\n"
    )
    (message,) = mail((HEADER + flowed).encode())
    assert message.text == "one two\nthree\nnew"


QUOTED = {
    "en": "On Mon, 1 Jan 2024 at 10:00, Ben <ben@example.org> wrote:",
    "en-wrapped": "On Mon, 1 Jan 2024 at 10:00, Ben Long\n<ben@example.org> wrote:",
    "de": "Am 01.01.2024 um 10:00 schrieb Ben <ben@example.org>:",
    "de-thunderbird": "Am 1. Jan. 2024, 10:00, schrieb Ben:",
    "fr": "Le lun. 1 janv. 2024 à 10:00, Ben <ben@example.org> a écrit\u00a0:",
    "it": "Il giorno lun 1 gen 2024 alle ore 10:00 Ben <b@example.org> ha scritto:",
    "es": "El lun, 1 ene 2024 a las 10:00, Ben (<ben@example.org>) escribió:",
    "pt": "Em seg., 1 de jan. de 2024 às 10:00, Ben <b@example.org> escreveu:",
    "nl": "Op ma 1 jan 2024 om 10:00 schreef Ben <ben@example.org>:",
}


@pytest.mark.parametrize("language", QUOTED)
def test_quotes_go_with_the_line_before_them(language: str) -> None:
    header = QUOTED[language]
    below, _ = own_words(f"Sure.\n\n{header}\n\n> old\n>> older\n\nBye", "", "m")
    assert below == "Sure.\n\nBye"
    # An answer below each point, and a quote that has lost its marks.
    between, _ = own_words(f"{header}\n> old\nyes\n> more\nno", "", "m")
    assert between == "yes\nno"
    quoted, _ = own_words(f"> {header}\n> old".replace("\n", "\n> ") + "\nyes", "", "m")
    assert quoted == "yes"
    unmarked, cuts = own_words(f"Sure.\n\n{header}\nold\nolder", "", "m")
    assert unmarked == "Sure."
    assert [cut.what for cut in cuts] == ["quotes"]


@pytest.mark.parametrize(
    "block",
    [
        "-----Original Message-----\nFrom: Ben",
        "-----Ursprüngliche Nachricht-----\nVon: Ben",
        "-----Message d'origine-----\nDe : Ben",
        "____________________\nFrom: Ben\nSent: Monday\nTo: Ann\nSubject: x",
        "*From:* Ben\n*Sent:* Monday\n*To:* Ann\n*Subject:* x",
        "Von: Ben\nGesendet: Montag\nAn: Ann\nBetreff: x",
        "De : Ben\nEnvoyé : lundi\nÀ : Ann\nObjet : x",
        "Da: Ben\nInviato: lunedì\nA: Ann\nOggetto: x",
        "De: Ben\nEnviado el: lunes\nPara: Ann\nAsunto: x",
    ],
)
def test_outlooks_block_and_all_below_it_goes(block: str) -> None:
    text = f"Sure.\n\n{block}\n\nold\n\nolder"
    words, cuts = own_words(text, "RE: x", "m")
    assert words == "Sure."
    assert [(cut.what, cut.characters) for cut in cuts] == [
        ("quotes", len(text) - len("Sure."))
    ]
    assert [cut.what for cut in own_words(text, "FW: x", "m")[1]] == ["forwards"]


@pytest.mark.parametrize(
    "mark",
    [
        "---------- Forwarded message ---------",
        "-------- Weitergeleitete Nachricht --------",
        "Begin forwarded message:",
        "Anfang der weitergeleiteten Nachricht:",
        "Début du message réexpédié :",
        "Inizio messaggio inoltrato:",
        "Inicio del mensaje reenviado:",
    ],
)
def test_forwards_go(mark: str) -> None:
    words, cuts = own_words(f"Look.\n\n{mark}\nFrom: Ben\n\nold", "Fwd: x", "m")
    assert words == "Look."
    assert [cut.what for cut in cuts] == ["forwards"]


@pytest.mark.parametrize(
    "signature",
    [
        "-- \nAnn Lee\nhttps://example.org",
        "--\nAnn Lee",
        "Sent from my iPhone",
        "Von meinem iPhone gesendet",
        "Envoyé de mon iPhone",
        "Inviato da iPhone",
        "Enviado desde mi iPhone",
        "Get Outlook for iOS<https://aka.ms/o0ukef>",
        "Diese Nachricht wurde von meinem Android-Gerät mit K-9 Mail gesendet.",
    ],
)
def test_signatures_go(signature: str) -> None:
    words, cuts = own_words(f"Bye\n\n{signature}\n", "", "m")
    assert words == "Bye"
    assert [cut.what for cut in cuts] == ["signatures"]


def test_a_line_before_quoted_lines_needs_no_date() -> None:
    words, cuts = own_words("Yes.\n\nOn Mon, Ole wrote:\n> a\n> b\n", "", "m")
    assert words == "Yes."
    assert [cut.what for cut in cuts] == ["quotes"]


@pytest.mark.parametrize(
    "text",
    [
        "On reflection, he wrote:\nno date is no quote.",
        "From: the sea\nTo: the hills\nand back.",
        "a list\n-- not a signature\n--- nor this\nSent from my iPhone\nlast of all.",
        "Il a écrit: 5.\nEl 5 no escribió nada: ya.",
    ],
)
def test_what_only_looks_so_stays(text: str) -> None:
    assert own_words(text, "Fwd: x", "m") == (text, [])


def test_what_nobody_wrote_is_left_out_and_counted(write: Write) -> None:
    automatic = f"{HEADER}Auto-Submitted: auto-replied\n\nI am away"
    encrypted = f"{HEADER}Content-Type: multipart/encrypted; boundary=x\n\n--x--"
    quote = f"{HEADER}\n> old"
    deep = "".join(
        f"Content-Type: multipart/mixed; boundary=b{i}\n\n--b{i}\n" for i in range(1000)
    )
    files = [automatic, encrypted, quote, f"{HEADER}{deep}"]
    text = "".join(f"{FROM_LINE}{file}\n\n" for file in files)
    found = pieces(write({"in.mbox": text}) / "in.mbox")
    assert [piece.what for piece in found if isinstance(piece, Skipped)] == [
        "automatic mails",
        "encrypted mails",
        "mails without words of the sender",
        "damaged mails",
    ]


def test_answers_belong_to_the_thread_they_answer(write: Write) -> None:
    fields = [
        "Message-ID: <1@x>\nSubject: a",
        "Message-ID: <2@x>\nSubject: Re: a\nReferences: <1@x>",
        "Message-ID: <3@x>\nSubject: Re: a\nIn-Reply-To: <2@x>",
        "Message-ID: <4@x>\nSubject: a",
        "Message-ID: <5@x>\nSubject: AW: Re: b",
        "Message-ID: <6@x>\nSubject: WG: B",
    ]
    text = "".join(
        f"{FROM_LINE}From: a@x.org\nDate: 1 Jan 2024\n{field}\n\nx\n\n"
        for field in fields
    )
    threads = [m.thread for m in mails(write({"in.mbox": text}) / "in.mbox")]
    assert threads == ["<1@x>"] * 3 + ["<4@x>"] + ["b"] * 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "From here on, nothing.\nFrom: me\n",
        "title: x\ndate: 2024-01-01\nfrom: y\n".replace("from", "form"),
        "5\n6\n",
        "Dear Ann\nFrom: x\nDate: y\n",
        "date: 1 May\nreceived: 5 boxes\n\nDelivered.",
    ],
)
def test_leaves_other_text_alone(text: str) -> None:
    assert not matches(FileHead("x.txt", text.encode(), len(text)))
