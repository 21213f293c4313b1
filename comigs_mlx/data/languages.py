"""Guesses in which languages a text is, from its beginning: cheap, and a guess.

The script is told by the blocks of Unicode. Where a script has one common language, the
guess is that language; in Latin letters the most frequent stop words decide.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

BEGINNING = 2_000
"""The characters of a document that are looked at."""

SCRIPTS = (
    ("Latin script", r"A-Za-z\u00c0-\u024f"),
    ("Cyrillic script", r"\u0400-\u052f"),
    ("Greek", r"\u0370-\u03ff"),
    ("Hebrew", r"\u0590-\u05ff"),
    ("Arabic script", r"\u0600-\u06ff\u0750-\u077f"),
    ("Devanagari script", r"\u0900-\u097f"),
    ("Thai", r"\u0e00-\u0e7f"),
    ("Japanese", r"\u3040-\u30ff"),
    ("Chinese", r"\u4e00-\u9fff"),
    ("Korean", r"\uac00-\ud7af\u1100-\u11ff"),
)
"""A name for each script, and the characters of it."""

LETTERS = {name: re.compile(f"[{characters}]") for name, characters in SCRIPTS}

STOP_WORDS = {
    "English": "the and of to is that it for you was with are this have not but",
    "German": "der die und das ist nicht ich zu den ein mit auf eine von auch wir",
    "French": "le les et des est une que pas pour dans vous qui sur avec nous je",
    "Spanish": "el los y que es una por con para las se lo como pero más muy",
    "Italian": "il che di è non una per sono con del della gli anche ma questo mi",
    "Portuguese": "o que não uma para com os você em mais por do da isso também eu",
    "Dutch": "de het een en van ik niet dat zijn voor op met maar ook wij naar",
    "Polish": "nie się jest na że to z jak ale czy dla po tak już tylko być",
    "Swedish": "och att det som jag är på inte för med den har till ett vi om",
    "Turkish": "ve bir bu için çok ne da ile ama var daha gibi ben mi değil olan",
}
"""The most frequent words of ten languages that are written in Latin letters."""

BY_WORD: dict[str, list[str]] = {}
for _language, _words in STOP_WORDS.items():
    for _word in _words.split():
        BY_WORD.setdefault(_word, []).append(_language)

WORD = re.compile(r"[^\W\d_]+")

LEAST_WORDS = 3
"""The stop words that a text must have for a guess."""

NOTHING = "no words"


def guess(text: str) -> str:
    """Return the name of a language, of a script, or `NOTHING`."""
    beginning = text[:BEGINNING]
    counts = {
        name: len(letters.findall(beginning)) for name, letters in LETTERS.items()
    }
    name = max(counts, key=lambda script: counts[script])
    if not counts[name]:
        return NOTHING
    # Japanese is mostly written with Chinese characters; Chinese never with kana.
    if name == "Chinese" and counts["Japanese"] * 10 > counts["Chinese"]:
        return "Japanese"
    return _by_words(beginning) if name == "Latin script" else name


def _by_words(text: str) -> str:
    words: Counter[str] = Counter()
    for word in WORD.findall(text.lower()):
        words.update(BY_WORD.get(word, ()))
    best = words.most_common(1)
    return best[0][0] if best and best[0][1] >= LEAST_WORDS else "Latin script"


def guesses(texts: Iterable[str]) -> dict[str, int]:
    """Count the characters of texts by language, the most frequent first."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts[guess(text)] += len(text)
    return dict(counts.most_common())
