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
    account: str | None = None,
    endpoint: str | None = None,
    token: str | bool | None = None,
    patience: float = 300.0,
    say: Say = lambda line: None,
) -> Exchange:
    """The exchange at `uri`; nothing is read or asked yet.

    Args:
        uri: `hf://owner/repo`, `hf://owner/repo@branch`, or a folder's path.
        account: A name for those who write to a folder.
        endpoint: The Hub's address; None leaves it to the library (HF_ENDPOINT).
        token: The Hub's token; None leaves it to the library (HF_TOKEN, login).
        patience: Seconds to go on trying for, in one call.
        say: Told whenever something is waited for.

    Raises:
        FederationError: If `uri` is neither.
    """
    text = str(uri)
    if "://" not in text and not text.startswith("hf:"):
        return FolderExchange(_folder(text), account=account, patience=patience)
    from comigs_mlx.federation.exchanges.hub.exchange import HubExchange

    repo, branch = hub_address(text)
    return HubExchange(repo, branch, endpoint, token, patience, say)


def _folder(text: str) -> Path:
    if not text.strip() or "\0" in text or re.fullmatch(r"[A-Za-z]{2,}:.*", text):
        raise FederationError(
            f"{clean(text)!r} is no federation: write hf://owner/repo or a folder's "
            "path"
        )
    return Path(text).expanduser()
