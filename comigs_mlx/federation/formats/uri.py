"""The URI of a federation on the Hub."""

from __future__ import annotations

import re

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.formats.redaction import clean

HUB = re.compile(
    r"hf://(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<branch>[\w][\w./-]*))?", re.ASCII
)


def hub_address(uri: str) -> tuple[str, str]:
    """Split `hf://owner/repo@branch` into repository and branch (default `main`).

    Raises:
        FederationError: If the URI has another form; the text shows the right one.
    """
    match = HUB.fullmatch(uri)
    address = None if match is None else (match["repo"], match["branch"] or "main")
    if address is None or any(bad in uri for bad in ("..", "--", ".git/", "@/")):
        raise FederationError(
            f"{clean(uri)!r} is no federation: write hf://owner/repo, "
            "hf://owner/repo@branch, or the path of a folder"
        )
    return address
