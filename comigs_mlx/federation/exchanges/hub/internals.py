"""The private names of huggingface_hub that this program needs.

Everything else goes by the library's public interface. `check` looks for these names
once, when the library is set up, so that a release without one of them is named in one
sentence before anything is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comigs_mlx.errors import FederationError

FACTORY = "_GLOBAL_CLIENT_FACTORY"
"""The factory of HTTP clients can be set in a public way, but not read. We must read
it, because it may be the user's own, with a proxy or certificates. Changing the client
that `get_session` returns is no way round: after an error of TLS the library makes
another in the middle of a call, and that one would have no time limits."""

IGNORED, COMMITTED = "_should_ignore", "_is_committed"
"""`create_commit` leaves out files that a .gitignore names and makes no commit where
nothing changes; its answer shows neither. To ask the Hub would cost every commit
another request, and could be answered from a copy that lags behind."""


def client_factory() -> Callable[[], Any]:
    """Return the function that makes the library's HTTP clients now."""
    from huggingface_hub.utils import _http

    factory: Callable[[], Any] = getattr(_http, FACTORY)
    return factory


def is_ignored(operation: Any) -> bool:
    """Tell whether a .gitignore in the repository kept an added file out."""
    return bool(getattr(operation, IGNORED))


def is_committed(operation: Any) -> bool:
    """Tell whether an added file was part of a commit that was really made."""
    return bool(getattr(operation, COMMITTED))


def check() -> None:
    """Raise `FederationError` where the library lacks one of the names above."""
    import huggingface_hub
    from huggingface_hub.utils import _http

    operation = huggingface_hub.CommitOperationAdd
    names = (_http, FACTORY), (operation, IGNORED), (operation, COMMITTED)
    missing = [name for owner, name in names if not hasattr(owner, name)]
    if missing:
        raise FederationError(
            f"huggingface_hub {huggingface_hub.__version__} has no {missing[0]}, which "
            "this program needs: pip install 'huggingface_hub==2.4.0'"
        )
