"""The federation's folder on the server, which knows whose key a contribution came by.

A folder knows no accounts. Where the SuperLink authenticates its SuperNodes, the server
knows by which of their keys a contribution came, and a participant's name is bound to
the key that first used it, as on the Hub to an account.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from comigs_mlx.federation.exchanges.base import Changes
from comigs_mlx.federation.exchanges.folder import FolderExchange
from comigs_mlx.federation.exchanges.folder_journal import HIDDEN
from comigs_mlx.files import write_json

AUTHORS = "authors.json"


def account_of(public_key: bytes) -> str:
    """Return the name of a SuperNode's key, as an account is named in our files."""
    return f"key-{hashlib.sha256(public_key).hexdigest()[:40]}"


class NodeFolder(FolderExchange):
    """A folder that remembers the account of each file (see `base.Exchange`).

    Attributes:
        giver: The account that the next commits are made for; None: it is not known.
    """

    giver: str | None = None

    def __init__(self, root: Path | str):
        super().__init__(root)
        self._record = self.root / HIDDEN / AUTHORS

    def authors(self, paths: Iterable[str], revision: str) -> dict[str, str | None]:
        """Return the account that each file came from, where it is known."""
        known, there = self._known(), super().authors(paths, revision)
        return {path: known.get(path) for path in there}

    def commit(self, changes: Changes, message: str, parent: str | None = None) -> str:
        """Write all of `changes`, or nothing, and remember whom they came from."""
        known = self._known()
        kept = {p: a for p, a in known.items() if p not in changes}
        new = {} if self.giver is None else dict.fromkeys(changes, self.giver)
        if known != (now := kept | new):
            self._record.parent.mkdir(exist_ok=True)
            # Before the commit: killed in between, no file counts for a wrong account.
            write_json(self._record, now)
        return super().commit(changes, message, parent)

    def _known(self) -> dict[str, str]:
        try:
            known: dict[str, str] = json.loads(self._record.read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return known
