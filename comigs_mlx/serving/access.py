"""Who may ask: the key, and the names under which the server is asked for.

Every web page that its user opens can send requests to this machine. It cannot read the
answers unless this server allows it (CORS), and it shows in the header Origin; and a
page that has pointed its own name at this machine (DNS rebinding) shows in Host.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from comigs_mlx.errors import ConfigError
from comigs_mlx.serving.refusals import Refusal

LEAST_KEY = 16
"""Characters that a key must have."""

ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@]+")

LOCAL_NAMES = frozenset({"localhost", "host.docker.internal"})
"""Names of this machine, the second one from inside a container on it. No one else can
give them to a page of theirs."""


def is_local(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_key(file: str) -> str:
    """Read the key from a file that holds nothing else.

    Raises:
        ConfigError: If the file cannot be read, or the key is no key. The text never
            says what stands in the file.
    """
    try:
        text = Path(file).expanduser().read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--api-key-file {file} cannot be read: write the key into a text file"
        ) from error
    if not re.fullmatch(r"[!-~]*", text):
        raise ConfigError(
            f"--api-key-file {file} must hold one key on one line: letters, digits and "
            "signs of ASCII, without a space"
        )
    if len(text) < LEAST_KEY:
        raise ConfigError(
            f"--api-key-file {file}: the key needs at least {LEAST_KEY} characters; "
            f"make one with: openssl rand -hex 24 > {file}"
        )
    return text


@dataclass(frozen=True)
class Access:
    """The rules of one server.

    Attributes:
        key: The key that every request must bring; None lets all of this machine ask.
        origins: The web pages that may ask, such as "http://localhost:3000".
        names: The names of this server that a request may use, besides the local ones.
    """

    key: str | None = None
    origins: Sequence[str] = ()
    names: Sequence[str] = ()

    def check_host(self, host: str | None) -> None:
        """Refuse a request that was sent to a name that is not this server's.

        An address is nobody's name: only names can be pointed elsewhere.

        Raises:
            Refusal: If the header Host is missing or names another server.
        """
        name = _without_port(host or "")
        if name in LOCAL_NAMES or name in {each.lower() for each in self.names}:
            return
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            raise Refusal(
                403,
                f"this server is not called {ascii(name)}: ask for it as 127.0.0.1 or "
                "localhost, or start it with --allow-host NAME",
                code="wrong_host",
            ) from None

    def check_origin(self, origin: str | None) -> None:
        """Refuse a web page that was not allowed to ask.

        Raises:
            Refusal: If there is a header Origin that is not one of `origins`.
        """
        if origin is not None and origin not in self.origins:
            raise Refusal(
                403,
                f"the page {ascii(origin)} may not ask this server: start it with "
                "--cors-origin ORIGIN to allow it",
                code="wrong_origin",
            )

    def check_key(self, authorization: str | None) -> None:
        """Refuse a request without the right key, compared in constant time.

        Raises:
            Refusal: If there is a key and the header Authorization lacks it.
        """
        if self.key is None:
            return
        scheme, _, given = (authorization or "").partition(" ")
        same = hmac.compare_digest(
            given.strip().encode("utf-8", "replace"), self.key.encode()
        )
        if scheme.lower() != "bearer" or not same:
            raise Refusal(
                401,
                "the API key is missing or wrong: send it as Authorization: Bearer KEY",
                code="invalid_api_key",
            )


def _without_port(host: str) -> str:
    return re.sub(r":\d+$", "", host.strip()).lower()
