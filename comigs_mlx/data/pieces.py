"""What a format finds in one file: documents, messages, rows, and what it left out.

A format yields pieces in the order in which they stand in its file. `Document` is text
that stands alone. `Message` is one thing that somebody said; messages of a thread
become conversations in one place, for all formats alike. A `Placed` sample is a row
that already is what training learns from. `Cut` and `Skipped` count what was left out,
so that the report before training can say so.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

from comigs_mlx.data.splits import Placed


@dataclass(frozen=True)
class Document:
    r"""Text that is learnt from by itself.

    Attributes:
        text: The text, with all line ends as "\n".
        place: The place where it was read, such as "notes/a.md" or "letters.mbox:3".
    """

    text: str
    place: str


@dataclass(frozen=True)
class Message:
    """One thing that somebody said in a conversation.

    Attributes:
        speaker: The name of the speaker as the file gives it.
        text: The text that was said, without quotes and signatures.
        place: The place where it was read, such as "chat.txt:17".
        thread: The name of the conversation it belongs to within its file.
        time: The seconds since 1970 at which it was said; None where it is not known.
        by_me: Whether the owner of the file said it, where the format knows; None
            where only the speaker's name can tell.
        by_model: Whether a language model said it.
        alone: Whether it is learnt as a text of its own, as a mail is, instead of as a
            turn of a conversation.
    """

    speaker: str
    text: str
    place: str
    thread: str = ""
    time: float | None = None
    by_me: bool | None = None
    by_model: bool = False
    alone: bool = False


@dataclass(frozen=True)
class Cut:
    """Text that was taken off a piece that is otherwise kept.

    Attributes:
        what: The kind of text in the plural, such as "quotes" or "signatures".
        characters: The number of characters that were taken off.
        place: The place where it stood.
    """

    what: str
    characters: int
    place: str


@dataclass(frozen=True)
class Skipped:
    """A part of a file that is not learnt from.

    Attributes:
        what: The reason in the plural, such as "media without text".
        place: The place where it stands.
    """

    what: str
    place: str


@dataclass(frozen=True)
class Remark:
    """Something that the user must know of text that is kept.

    Attributes:
        what: The sentence without a verb, with a noun in the plural first, such as
            "files in Windows-1252 instead of UTF-8".
        place: The place where it was seen.
    """

    what: str
    place: str


Piece = Document | Message | Placed | Cut | Skipped | Remark
"""Anything that a format may yield."""


@dataclass(frozen=True)
class FileHead:
    """What tells the formats whether a file is theirs.

    Attributes:
        path: The path of the file.
        head: The first `HEAD` bytes of the file, or all of it where it is shorter.
        size: The size of the file in bytes.
    """

    path: str
    head: bytes
    size: int

    @functools.cached_property
    def suffix(self) -> str:
        """The ending of the file's name in small letters, such as ".md"."""
        return os.path.splitext(self.path)[1].lower()

    @functools.cached_property
    def start(self) -> str:
        """The first `START` bytes as text, without what is no UTF-8 and without spaces
        at the beginning.
        """
        return self.head[:START].decode("utf-8-sig", "ignore").lstrip()

    def is_json_with(self, *keys: bytes) -> bool:
        """Tell whether the file begins like JSON and names all `keys` in its head."""
        return self.start[:1] in ("[", "{") and all(key in self.head for key in keys)


START = 4096
"""The number of bytes that `FileHead.start` decodes."""

HEAD = 65_536
"""The number of bytes at the beginning of a file that decide on its format."""
