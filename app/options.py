"""The app's own options, and who may reach it."""

from __future__ import annotations

import ipaddress
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from comigs_mlx.config import option
from comigs_mlx.errors import ConfigError

LEAST_PASSWORD = 8
"""Characters a password must have."""

USER = "me"
"""The name to sign in with where there is a password."""


@dataclass(frozen=True)
class AppConfig:
    """Open a page on this machine: chat, see who speaks, train and share.

    It listens on this machine alone. To reach it from another one, give it a password
    and an encrypted way, such as an SSH tunnel: the page itself speaks plain HTTP.

      python -m app
      python -m app --runs ~/runs --port 8000
      python -m app --host 0.0.0.0 --password-file ~/.comigs-password
    """

    host: str = option(
        "127.0.0.1",
        "address to listen on; other than this machine's own needs --password-file",
        "ADDRESS",
    )
    port: int = option(7860, "port to listen on", "PORT")
    runs: str = option("runs", "folder that holds the runs", "DIR")
    password_file: str | None = option(
        None, f"file with the password to sign in as {USER!r}", "FILE"
    )
    model: str = option(
        "demo", "base model to talk to where no run is chosen", "ID|PATH"
    )

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        if not 1 <= self.port <= 65535:
            yield f"--port {self.port} must be from 1 to 65535"
        if not self.local and self.password_file is None:
            yield (
                f"--host {self.host} would let others in: add --password-file FILE, or "
                "leave --host out"
            )

    @property
    def address(self) -> str:
        """The host as sockets take it: an IPv6 address without brackets."""
        return self.host.strip("[]")

    @property
    def named(self) -> str:
        """The host as addresses of pages have it: an IPv6 address in brackets."""
        return f"[{self.address}]" if ":" in self.address else self.address

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the page."""
        try:
            return ipaddress.ip_address(self.address).is_loopback
        except ValueError:
            return self.address == "localhost"

    @property
    def runs_folder(self) -> Path:
        """The folder of runs; it may not exist yet."""
        return Path(self.runs).expanduser().absolute()

    def password(self) -> str | None:
        """The password, if one is wanted.

        Raises:
            ConfigError: If the file cannot be read, or holds no password that can be
                typed in.
        """
        if self.password_file is None:
            return None
        name = f"--password-file {self.password_file}"
        try:
            path = Path(self.password_file).expanduser()
            text = path.read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError, RuntimeError) as error:
            raise ConfigError(
                f"{name} cannot be read: write the password into a text file (UTF-8)"
            ) from error
        if len(text.splitlines()) > 1:
            raise ConfigError(f"{name}: expected one line, the password alone")
        if not text.isprintable():
            raise ConfigError(f"{name}: leave out the character that cannot be typed")
        if len(text) < LEAST_PASSWORD:
            raise ConfigError(
                f"{name}: the password needs at least {LEAST_PASSWORD} characters"
            )
        return as_typed(text)


def as_typed(password: str) -> str:
    """A password in the one form (NFC) in which it is compared.

    Keyboards and files differ in how they write a letter with an accent.
    """
    return unicodedata.normalize("NFC", password)
