"""Mail: mailboxes (.mbox), Maildir's files and .eml, Apple Mail's .emlx.

Each mail is a text of its own, without its header, quotes, forwards and signature. Only
those that I wrote are learnt (`--me`), unless others' words are asked for. Plain text
is preferred to HTML, and attachments are not read.
"""

from __future__ import annotations

import email
import email.errors
import email.header
import email.policy
import email.utils
import itertools
import re
from collections.abc import Iterable, Iterator
from email.message import Message as Parsed
from pathlib import Path

from comigs_mlx.data import mail_text
from comigs_mlx.data.mac_access import reason
from comigs_mlx.data.pieces import Cut, FileHead, Message, Piece, Skipped
from comigs_mlx.data.reading_options import Reading
from comigs_mlx.errors import DataError

ORDER = 37
"""This format is tried before plain text, which mail is as well."""

KIND = "mail"
"""The word of the report."""

FROM_LINE = re.compile(rb"From \S*.*\b\d\d?:\d\d(?::\d\d)?\b.*\b(?:19|20)\d\d\b.*")
"""The line before each mail of a mailbox; it has a date, unlike a sentence."""

ESCAPED = re.compile(rb"^>(>*From )", re.MULTILINE)
"""How a mailbox writes a line of text that begins with "From "."""

FIELD = re.compile(rb"([!-9;-~]+):")
NEEDED = frozenset({b"from", b"sender", b"return-path"})
TELLING = frozenset(
    {b"date", b"message-id", b"received", b"mime-version", b"delivered-to"}
)
"""The fields of a header, of which a mail has one of each set."""

LONGEST_HTML = 2_000_000
"""The most characters of HTML that are read; newsletters are shorter, attacks not."""

ANSWER = re.compile(r"(?:\s*(?:re|aw|sv|fwd?|wg|tr|rv|rif|r|i)\s*:)+\s*", re.IGNORECASE)
"""What programs put before the subject of an answer or a forward."""


def matches(file: FileHead) -> bool:
    """Tell whether a file begins with a mail, or with a line before one."""
    first, _, rest = file.head.lstrip(b"\r\n").partition(b"\n")
    if FROM_LINE.fullmatch(first.rstrip()) or first.rstrip().isdigit():
        return _is_header(rest)
    return _is_header(file.head.lstrip(b"\r\n"))


def read(path: Path, reading: Reading) -> Iterator[Piece]:
    """Yield each mail as a message, and what was left out.

    Raises:
        DataError: If the file cannot be read, or an .emlx is cut off.
    """
    del reading
    roots: dict[str, str] = {}
    for place, raw in _mails(path):
        # A hostile mail fails in ways that nobody has listed; it is one of thousands.
        try:
            pieces = list(_pieces(email.message_from_bytes(raw), place, roots))
        except Exception:
            pieces = [Skipped("damaged mails", place)]
        yield from pieces


def _is_header(head: bytes) -> bool:
    names = set()
    for line in head.split(b"\n")[:200]:
        if match := FIELD.match(line):
            names.add(match[1].lower())
        elif not line.startswith((b" ", b"\t")):
            break
    return bool(names & NEEDED) and bool(names & TELLING)


