"""Signs contributions with Ed25519, for federations that ask for it.

A signature binds a contribution to a participant's key where an account does not (a
shared folder, a proxy). The private key stays in the user's configuration folder.
This needs the package `cryptography`: `pip install 'comigs-mlx[federation]'`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
from pathlib import Path
from typing import Any

from comigs_mlx.errors import FederationError
from comigs_mlx.federation.formats.contribution import Contribution

INSTALL = "pip install 'comigs-mlx[federation]'"


def key_file() -> Path:
    """Return the path of the user's key (`$XDG_CONFIG_HOME` or `~/.config`)."""
    root = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(root) / "comigs_mlx" / "keys" / "contributions.pem"


def load_key(file: Path | None = None) -> Any:
    """Load the private key in `file`, by default the user's; make it if there is none.

    Raises:
        FederationError: If other users may read it, it is not an Ed25519 key, or the
            package is missing.
    """
    path = key_file() if file is None else file
    if not path.exists():
        _make_key(path)
    if path.stat().st_mode & 0o077:
        raise FederationError(f"other users may read {path}: chmod 600 {path}")
    private = _ed25519().Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise FederationError(f"{path} holds no key: move it away") from error
    if not isinstance(key, private):
        raise FederationError(f"{path} holds no Ed25519 key: move it away")
    return key


def public_key(key: Any) -> str:
    """Return the public half of a private key as the manifest has it, 64 hex digits."""
    return str(key.public_key().public_bytes_raw().hex())


def sign(contribution: Contribution, key: Any) -> Contribution:
    """Sign the contribution with a private key."""
    signature = key.sign(contribution.signed_bytes()).hex()
    return dataclasses.replace(contribution, signature=signature)


def verify(contribution: Contribution, public: str) -> bool:
    """Tell whether the owner of the public key (hex) signed the contribution.

    Raises:
        FederationError: If the package is missing.
    """
    keys = _ed25519()
    from cryptography.exceptions import InvalidSignature

    try:
        key = keys.Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(
            bytes.fromhex(contribution.signature or ""), contribution.signed_bytes()
        )
    except (InvalidSignature, ValueError):
        return False
    return True


def require() -> None:
    """Raise `FederationError`, with the install command, if the package is missing."""
    _ed25519()


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise FederationError(
            f"signatures need the package cryptography: {INSTALL}"
        ) from error
    return ed25519


def _make_key(path: Path) -> None:
    """Write a new key; if two processes do, both use the one written first."""
    keys = _ed25519()
    from cryptography.hazmat.primitives import serialization

    content = keys.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(8)}.tmp")
    # `files.replacing` would do, but nobody else may open a key from its first moment.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
