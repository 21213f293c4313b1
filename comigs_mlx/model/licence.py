"""The licence of a base model, as its files state it, and what it asks of a copy."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from comigs_mlx.model.demo import demo_folder

if TYPE_CHECKING:
    from comigs_mlx.model.base import Base

FILES = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*", "USE_POLICY*")
"""The files that a copy of the model takes along."""

WORDS = (
    ("apache-2.0", r"Apache License\s+Version 2\.0"),
    ("mit", r"\bMIT License\b"),
    ("llama3.2", r"LLAMA 3\.2 COMMUNITY LICENSE"),
    ("llama3.1", r"LLAMA 3\.1 COMMUNITY LICENSE"),
    ("llama3", r"LLAMA 3 COMMUNITY LICENSE"),
    ("llama2", r"LLAMA 2 COMMUNITY LICENSE"),
    ("gemma", r"Gemma Terms of Use"),
)
"""The Hub's name of a licence, and the words that its text begins with."""

DUTIES = {
    "llama": (
        'whoever passes it on shows "Built with Llama", begins the model\'s name with '
        '"Llama", and passes on a copy of the licence'
    ),
    "gemma": (
        "whoever passes it on passes on the Gemma Terms of Use with their restrictions"
    ),
}
"""How the name of a licence begins, and what it asks of whoever passes a model on."""

STATED = re.compile(r"^(license|license_name): *[\"']?([\w.+-]+)[\"']? *$", re.M)


@dataclass(frozen=True)
class Licence:
    """What is known of a base model's licence.

    Attributes:
        name: The Hub's name of it, such as "apache-2.0"; None where no file states it.
        files: The files of the base that a copy takes along.
    """

    name: str | None
    files: tuple[Path, ...] = ()

    @property
    def duties(self) -> str | None:
        """What it asks of whoever passes the model on, where that is known."""
        for begin, text in DUTIES.items():
            if (self.name or "").startswith(begin):
                return text
        return None

    @property
    def sentence(self) -> str:
        """The licence and its duties, in a sentence for a card or a terminal."""
        if self.name is None:
            return (
                "The base model's files state no licence: look at the page that it is "
                "from before you pass this on."
            )
        more = "" if self.duties is None else f": {self.duties}"
        return f"The base model's licence is {self.name}{more}."


def of_base(base: Base) -> Licence:
    """Read the licence in the folder of a base: its README's metadata, or its text."""
    return of_folder(base.path)


def of_folder(folder: Path) -> Licence:
    """Read the licence of a model's folder; the embedded demo model's is known."""
    files = tuple(sorted(path for pattern in FILES for path in folder.glob(pattern)))
    if folder == demo_folder():
        return Licence("apache-2.0", files)
    return Licence(_stated(folder / "README.md") or _recognised(files), files)


def _stated(readme: Path) -> str | None:
    """Return the licence in a model card's metadata, the more exact name first."""
    try:
        _, metadata, _ = readme.read_text(encoding="utf-8").split("---\n", 2)
    except (OSError, ValueError):
        return None
    names: dict[str, str] = dict(STATED.findall(metadata))
    return names.get("license_name") or names.get("license")


def _recognised(files: tuple[Path, ...]) -> str | None:
    """Return the licence whose text one of the files begins with."""
    for file in files:
        try:
            text = file.read_text(encoding="utf-8", errors="replace")[:2000]
        except OSError:
            continue
        for name, words in WORDS:
            if re.search(words, text, re.I):
                return name
    return None
