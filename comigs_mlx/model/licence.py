"""The licence of a base model, and what it asks of whoever shares what is made of it.

Experts are trained on a base, and licences such as Llama's and Gemma's count them as
derivatives: they go on with a card, an export and a federation. What is said here is
written from the agreements' own words (Llama 3.2 Community License, 1.b; Gemma Terms
of Use, 3.1); it helps to remember, and it is not legal advice.

Nothing here needs MLX.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from comigs_mlx.model.base import Base

DEMO_LICENCE = "apache-2.0"
"""The licence of the embedded demo model, whose folder has no card."""

ID = r"[a-z0-9][a-z0-9.+-]{0,63}"
"""What the name of a licence matches, in full."""

CARD = "README.md"
FILES = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*", "Notice*", "USE_POLICY*")
"""The files that a copy of the model, or of what is made of it, takes along."""

MOST_READ = 2**20
"""Characters of a file that are looked at."""

FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)

TEXTS = (
    (r"apache license\s+version 2\.0", "apache-2.0"),
    (r"\bmit license\b", "mit"),
    (r"meta llama 3 community license agreement", "llama3"),
    (r"llama 2 community license agreement", "llama2"),
    (r"llama ([34](?:\.\d)?) community license agreement", r"llama\1"),
    (r"gemma terms of use", "gemma"),
)
"""How the text of a licence begins, in lower case -> its name."""

# https://huggingface.co/docs/hub/repositories-licenses
HUB_IDS = frozenset(
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m
    bigscience-bloom-rail-1.0 bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd
    bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0
    cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2
    agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research
    intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl
    openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr
    deepfloyd-if-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma
    unknown other
    """.split()
)
"""The licences that the Hub knows by name; it refuses a card with another one."""


@dataclass(frozen=True)
class Licence:
    """The licence of a model.

    Attributes:
        name: The name that the Hub has for it, such as "apache-2.0", or the author's
            own name in lower case; None where nothing says what it is.
        files: The files of the model that a copy takes along.
    """

    name: str | None = None
    files: tuple[Path, ...] = ()

    @property
    def title(self) -> str:
        """The licence as people write it."""
        if self.name is None:
            return "not known"
        if (llama := _llama(self.name)) is not None:
            return f"{llama} Community License"
        return "Gemma Terms of Use" if self.name == "gemma" else self.name

    @property
    def sentence(self) -> str:
        """The licence and its duties in one sentence, for a card or a terminal."""
        return f"The base model's licence: {'; '.join([self.title, *self.duties])}."

    @property
    def mark(self) -> str | None:
        """What the licence wants people to see; None for most."""
        llama = _llama(self.name)
        if llama in (None, "Llama 2"):
            return None
        return f"Built with {'Meta Llama 3' if llama == 'Llama 3' else 'Llama'}"

    @property
    def duties(self) -> tuple[str, ...]:
        """What whoever passes on a derivative must do, a sentence each."""
        if self.name is None:
            return (
                "nothing says under which licence the base model is: read its page "
                "before you share what was trained on it",
            )
        if (llama := _llama(self.name)) is not None:
            return _llama_duties(llama, self.mark)
        if self.name == "gemma":
            return GEMMA
        if "-nc" in self.name:
            return (f"{self.name} allows no commercial use, of what you share either",)
        return ()

    @property
    def metadata(self) -> dict[str, str]:
        """The entries of a model card's front matter; none where it is not known."""
        if self.name is None:
            return {}
        if self.name in HUB_IDS:
            return {"license": self.name}
        return {"license": "other", "license_name": self.name}


GEMMA = (
    "Gemma Terms of Use: pass its use restrictions (section 3.2) on to whoever gets "
    "the model, as terms that bind them, with a copy of the agreement",
    "Gemma Terms of Use: say that the files were modified, and add a text file Notice: "
    '"Gemma is provided under and subject to the Gemma Terms of Use found at '
    'ai.google.dev/gemma/terms"',
)
"""Gemma Terms of Use, section 3.1."""


def of_base(base: Base) -> Licence:
    """Find the licence of a base model in the folder that it was loaded from."""
    return of_folder(base.path)


def of_folder(folder: Path) -> Licence:
    """Find the licence of a base model in its folder; the demo model's is known.

    Its card's front matter goes first, then the text of its licence file, then an
    entry `license` of config.json. A model's family says nothing: SmolLM has Llama's
    architecture and the Apache licence.
    """
    from comigs_mlx.model.demo import demo_folder  # it needs NumPy, --help does not

    files = tuple(sorted({path for name in FILES for path in folder.glob(name)}))
    with contextlib.suppress(OSError):  # no home folder, so no demo model
        if folder == demo_folder():
            return Licence(DEMO_LICENCE, files)
    for source in (_of_card, _of_text, _of_config):
        if (name := source(folder)) is not None:
            return Licence(name, files)
    return Licence(None, files)


def normal(name: Any) -> str | None:
    """A licence's name as it is kept; None for what is no name.

    Args:
        name: The value that a card, a configuration or a user gives.
    """
    if not isinstance(name, str):
        return None
    plain = re.sub(r"[\s_]+", "-", name.strip().lower())
    return plain if re.fullmatch(ID, plain) else None


def _of_card(folder: Path) -> str | None:
    """The licence in the front matter of README.md; `other` has a name of its own."""
    import yaml

    block = FRONT_MATTER.match(_read(folder / CARD))
    if block is None:
        return None
    try:
        values = yaml.safe_load(block[1])
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    name = normal(values.get("license"))
    return normal(values.get("license_name")) or name if name == "other" else name


def _of_text(folder: Path) -> str | None:
    """The licence whose text is in a file LICENSE."""
    with contextlib.suppress(OSError):
        for file in sorted([*folder.glob("LICENSE*"), *folder.glob("LICENCE*")]):
            text = " ".join(_read(file)[:2000].lower().split())
            for pattern, name in TEXTS:
                if match := re.search(pattern, text):
                    return match.expand(name)
    return None


def _of_config(folder: Path) -> str | None:
    import json

    with contextlib.suppress(ValueError, RecursionError):
        values = json.loads(_read(folder / "config.json"))
        return normal(values.get("license")) if isinstance(values, dict) else None
    return None


def _read(file: Path) -> str:
    """The beginning of a text file; empty where there is none."""
    try:
        with file.open(encoding="utf-8-sig", errors="replace") as opened:
            return opened.read(MOST_READ)
    except OSError:
        return ""


def _llama(name: str | None) -> str | None:
    """Which Llama a licence is for, such as "Llama 3.2"; None for all others."""
    match = re.fullmatch(r"llama-?(\d(?:\.\d)?)", name or "")
    return None if match is None else f"Llama {match[1]}"


def _llama_duties(llama: str, mark: str | None) -> tuple[str, ...]:
    """Section 1.b of the Community Licenses; that of Llama 2 asks for less."""
    meta = "Meta " if llama == "Llama 3" else ""
    agreement = f"{meta}{llama} Community License"
    hand_on = (
        f"{agreement}: give a copy of the agreement to whoever gets the model, with a "
        f'text file Notice: "{meta}{llama} is licensed under the {agreement}, '
        'Copyright (c) Meta Platforms, Inc. All Rights Reserved."'
    )
    if mark is None:
        return (hand_on,)
    begin = llama if meta else "Llama"
    return (
        f'{agreement}: show "{mark}" where people see it, and begin the name of what '
        f'you share with "{begin}"',
        hand_on,
    )
