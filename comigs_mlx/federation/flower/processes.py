"""Flower's programs as processes of ours: a SuperLink, a SuperNode, and one run.

None of them installs anything, reports its use or looks for updates, and all end with
the process that started them. What they print goes to a log.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from comigs_mlx.environment import NO_TELEMETRY, VERSION
from comigs_mlx.errors import FederationError
from comigs_mlx.federation.exchanges.base import Say
from comigs_mlx.federation.flower import local
from comigs_mlx.federation.formats.strict_json import visible

SHIMMED = {"flwr-clientapp": "comigs_mlx.federation.flower.client_process"}
REFUSED = [
    f"flwr-{name}"
    for name in ("agentapp", "connector", "model", "serverapp", "simulation")
]
"""Programs that a SuperNode could be made to start, and which none of ours does."""

LINK = "comigs"
"""The name of the SuperLink in Flower's own configuration."""

START_SECONDS, END_SECONDS = 180.0, 15.0

LOOK_SECONDS = 1.0
AGAIN_SECONDS, MOST_AGAIN_SECONDS = 2.0, 30.0
"""The pause before a program that has ended is started again; it doubles each time."""

STEADY_SECONDS, MOST_FAILURES = 60.0, 8
"""A program that ends so often, each time within so many seconds, is given up.

A SuperLink takes a key again only when the SuperNode that had it has been silent for 60
seconds, so that one that was killed fails a few times first.
"""

LAST_LINES = 30
"""How far back in a log an error counts as the reason for an end."""

COLOUR = re.compile(r"\x1b\[[0-9;]*m")

APP = f"""\
[build-system]
requires = []
build-backend = ""

[project]
name = "comigs-flower"
version = "{VERSION}"
description = "Carries the files of a comigs-mlx federation"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "comigs-mlx"

[tool.flwr.app.components]
serverapp = "comigs_mlx.federation.flower.server_app:app"
clientapp = "comigs_mlx.federation.flower.client_app:app"

[tool.flwr.app.config]
socket = ""
"""
"""The app that is sent to the SuperNodes. It is code of the installed package alone."""


@dataclass(frozen=True)
class Link:
    """A SuperLink and how to reach it.

    Attributes:
        address: Its host and port.
        insecure: Whether without TLS.
        certificates: The file of the certificates that its own is checked against; None
            takes those of the system.
    """

    address: str
    insecure: bool
    certificates: Path | None = None


class Running:
    """A program of Flower that runs for the time of a block.

    Args:
        argv: The program and its arguments.
        env: Its environment.
        log: The file that takes what it prints.
    """

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], log: Path):
        self.name, self.log = _name(argv), log
        supervised = [sys.executable, "-m", "comigs_mlx.federation.flower.supervised"]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*supervised, *argv],
                stdin=subprocess.PIPE, stdout=output, stderr=output, env=dict(env),
            )  # fmt: skip
        self.pid = self._process.pid

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *raised: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
            return
        self._process.kill()
        self._process.wait()

    def check(self) -> None:
        """Raise `FederationError` if it has ended."""
        if (status := self._process.poll()) is not None:
            raise FederationError(
                f"{self.name} has ended ({status}): {last_line(self.log)}"
            )


class KeptRunning:
    """A program that is started again when it ends, for the time of a block.

    Args:
        start: Starts it.
        say: It is told that it has ended.
    """

    def __init__(self, start: Callable[[], Running], say: Say):
        self._start, self._say = start, say
        self._over, self._failed = threading.Event(), 0
        self._problem: FederationError | None = None
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> KeptRunning:
        self._running, self._since = self._start(), time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        self._thread.join()
        self._running.__exit__(*raised)

    def check(self) -> None:
        """Raise `FederationError` if it ends again and again, and is given up."""
        if self._problem is not None:
            raise self._problem

    def _keep(self) -> None:
        while self._problem is None and not self._over.wait(LOOK_SECONDS):
            try:
                self._running.check()
            except FederationError as error:
                self._start_again(error)

    def _start_again(self, error: FederationError) -> None:
        lived = time.monotonic() - self._since
        self._failed = 1 if lived > STEADY_SECONDS else self._failed + 1
        if self._failed > MOST_FAILURES:
            self._problem = error
            self._say(f"{error}; given up after {self._failed} times")
            return
        self._say(f"{error}; it is started again")
        self._running.__exit__()
        pause = min(AGAIN_SECONDS * 2 ** (self._failed - 1), MOST_AGAIN_SECONDS)
        if not self._over.wait(pause):
            self._running, self._since = self._start(), time.monotonic()


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of Flower's programs; their files are in `folder`."""
    programs = str(Path(sys.executable).parent)
    return {
        **os.environ,
        **NO_TELEMETRY,
        "FLWR_HOME": str(folder / "flwr"),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        "PATH": os.pathsep.join([programs, os.environ.get("PATH", "")]),
    }


def check_programs() -> None:
    """Raise `FederationError` where Flower's programs are not beside this Python."""
    folder = Path(sys.executable).parent
    if not (folder / "flower-supernode").exists():
        raise FederationError(
            f"flower-supernode is not in {folder}: pip install 'comigs-mlx[flower]'"
        )


