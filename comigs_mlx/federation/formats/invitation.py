"""The invitation to a federation: one line that people read and a program parses.

    comigs invitation to hf://ann/notes, base model org/model, from ann, id 0f3c...

It goes by mail or chat, so whatever stands around it is overlooked, and its blanks may
have become the line breaks and "> " of a quotation. Blanks and commas inside the
address and the model's name are written %20 and %2C. `from` and `id` may be missing.
The id names the federation that was meant: `check` notices another one at the address.
"""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.formats.manifest import ACCOUNT, ID, Manifest

MOST = 100_000
"""The characters of a pasted text that are looked through."""

LINE = re.compile(
    r"comigs invitation to (?P<uri>[^\s,]{1,2000}), base model (?P<base>[^\s,]{1,2000})"
    rf"(?:, from (?P<sender>{ACCOUNT}))?(?:, id (?P<id>{ID})(?![0-9a-f]))?",
    re.IGNORECASE,
)

HELP = (
    'this is no invitation: paste the whole line that begins with "comigs invitation '
    'to", as whoever founded the federation has it'
)


@dataclass(frozen=True)
class Invitation:
    """What an invitation says.

    Attributes:
        uri: The address of the federation, as `open_exchange` takes it.
        base: The id of the base model.
        sender: The name of who invites; None where nobody is named.
        id: The id of the federation; None where it has none.
    """

    uri: str
    base: str
    sender: str | None = None
    id: str | None = None

    def __str__(self) -> str:
        """The one line."""
        parts = [f"comigs invitation to {_spelled(self.uri)}"]
        parts.append(f"base model {_spelled(self.base)}")
        parts += [f"from {self.sender}"] if self.sender else []
        parts += [f"id {self.id}"] if self.id else []
        return ", ".join(parts)

    def check(self, manifest: Manifest) -> None:
        """Raise `FederationError` where the address has another federation now."""
        if self.id is not None and manifest.id != self.id:
            raise FederationError(
                f"the federation at {self.uri} is another one than you were invited "
                "to: ask who invited you for a new invitation"
            )


def of(uri: str, manifest: Manifest, sender: str | None = None) -> Invitation:
    """The invitation to a federation.

    Args:
        uri: The address of the federation.
        manifest: The manifest that its participants agree on.
        sender: The name of who invites; None names the founder, where one is known.
    """
    return Invitation(
        uri, manifest.base_model.id, sender or manifest.founder, manifest.id
    )


def parse(text: str) -> Invitation:
    """The first invitation in a text.

    Raises:
        FederationError: If there is none.
    """
    joined = " ".join(re.sub(r"\n[>|\s]*", "\n", text[:MOST]).split())
    if (found := LINE.search(joined)) is None:
        raise FederationError(HELP)
    uri, base = (urllib.parse.unquote(found[name]) for name in ("uri", "base"))
    id = found["id"]
    return Invitation(uri, base, found["sender"], None if id is None else id.lower())


def _spelled(text: str) -> str:
    """A text without blanks, commas and control characters."""
    return "".join(
        urllib.parse.quote(c, safe="")
        if c in "%," or not c.isprintable() or c == " "
        else c
        for c in text
    )
