"""From a federation's URI to the exchange that speaks it."""

from __future__ import annotations

import re
from pathlib import Path

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.base import Exchange, Say
from comigs_mlx.federation.exchanges.folder import FolderExchange
from comigs_mlx.federation.formats.redaction import clean
from comigs_mlx.federation.formats.uri import hub_address


def open_exchange(
    uri: str | Path,
    *,
    patience: float = 300.0,
    say: Say = lambda line: None,
) -> Exchange:
    """The exchange at `uri`; nothing is read or asked yet.

    The Hub's address and the token are those of its library (HF_ENDPOINT, HF_TOKEN, or
    a login).

    Args:
        uri: The federation's address: `hf://owner/repo`, `hf://owner/repo@branch`, or
            the path of a folder.
        patience: How many seconds one call goes on trying.
        say: It is told whenever something is waited for.

    Raises:
        FederationError: If `uri` is neither.
    """
    text = str(uri)
    if "://" not in text and not text.startswith("hf:"):
        return FolderExchange(_folder(text), patience=patience)
    from comigs_mlx.federation.exchanges.hub.exchange import HubExchange

    repo, branch = hub_address(text)
    return HubExchange(repo, branch, patience=patience, say=say)


def _folder(text: str) -> Path:
    if not text.strip() or "\0" in text or re.fullmatch(r"[A-Za-z]{2,}:.*", text):
        raise FederationError(
            f"{clean(text)!r} is no federation: write hf://owner/repo or a folder's "
            "path"
        )
    return Path(text).expanduser()