def _mails(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield place and content of each mail in a file."""
    try:
        with path.open("rb") as file:
            first = file.readline()
            while first and not first.strip():
                first = file.readline()
            if FROM_LINE.fullmatch(first.rstrip()):
                yield from _of_mailbox(path, file)
            elif first.strip().isdigit():
                yield f"{path}", _of_emlx(path, int(first), file.read())
            else:
                yield f"{path}", first + file.read()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {reason(error)}") from error


def _of_mailbox(path: Path, file: Iterable[bytes]) -> Iterator[tuple[str, bytes]]:
    number, lines, after_blank = 1, list[bytes](), False
    for line, below in itertools.pairwise(itertools.chain(file, [b""])):
        # A sentence may begin like that, too, but no header follows it.
        is_next = after_blank and line.startswith(b"From ") and FIELD.match(below)
        if is_next and FROM_LINE.fullmatch(line.rstrip()):
            yield f"{path}:{number}", ESCAPED.sub(rb"\1", b"".join(lines))
            number, lines = number + 1, []
        else:
            lines.append(line)
        after_blank = not line.strip()
    yield f"{path}:{number}", ESCAPED.sub(rb"\1", b"".join(lines))


def _of_emlx(path: Path, size: int, rest: bytes) -> bytes:
    """Return the mail, which the property list of Apple Mail follows."""
    if size > len(rest):
        raise DataError(
            f"{path}:1: expected {size:,} bytes of mail, found {len(rest):,}: the file "
            "is cut off: copy it again"
        )
    return rest[:size]


def _pieces(mail: Parsed, place: str, roots: dict[str, str]) -> Iterator[Piece]:
    subject = _field(mail, "Subject")
    if mail.get_content_type() == "multipart/encrypted":
        yield Skipped("encrypted mails", place)
        return
    if _field(mail, "Auto-Submitted").lower() not in ("", "no"):
        yield Skipped("automatic mails", place)
        return
    whole, cuts = _body(mail, place)
    words, more = mail_text.own_words(whole, subject, place)
    yield from [*cuts, *more]
    if words:
        yield Message(
            _sender(mail),
            words,
            place,
            _thread(mail, subject, roots),
            _time(mail),
            alone=True,
        )
    else:
        yield Skipped("mails without words of the sender", place)


def _body(part: Parsed, place: str) -> tuple[str, list[Cut]]:
    """Return the text of a part and of the parts in it, plain where there is a choice.

    Attachments are left out, and mails that are attached count as forwards.
    """
    kind = part.get_content_type()
    if kind == "message/rfc822":
        attached = part.get_payload()
        size = len(str(attached[0])) if isinstance(attached, list) and attached else 0
        return "", [Cut("forwards", size, place)]
    if part.get_content_disposition() == "attachment" or part.get_filename():
        return "", []
    if not part.is_multipart():
        return _text(part, kind, place)
    parts = [p for p in part.get_payload() if isinstance(p, Parsed)]
    if kind == "multipart/alternative":
        plain_first = sorted(parts, key=lambda p: p.get_content_type() != "text/plain")
        texts = (_body(p, place) for p in plain_first)
        return next((body for body in texts if body[0].strip()), ("", []))
    bodies = [_body(p, place) for p in parts]
    return (
        "\n".join(text for text, _ in bodies if text),
        [cut for _, cuts in bodies for cut in cuts],
    )


def _text(part: Parsed, kind: str, place: str) -> tuple[str, list[Cut]]:
    if kind == "text/plain":
        plain = _decoded(part)
        flowed = str(part.get_param("format", "")).lower() == "flowed"
        spaced = str(part.get_param("delsp", "")).lower() != "yes"
        return _unwrapped(plain, spaced) if flowed else plain, []
    if kind == "text/html":
        text, quoted = mail_text.html_text(_decoded(part)[:LONGEST_HTML])
        return text, [Cut("quotes", quoted, place)] if quoted else []
    return "", []


def _decoded(part: Parsed) -> str:
    """Decode a text by the charset that it names, or by one that fits its bytes."""
    raw = part.get_payload(decode=True)
    if not isinstance(raw, bytes):
        return ""
    named = part.get_content_charset() or "utf-8"
    for charset in (named, "utf-8", "cp1252", "latin-1"):
        try:
            text = raw.decode(charset)
            break
        except (LookupError, UnicodeError):
            continue
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")


def _unwrapped(text: str, spaced: bool) -> str:
    """Join the lines of flowed text (RFC 3676): a space at the end is a soft break."""
    lines: list[str] = []
    goes_on = False
    for line in text.split("\n"):
        quoted = line.startswith(">")
        line = line if quoted else line.removeprefix(" ")
        if goes_on and not quoted and line != "-- ":
            lines[-1] = (lines[-1] if spaced else lines[-1][:-1]) + line
        else:
            lines.append(line)
        goes_on = line.endswith(" ") and not quoted and line != "-- "
    return "\n".join(lines)


def _field(mail: Parsed, name: str) -> str:
    """Return a field of the header as text on one line; "" where there is none."""
    written = mail.get(name)
    if written is None:
        return ""
    try:
        decoded = str(email.header.make_header(email.header.decode_header(written)))
    except (LookupError, UnicodeError, ValueError, email.errors.HeaderParseError):
        decoded = str(written)
    return " ".join(decoded.encode("utf-8", "replace").decode().split())


def _sender(mail: Parsed) -> str:
    name, address = email.utils.parseaddr(_field(mail, "From"))
    if not address:
        return name or _field(mail, "Sender") or "Unknown"
    return f"{name} <{address}>" if name else address


def _thread(mail: Parsed, subject: str, roots: dict[str, str]) -> str:
    """Return the mail that a thread began with, or its subject."""
    own = _field(mail, "Message-ID")
    earlier = re.findall(
        r"<[^<>\s]+>", _field(mail, "References") or _field(mail, "In-Reply-To")
    )
    if earlier:
        root = roots.get(earlier[0], earlier[0])
    else:
        root = ANSWER.sub("", subject).casefold() if ANSWER.match(subject) else own
    roots.setdefault(own, root)
    return root or own or subject


def _time(mail: Parsed) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(_field(mail, "Date")).timestamp()
    except (TypeError, ValueError, OverflowError, IndexError):
        return None
