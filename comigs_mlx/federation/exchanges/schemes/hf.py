"""hf://owner/repo or hf://owner/repo@branch: a repository on the Hugging Face Hub."""

from __future__ import annotations

from typing import Any

from comigs_mlx.federation.exchanges.base import Exchange, Say
from comigs_mlx.federation.exchanges.hub import exchange
from comigs_mlx.federation.formats.uri import hub_address

SUMMARY = "a repository on the Hugging Face Hub"


def connect(uri: str, *, patience: float, say: Say, **others: Any) -> Exchange:
    """Open the repository and branch that `uri` names; the token decides who
    commits.
    """
    del others
    repo, branch = hub_address(uri)
    return exchange.HubExchange(repo, branch, patience=patience, say=say)
