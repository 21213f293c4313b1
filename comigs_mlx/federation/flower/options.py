"""The options of `python -m comigs_mlx.flower`, one class for each action."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from comigs_mlx.config import option

MODE = (
    "plain carries whole contributions; secure shows the server their mean alone, "
    "without checks, signatures and robust aggregators, and both sides must say it"
)
LOG = "file for what Flower's own programs print (default: none is kept)"


@dataclass(frozen=True)
class ClientConfig:
    """Train, and take part in a federation behind a Flower server.

    It starts a SuperNode, which connects to the server's SuperLink, and trains as
    `train --federation` does; every option of `train` can be given too, and the run is
    one like any other: after an interruption, add --resume.

      python -m comigs_mlx.flower client --superlink flower.example.org:443 \\
          --participant ann --data ~/Notes --run runs/notes --rounds 20
      python -m comigs_mlx.flower client --superlink flower.example.org:443 \\
          --node-key ~/.config/comigs_mlx/node --run runs/notes --resume
      python -m comigs_mlx.flower client --superlink 127.0.0.1:8000 --insecure \\
          --participant ann --data ~/Notes --run runs/notes

    The SuperNode runs the code of this package alone, whatever the server sends.
    """

    superlink: str = option("", "address of the server's SuperLink", "HOST:PORT")
    insecure: bool = option(False, "without TLS: for one machine, or inside a tunnel")
    root_certificates: str | None = option(
        None,
        "certificates to check the server's by, in PEM (default: the system's)",
        "FILE",
    )
    node_key: str | None = option(
        None,
        "private key of this SuperNode, whose public key the server has registered "
        "(ssh-keygen -t ecdsa -b 384 -N '' -f FILE)",
        "FILE",
    )
    mode: Literal["plain", "secure"] = option("plain", MODE)
    patience: float = option(
        300.0, "how long to wait for the server's first message", "SECONDS"
    )
    log: str | None = option(None, LOG, "FILE")

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        yield from _address("--superlink", self.superlink)
        if self.insecure and self.node_key is not None:
            yield "--node-key needs TLS: leave out --insecure"
        if self.insecure and self.root_certificates is not None:
            yield "--root-certificates has no effect with --insecure: drop one of them"
        if self.patience <= 0:
            yield f"--patience {self.patience:g} must be above 0"


@dataclass(frozen=True)
class ServerConfig:
    """Serve a federation: ask its participants, close its rounds, keep its folder.

    The folder is made by `sync init`, which also sets quorum, deadline and aggregator;
    it stays a federation like any other, for `sync status` and for who wants it as a
    folder later. Without --superlink a SuperLink is started here.

      python -m comigs_mlx.sync init --federation pool --model demo --quorum 3
      python -m comigs_mlx.flower server --federation pool --rounds 20

    For participants elsewhere, with TLS and registered keys:

      python -m comigs_mlx.flower server --federation pool --host 0.0.0.0 --port 443 \\
          --certificate server.pem --certificate-key server.key --ca ca.pem \\
          --node-keys keys

    --mode secure aggregates securely; see docs/flower.md for what is given up for it.
    """

    federation: str = option("", "folder of the federation", "FOLDER")
    rounds: int = option(20, "rounds to close, and then to end", "R")
    wait: float = option(
        24 * 3600.0, "longest time of one round, after which the server ends", "SECONDS"
    )
    answer: float = option(
        3600.0,
        "how long a participant may train before it is asked again",
        "SECONDS",
    )
    mode: Literal["plain", "secure"] = option("plain", MODE)
    clipping_range: float = option(
        0.25,
        "in secure mode, the largest change of a value in the first round; then a "
        "multiple of the last mean, and never more than this",
        "RANGE",
    )
    host: str = option("127.0.0.1", "address to listen at", "HOST")
    port: int = option(8000, "port to listen at", "PORT", most=65535)
    insecure: bool = option(
        False, "without TLS beyond this machine: only inside a tunnel"
    )
    certificate: str | None = option(None, "certificate of the server, in PEM", "FILE")
    certificate_key: str | None = option(None, "its private key, in PEM", "FILE")
    ca: str | None = option(
        None, "certificates that the server's can be checked by, in PEM", "FILE"
    )
    node_keys: str | None = option(
        None,
        "only SuperNodes with one of the public keys in this folder (*.pub); a "
        "participant's name is bound to the key that first used it (with --superlink, "
        "register them there yourself)",
        "FOLDER",
    )
    superlink: str | None = option(
        None, "use the SuperLink that runs at this address of this machine", "HOST:PORT"
    )
    log: str | None = option(None, LOG, "FILE")

    @property
    def tls(self) -> tuple[str, ...]:
        """The files of TLS, if they are given."""
        files = (self.certificate, self.certificate_key, self.ca)
        return tuple(file for file in files if file is not None)

    def problems(self) -> Iterator[str]:
        """One sentence for each value that cannot work."""
        if not self.federation:
            yield "--federation FOLDER is missing: the folder that sync init has made"
        if self.rounds < 1:
            yield f"--rounds {self.rounds} must be at least 1"
        for name in ("wait", "answer", "clipping_range"):
            if getattr(self, name) <= 0:
                yield f"--{name.replace('_', '-')} must be above 0"
        if self.superlink is not None:
            yield from _address("--superlink", self.superlink)
        yield from self._tls_problems()

    def _tls_problems(self) -> Iterator[str]:
        if self.tls and len(self.tls) < 3 and self.superlink is None:
            yield "TLS needs --certificate, --certificate-key and --ca"
        if self.tls and self.insecure:
            yield "--insecure has no effect with --certificate: drop one of them"
        if self.node_keys is not None and not self.tls:
            yield "--node-keys needs TLS: --certificate, --certificate-key and --ca"
        if not (self.tls or self.insecure or is_loopback(self.host)):
            yield (
                f"--host {self.host} is more than this machine: give --certificate, "
                "--certificate-key and --ca, or --insecure inside a tunnel"
            )


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _address(flag: str, text: str) -> Iterator[str]:
    host, colon, port = text.rpartition(":")
    if not text:
        yield f"{flag} HOST:PORT is missing: the address of the server's SuperLink"
    elif "://" in text or not (host and colon and port.isdecimal()):
        yield f"{flag} {text!r} is no address: write HOST:PORT, without http://"