def supernode(link: Link, folder: Path, key: Path | None, log: Path) -> Running:
    """Start a SuperNode whose messages go to the socket in `folder`.

    Args:
        link: The SuperLink.
        folder: The private folder of the participant's process.
        key: The file of the private key that the SuperLink knows it by.
        log: The file that takes what it prints.
    """
    env = environment(folder)
    env["PATH"] = os.pathsep.join([str(_shims(folder)), env["PATH"]])
    certificates = ["--root-certificates", str(link.certificates)]
    argv = [
        "flower-supernode",
        *["--superlink", link.address],
        *["--port", str(free_port())],
        *["--node-config", f'socket="{folder / local.NAME}"'],
        *(["--insecure"] if link.insecure else []),
        *(certificates if link.certificates is not None else []),
        *([] if key is None else ["--auth-supernode-private-key", str(key)]),
    ]
    return Running(argv, env, log)


def superlink(
    host: str, port: int, folder: Path, tls: Sequence[Path], keys: bool, log: Path
) -> Running:
    """Start a SuperLink.

    Args:
        host: The address that it listens at.
        port: The port that it listens at.
        folder: The private folder of the server's process.
        tls: Its certificate, its private key and the certificates to check it by; none
            without TLS.
        keys: Whether only SuperNodes with a registered key may connect.
        log: The file that takes what it prints.
    """
    names = ("--ssl-certfile", "--ssl-keyfile", "--ssl-ca-certfile")
    files = [word for pair in zip(names, map(str, tls), strict=False) for word in pair]
    argv = [
        sys.executable,
        *["-m", "comigs_mlx.federation.flower.link_process"],
        *["--host", host, "--port", str(port)],
        *(files or ["--insecure"]),
        "--disable-runtime-dependency-installation",
        *(["--enable-supernode-auth"] if keys else []),
    ]
    return Running(argv, environment(folder), log)


def reached_at(host: str, port: int) -> str:
    """Return where this machine reaches what listens at `host` and `port`."""
    anywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
    return f"{anywhere.get(host, host)}:{port}"


def check_free(link: Link) -> None:
    """Raise `FederationError` if something listens at an address already."""
    host, _, port = link.address.rpartition(":")
    with contextlib.suppress(OSError):
        socket.create_connection((host.strip("[]"), int(port)), 5.0).close()
        raise FederationError(
            f"something listens at {link.address} already: choose another --port, or "
            "say --superlink if it is a SuperLink of yours"
        )


def await_port(link: Link, running: Running) -> None:
    """Wait until something listens at the address of a SuperLink that was started.

    Raises:
        FederationError: If nothing does within `START_SECONDS`, or the program ends.
    """
    host, _, port = link.address.rpartition(":")
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        running.check()
        with contextlib.suppress(OSError):
            socket.create_connection((host.strip("[]"), int(port)), 1.0).close()
            return
        time.sleep(0.2)
    raise FederationError(
        f"nothing listens at {link.address} after {START_SECONDS:.0f} s: "
        f"{last_line(running.log)}"
    )


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def register(link: Link, folder: Path, keys: Sequence[Path]) -> None:
    """Let the SuperNodes with these public keys connect."""
    for key in keys:
        _flwr(link, folder, "supernode", "register", str(key), LINK)


def start_run(link: Link, folder: Path) -> None:
    """Start our ServerApp, which connects to the socket in `folder`."""
    app = folder / "app"
    app.mkdir()
    (app / "pyproject.toml").write_text(APP, encoding="utf-8")
    setting = f'socket="{folder / local.NAME}"'
    _flwr(link, folder, "run", str(app), LINK, "--run-config", setting)


def _flwr(link: Link, folder: Path, *arguments: str) -> None:
    """Run one command of Flower's command line.

    Raises:
        FederationError: If it fails; with its last line.
    """
    home = folder / "flwr"
    home.mkdir(exist_ok=True)
    certificates = "" if link.certificates is None else str(link.certificates.resolve())
    lines = [f"[superlink.{LINK}]", f'address = "{link.address}"']
    if link.insecure:
        lines.append("insecure = true")
    elif certificates:
        lines.append(f'root-certificates = "{certificates}"')
    (home / "config.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    argv, env = ["flwr", *arguments], environment(folder)
    try:
        done = subprocess.run(
            argv, env=env, capture_output=True, text=True, timeout=START_SECONDS,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise FederationError(
            f"flwr {arguments[0]} has not answered within {START_SECONDS:.0f} s: is "
            "the machine busy, or does something else listen at this port?"
        ) from None
    if done.returncode:
        said = [
            line for line in (done.stdout + done.stderr).splitlines() if line.strip()
        ]
        raise FederationError(f"flwr {arguments[0]}: {said[-1] if said else 'failed'}")


def _name(argv: Sequence[str]) -> str:
    """Return what to call a program in messages."""
    return argv[2].rpartition(".")[2] if argv[1:2] == ["-m"] else Path(argv[0]).name


def last_line(log: Path) -> str:
    """Return the last error that a log names, or its last line, for people."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in COLOUR.sub("", text).splitlines()]
    lines = [line for line in lines if line][-LAST_LINES:]
    errors = [i for i, line in enumerate(lines) if "error" in line.lower()]
    # What is wrong stands in the lines after the one that says that something is.
    last = lines[errors[-1] : errors[-1] + 4] if errors else lines[-1:]
    return visible(" ".join(last))[:300]


def _shims(folder: Path) -> Path:
    """Make a folder of programs that stand before Flower's own on the path."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    python = shlex.quote(sys.executable)
    for name, module in SHIMMED.items():
        _program(programs / name, f'exec {python} -m {module} "$@"')
    for name in REFUSED:
        _program(programs / name, f"echo {name} is not run here >&2; exit 1")
    return programs


def _program(file: Path, line: str) -> None:
    file.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
    file.chmod(0o700)
