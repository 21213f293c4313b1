"""The app's own options, and who may reach it."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from comigs_mlx.config import option
from comigs_mlx.errors import ConfigError
from comigs_mlx.serving.access import is_local

LEAST_PASSWORD = 8
"""Characters a password must have."""

UNTYPED = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode categories that no keyboard makes: controls, zero width, unassigned."""

USER = "me"
"""The name to sign in with where there is a password."""


@dataclass(frozen=True)
class AppConfig:
    """Open a page on this machine: chat, see who speaks, train and share.

    It listens on this machine alone. To reach it from another one, give it a password
    and an encrypted way, such as an SSH tunnel: the page itself speaks plain HTTP.

      python -m comigs_mlx.app
      python -m comigs_mlx.app --runs ~/runs --port 8000
      python -m comigs_mlx.app --host 0.0.0.0 --password-file ~/.comigs-password
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
        if not self.address or re.search(r"[\s/@?#\x00-\x1f]", self.address):
            yield f"--host {self.host!r} is no address: leave it out, or give 127.0.0.1"
        elif not self.local and self.password_file is None:
            yield (
                f"--host {self.host} would let others in: add --password-file FILE, or "
                "leave --host out"
            )
        if not self.runs.strip():
            yield "--runs is empty: name a folder, or leave it out"
        elif os.path.lexists(self.runs_folder) and not self.runs_folder.is_dir():
            yield f"--runs {self.runs} is no folder: name one, which may be new"

    @property
    def address(self) -> str:
        """The host without the brackets that addresses of pages put around IPv6."""
        inner = re.fullmatch(r"\[(.*)\]", self.host)
        return inner[1] if inner else self.host

    @property
    def name(self) -> str:
        """The host as it stands in the address of a page: `[::1]`."""
        return f"[{self.address}]" if ":" in self.address else self.address

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the page."""
        return is_local(self.address)

    @property
    def url(self) -> str:
        """The page's address, for this machine."""
        every = {"0.0.0.0": "localhost", "[::]": "localhost"}
        return f"http://{every.get(self.name, self.name)}:{self.port}/"

    @property
    def runs_folder(self) -> Path:
        """The folder of runs; it may not exist yet."""
        return Path(self.runs).expanduser().absolute()

    def password(self) -> str | None:
        """The password, if one is wanted.

        Raises:
            ConfigError: If the file cannot be read or the password is too short.
        """
        if self.password_file is None:
            return None
        try:
            path = Path(self.password_file).expanduser()
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"--password-file {self.password_file} cannot be read: write the "
                "password into a text file (UTF-8)"
            ) from error
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if len(lines) > 1:
            raise ConfigError(
                f"--password-file {self.password_file} has {len(lines)} lines: leave "
                "the password alone in it, on one line"
            )
        found = spelled(lines[0] if lines else "")
        if len(found) < LEAST_PASSWORD:
            raise ConfigError(
                f"--password-file {self.password_file}: the password needs at least "
                f"{LEAST_PASSWORD} characters"
            )
        if odd := [c for c in found if unicodedata.category(c) in UNTYPED]:
            raise ConfigError(
                f"--password-file {self.password_file}: the password has a character "
                f"that cannot be typed (U+{ord(odd[0]):04X}): write it anew"
            )
        return found


def spelled(password: str) -> str:
    """A password in the one spelling that is compared.

    An accented letter may be one character or two, and keyboards, editors and file
    systems differ in which they make (Unicode's normal form C makes them one).
    """
    return unicodedata.normalize("NFC", password)
