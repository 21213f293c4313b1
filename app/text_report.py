"""What a text is, and whether it is enough to learn from, in plain words: HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from comigs_mlx.data import preview_text, secrets, sufficiency
from comigs_mlx.data.splits import SPLITS

from . import render, words

EXCERPTS = 3
"""Beginnings of documents that are shown."""

BLANKS = 15
"""Characters a word, above which a text is taken for one without blanks."""

NOTES = {"text", "markdown"}
"""Kinds of files that people call notes."""

VERDICTS = {
    "little": (
        "That is little: it can pick up some of your words, hardly your manner. Add "
        "more if you can."
    ),
    "enough": "That is enough to pick up how you write.",
    "plenty": "That is plenty.",
}

TOO_LITTLE = (
    "This is too little to learn from. Some of the text is kept aside, to measure "
    "whether learning helps: add a few more notes, or one longer text."
)

WHO = (
    "There are several people in this text. Choose who you are: only your own words "
    "are learnt."
)

RISK = "What is learnt can be repeated word for word, to whoever talks to it."


def report(found: Any, steps: int, plain: Callable[[str], str]) -> str:
    """A preview as HTML: what matters in a few sentences, all else folded.

    Args:
        found: The `Preview`.
        steps: The steps that it is enough for.
        plain: Takes names of hidden folders from a text.
    """
    notes = [plain(words.page(text)) for text in preview_text.notes(found)]
    held = [plain(words.page(text)) for text in preview_text.holds(found)]
    return "".join(
        [
            f'<p class="cm-headline">{render.escape(headline(found, steps))}</p>',
            render.note(VERDICTS[sufficiency.amount(steps)]),
            _speakers(found),
            _secrets(found, plain),
            *map(render.problem, notes),
            _excerpts(found.examples[:EXCERPTS]),
            _folded("What exactly is learnt", _samples(found.samples)),
            _folded("Everything that was found", _table(found), _held(held)),
        ]
    )


def headline(found: Any, steps: int) -> str:
    """How much there is: `20 notes, 6,390 words: enough for about 200 steps`."""
    count = sum(found.documents.values())
    what = f"{count:,} {noun(found)}{'s' * (count != 1)}"
    size = f"{found.words:,} words"
    if found.characters > BLANKS * max(found.words, 1):
        size = f"{found.characters:,} characters"
    about = sufficiency.tidy(steps)
    enough = f"enough for about {about:,} step{'s' * (about != 1)} of learning"
    return f"{what}, {size}: {enough}."


def noun(found: Any) -> str:
    """What people call one document of a text."""
    if found.kind == "chat":
        return "conversation"
    files = set(found.reading.files) if found.reading is not None else set()
    return "note" if files and files <= NOTES else "document"


def _speakers(found: Any) -> str:
    reading = found.reading
    if reading is None or not reading.me:
        return ""
    count = sum(reading.speakers[name].count for name in reading.me)
    others = len(reading.speakers) - len(reading.me)
    text = f"You are {' and '.join(reading.me)}, with {count:,} messages."
    more = f" The other {others:,} are read, and not learnt." if others > 0 else ""
    return render.note(text + more)


def _secrets(found: Any, plain: Callable[[str], str]) -> str:
    if found.redacted:
        return render.note(f"Replaced: {secrets.listed(found.redacted)}.")
    if not found.secrets:
        return render.note("No passwords, keys or card numbers were found in it.")
    where = ", ".join(map(plain, found.secret_places))
    return (
        '<div class="cm-warning" role="alert"><strong>'
        f"{render.escape(f'It holds {secrets.listed(found.secrets)}.')}</strong> "
        f"{render.escape(RISK)}</div>"
        + _folded("Where they are", render.listing([where], "Places with secrets"))
    )


def _excerpts(examples: Iterable[str]) -> str:
    shown = list(examples)
    label = "Three excerpts" if len(shown) == EXCERPTS else "Excerpts"
    return _folded(label, render.listing(shown, "Beginnings of some documents"))


def _samples(samples: Iterable[Any]) -> str:
    parts = [[(part.text, part.target) for part in sample] for sample in samples]
    return render.masked(parts, "Underlined is what it learns to write")


def _table(found: Any) -> str:
    purpose = {
        "train": "to learn from",
        "valid": "kept aside to teach who speaks when",
        "test": "kept aside to measure with",
    }
    rows = [
        (purpose[split], f"{found.documents[split]:,}", _tokens(found, split))
        for split in SPLITS
    ]
    return render.table(("what for", f"{noun(found)}s", "tokens"), rows, "Divided")


def _tokens(found: Any, split: str) -> str:
    return "not counted" if found.tokens is None else f"{found.tokens.get(split, 0):,}"


def _held(lines: Iterable[str]) -> str:
    return render.listing(lines, "What was read, and what it holds")


def _folded(title: str, *inner: str) -> str:
    body = "".join(inner)
    if not body:
        return ""
    title = render.escape(title)
    return f'<details class="cm-fold"><summary>{title}</summary>{body}</details>'
