"""The URI of a federation on the Hub."""

from __future__ import annotations

import re

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.formats.redaction import clean

HUB = re.compile(
    r"hf://(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<branch>[\w][\w./-]*))?", re.ASCII
)


def hub_address(uri: str) -> tuple[str, str]:
    """`hf://owner/repo@branch` -> repository and branch (`main` when left out).

    Raises:
        FederationError: If it does not read so; the text shows the right form.
    """
    match = HUB.fullmatch(uri)
    found = None if match is None else (match["repo"], match["branch"] or "main")
    if found is None or any(bad in uri for bad in ("..", "--", ".git/", "@/")):
        raise FederationError(
            f"{clean(uri)!r} is no federation: write hf://owner/repo, "
            "hf://owner/repo@branch, or the path of a folder"
        )
    return found
