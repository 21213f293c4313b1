"""Opens the exchange of a federation's URI."""

from __future__ import annotations

import re
from pathlib import Path

from comigs_mlx import registry
from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.base import Exchange, Say
from comigs_mlx.federation.formats.redaction import clean

PATH = "folder"
"""The exchange of a text without a scheme."""


def open_exchange(
    uri: str | Path,
    *,
    patience: float = 300.0,
    say: Say = lambda line: None,
) -> Exchange:
    """Make the exchange at `uri`; nothing is read or requested yet.

    The Hub's address and the token are those of its library (HF_ENDPOINT, HF_TOKEN, or
    a login).

    Args:
        uri: The federation's address: `hf://owner/repo`, `hf://owner/repo@branch`, the
            path of a folder, or a URI whose scheme another package has registered.
        patience: The seconds that one call goes on trying.
        say: Receives a sentence whenever something is waited for.

    Raises:
        FederationError: If `uri` is none of these.
        ConfigError: If the scheme's plugin cannot be imported.
    """
    text = str(uri)
    plugin = registry.load("exchange", _scheme(text))
    exchange: Exchange = plugin.connect(text, patience=patience, say=say)
    return exchange


def _scheme(text: str) -> str:
    """Return the name of the exchange for `text`; one letter before `:` is a drive."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text)
    if text.startswith("hf:"):
        return "hf"  # its own error says how such a URI is written
    schemes = [name for name in registry.names("exchange") if name != PATH]
    if match is not None and match[1] in schemes:
        return match[1]
    no_path = not text.strip() or "\0" in text or "://" in text
    if no_path or re.fullmatch(r"[A-Za-z]{2,}:.*", text):
        more = "".join(f"{name}://..., " for name in schemes if name != "hf")
        raise FederationError(
            f"{clean(text)!r} is no federation: write hf://owner/repo, {more}or a "
            "folder's path"
        )
    return PATH
